"""`hauberk protos`: where protoc finds hauberk/policy/v1/policy.proto and buf/validate/validate.proto."""

from pathlib import Path

import click

import hauberk
from hauberk.cli.options import json_option, print_json


@click.command(
    "protos",
    epilog="""Examples:

    \b
    protoc -I . -I "$(hauberk protos)" --python_out=. my/service.proto
    protoc -I . -I "$(hauberk protos)" -I "$(hauberk protos)/third_party" --python_out=. \\
        my/service_with_rules.proto buf/validate/validate.proto""",
)
@json_option
def command(as_json: bool) -> None:
    """Print the include path for protoc: the folder under which hauberk/policy/v1/policy.proto lies.

    The options for rules (buf/validate/validate.proto) lie under third_party in it.
    """
    folder = (Path(hauberk.__file__).parent / "protos").resolve()
    if as_json:
        print_json({"include": str(folder)})
    else:
        click.echo(str(folder))
