"""The command `hauberk`: one file a command, imported only when it is asked for, so that --help is fast.

gRPC reads its environment when it is imported: the variable that leaves TLS 1.3 alone and the one that keeps
its core quiet are set here, before any command imports it.
"""

import os
from importlib import import_module

import click

from hauberk import __version__
from hauberk.certs.errors import CertsError
from hauberk.cli.errors import CommandFailed
from hauberk.errors import MeshError

CIPHER_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
TLS_1_3_ONLY = "ECDHE-RSA-AES256-GCM-SHA384"
"""The only TLS 1.2 suite left needs an RSA certificate, and the mesh has none; TLS 1.3's are not governed by
it.
"""

VERBOSITY_VARIABLE, SILENT = "GRPC_VERBOSITY", "NONE"
"""What gRPC's core writes to stderr itself, past every logger; what matters comes as a call's status too."""

_COMMANDS = {
    "up": "Run the whole mesh on this machine.",
    "ps": "List the replicas of a running mesh.",
    "restart": "Restart workloads, one replica after another.",
    "call": "Call a method in the mesh.",
    "policy": "Show, check and explain the policies that are enforced.",
    "clients": "List the connected xDS clients.",
    "invite": "Print a join token for a workload.",
    "revoke": "Refuse a workload from now on.",
    "reinstate": "Refuse it no longer.",
    "ca": "Make, show and roll the mesh's roots.",
    "backup": "Save the CA and every database to one file.",
    "restore": "Put a mesh back as a backup has it.",
    "health": "Ask whether a workload serves.",
    "doctor": "Find out what is wrong, and how to mend it.",
    "protos": "Print the include path for protoc.",
    "identity": "Enrol under a name and print the paths of its credentials.",
}
_HIDDEN = {"identity"}


class _Commands(click.Group):
    """Imports a command's module when it is used; until then its name and one line suffice."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _COMMANDS if name not in _HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        os.environ.setdefault(CIPHER_VARIABLE, TLS_1_3_ONLY)
        os.environ.setdefault(VERBOSITY_VARIABLE, SILENT)
        command: click.Command = import_module(f"hauberk.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (CertsError, MeshError) as error:
            raise CommandFailed(str(error)) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="hauberk")
def main() -> None:
    """A gRPC mesh without sidecars: mutual TLS, short-lived identities, policy in the contract.

    \b
    hauberk up                       run the mesh of ./mesh.toml until Ctrl-C
    hauberk up --once                run it, drive its [once] command through it, end
    hauberk COMMAND --help           every command has an example
    """
