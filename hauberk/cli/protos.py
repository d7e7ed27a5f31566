"""`hauberk protos`: where protoc finds hauberk/policy/v1/policy.proto and buf/validate/validate.proto."""

from pathlib import Path

import click

import hauberk
from hauberk.cli.options import json_option, print_json


@click.command(
    "protos", epilog='Example:  protoc -I . -I "$(hauberk protos)" --python_out=. my/service.proto'
)
@json_option
def command(as_json: bool) -> None:
    """Print the include path for protoc: the folder under which hauberk/policy/v1/policy.proto lies.

    A contract with rules needs its folder third_party too, and the stub of what it imports from there:
    add -I "$(hauberk protos)/third_party", and buf/validate/validate.proto to the files.
    """
    folder = (Path(hauberk.__file__).parent / "protos").resolve()
    if as_json:
        print_json({"include": str(folder)})
    else:
        click.echo(str(folder))
