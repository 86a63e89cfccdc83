"""The command line.  Exit codes: 0 done, 1 something failed, 2 the arguments or the configuration are wrong."""

from __future__ import annotations

import argparse
import getpass
import platform
import sys
from collections.abc import Sequence

from proxy import __version__
from proxy.errors import ConfigProblems, ProxyError
from proxy.hot import PATH

EXAMPLES = """\
examples:
  switchboard run --config app-config.yaml --config app-config.production.yaml
  switchboard check                      is every plugin's database reachable, and what to do if not
  switchboard routes --json              plugin -> target
  switchboard explain "set role bob"     what a statement does to a session
  switchboard hash-password              make a verifier for switchboard.users

exit codes: 0 done, 1 something failed, 2 the arguments or the configuration are wrong
"""


EXIT_CODES = "exit codes: 0 done, 1 something failed, 2 the arguments or the configuration are wrong"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="switchboard", description="One DSN for every Backstage plugin database.",
                                     epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, plugins: bool = False, listing: bool = False, files: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
        if files:
            made.add_argument("--config", action="append", metavar="FILE",
                              help="an app-config file; repeatable, later ones win (default: as Backstage does)")
        if plugins:
            made.add_argument("plugin", nargs="*", type=_plugin, help="plugin ids (default: all that are configured)")
        if listing:
            made.add_argument("--json", action="store_true", help="for machines")
        return made

    command("run", "Run the daemon.").add_argument("--banner", action="store_true", help="print the routes and a DSN")
    command("check", "Check every target: reachable, TLS, login, rights, exists.", plugins=True, listing=True)
    command("routes", "Show where each plugin's data lives.", plugins=True, listing=True)
    command("provision", "Create missing databases and schemas now.", plugins=True, listing=True)
    shown = command("config", "Show targets and settings with their origins, the reference or the JSON Schema.", listing=True)
    shown.add_argument("--check", action="store_true", help="only check")
    shown.add_argument("--reference", action="store_true", help="every setting with its default")
    shown.add_argument("--schema", action="store_true", help="JSON Schema for editors")
    hashed = command("hash-password", "Make a verifier from a password read from the terminal or standard input.", files=False)
    hashed.add_argument("--md5", metavar="USER", help="an md5 hash for USER instead of SCRAM-SHA-256")
    hashed.add_argument("--iterations", type=_rounds, default=4096, help="PBKDF2 rounds, 4096 or more (default: 4096)")
    explained = command("explain", "Say what SQL does to a session: replayed, served, pinned and why, nothing.",
                        files=False, listing=True)
    explained.add_argument("sql", metavar="SQL", help='one or more statements; "-" reads standard input')
    explained.add_argument("--old-strings", action="store_true", help="as with standard_conforming_strings = off")
    command("version", "Show versions.", files=False)
    return parser


def _plugin(text: str) -> str:
    from proxy.config.database import PLUGIN_ID

    if not PLUGIN_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a plugin id: letters and digits, with single - _ or : between them")
    return text


def _rounds(text: str) -> int:
    if not text.isdigit() or not 4096 <= int(text) <= 10_000_000:
        raise argparse.ArgumentTypeError("expected a number from 4096 to 10000000")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return _dispatch(arguments)
    except ConfigProblems as fault:
        for problem in fault.problems:
            sys.stderr.write(f"{problem}\n")
        return 2
    except ProxyError as fault:
        sys.stderr.write(f"switchboard: {fault.message}\n" + (f"hint: {fault.hint}\n" if fault.hint else ""))
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 1


def _dispatch(arguments: argparse.Namespace) -> int:
    if arguments.command == "hash-password":
        return _hash(arguments)
    if arguments.command == "version":
        sys.stdout.write(f"switchboard {__version__} (Python {platform.python_version()}, {PATH} hot path)\n")
        return 0
    if arguments.command == "explain":
        from proxy.commands.explain import explain

        return explain(arguments)
    if arguments.command == "run":
        from proxy.commands.run import run

        return run(arguments)
    from proxy.commands import inspect

    return {"check": inspect.check_all, "routes": inspect.routes, "provision": inspect.provision,
            "config": inspect.config}[arguments.command](arguments)


def _hash(arguments: argparse.Namespace) -> int:
    from proxy.auth.password import md5_hash
    from proxy.auth.scram import make_verifier

    if sys.stdin.isatty():
        word = getpass.getpass("Password: ")
        if word != getpass.getpass("Again: "):
            sys.stderr.write("switchboard: the passwords differ\n")
            return 1
    else:
        word = sys.stdin.readline().rstrip("\n")
    if not word:
        sys.stderr.write("switchboard: the password is empty\n")
        return 1
    made = md5_hash(arguments.md5, word) if arguments.md5 else str(make_verifier(word, arguments.iterations))
    sys.stdout.write(made + "\n")
    return 0
