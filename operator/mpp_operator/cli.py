"""The command line: arguments in, one shell called, an exit code out. Bad input never gives a traceback.

`console` has the exit codes.
"""

import argparse
import asyncio
import difflib
import errno
import importlib.metadata
import ipaddress
import math
import os
import re
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpp_operator import console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. ^C ends it without a word, also while it is still loading its modules."""
    _leave_no_core_file()
    try:
        return _run_command(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        return console.INTERRUPTED


def _leave_no_core_file() -> None:
    """Our memory holds keys and credentials: a crash must not write it to the disk. Children, Envoy among them,
    inherit this (core(5)); whoever debugs one can raise it for that process with prlimit(1)."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _run_command(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["authz"]:  # it has a parser of its own and knows nothing of this package
        from mpp_authz import server

        return server.main(arguments[1:])
    options = _parser().parse_args(arguments)
    out = console.Console()
    try:
        code: int = options.command(options, out)
    except console.Failure as failure:
        out.problems(failure.problems)
        return failure.code
    except BrokenPipeError:  # whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return console.DONE
    return code


class _Parser(argparse.ArgumentParser):
    """One that names the command whose option is unknown, and the option that was meant."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            allow_abbrev=False, **settings
        )  # half an option would change its meaning with the next one

    def parse_known_args(  # type: ignore[override] # typeshed's overloads say no more than this
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(name, self._option_string_actions, 1)
            fix = f"is {near[0]} meant?" if near else "--help shows them"
            self.error(f"expected an option or argument of this command, got {ascii(name)[:80]}; {fix}")
        return found, unknown


def _parser() -> argparse.ArgumentParser:
    from mpp_operator import pay, payments

    parser = _Parser(
        prog="mpp-gateway",
        description="Put a price on any HTTP API.",
        epilog=f"Exit codes: {', '.join(f'{code} {meaning}' for code, meaning in console.MEANINGS.items())}.",
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("mpp-gateway"))
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _run_arguments(commands.add_parser("run", help="serve PaidServices on this machine"))
    _compile_arguments(commands.add_parser("compile", help="write what Envoy and authz would read, and stop"))
    paying = commands.add_parser("pay", help="see what a URL costs, or pay and fetch it")
    pay.add_arguments(paying)
    paying.set_defaults(command=lambda options, _: pay.run(options))
    listing = commands.add_parser("payments", help="what the ledger holds")
    payments.add_arguments(listing)
    listing.set_defaults(command=lambda options, _: payments.run(options))
    _import_arguments(commands.add_parser("import", help="write a PaidService from an OpenAPI description"))
    _bootstrap_arguments(commands.add_parser("bootstrap", help="print the configuration that Envoy starts with"))
    commands.add_parser("authz", help="answer Envoy's Checks (its own --help says more)", add_help=False)
    return parser


# --- run -------------------------------------------------------------------------------------------------


def _inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f", "--file", dest="files", metavar="FILE", type=Path, nargs="+", action="extend", required=True,
        help="a file of PaidServices, or a folder of such files",
    )  # fmt: skip
    parser.add_argument("--config", metavar="FILE", type=Path, help="gateway.yaml: what all services share")
    parser.add_argument(
        "--secrets-dir",
        metavar="DIR",
        type=Path,
        help="secrets as DIR/<namespace>/<name>/<key>; else NAME_KEY in the environment",
    )


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    from mpp_operator import statedir

    _inputs(parser)
    parser.add_argument(
        "--port", metavar="PORT", type=_port, help="listen here instead (default: 4402; 0: any free one)"
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", type=Path, default=statedir.default(os.environ),
        help="ledger, keys and sockets (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--sandbox", action="store_true", help="with a local chain and test money for every offer")
    parser.add_argument("--json", action="store_true", help="print the ready line as JSON")
    parser.add_argument(
        "--concurrency",
        metavar="N",
        type=_count,
        default=os.cpu_count() or 1,
        help="Envoy's worker threads (default: one per CPU)",
    )
    parser.add_argument(
        "--drain",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="for requests in flight at the end (default: 10)",
    )
    parser.add_argument(
        "--metrics", metavar="HOST:PORT", type=_endpoint,
        help="where /metrics, /healthz and /readyz are (default: a free port of 127.0.0.1)",
    )  # fmt: skip
    parser.add_argument(
        "--log-level", default="warning", choices=["debug", "info", "warning", "error"], help="of authz"
    )
    parser.set_defaults(command=_run)


def _run(options: argparse.Namespace, out: console.Console) -> int:
    from mpp_operator import local

    asyncio.run(
        local.run(
            local.Options(
                files=tuple(options.files),
                config=options.config,
                port=options.port,
                state_dir=options.state_dir.absolute(),
                secrets_dir=options.secrets_dir,
                concurrency=options.concurrency,
                sandbox=options.sandbox,
                as_json=options.json,
                drain=options.drain,
                log_level=options.log_level,
                metrics=options.metrics or "",
            ),
            os.environ,
            out,
        )
    )
    return console.DONE


# --- compile ---------------------------------------------------------------------------------------------


def _compile_arguments(parser: argparse.ArgumentParser) -> None:
    _inputs(parser)
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="where to write (default: nowhere)")
    parser.add_argument("--check", action="store_true", help="let the real Envoy look at the result")
    parser.set_defaults(command=_compile)


def _compile(options: argparse.Namespace, out: console.Console) -> int:
    from mpp_operator import envoy, local_secrets, sources

    if options.output is None and not options.check:
        raise console.Failure(console.WRONG_USAGE, "compile: expected -o DIR, --check or both, got neither")
    found = sources.load(sources.expand(options.files), options.config)
    folder = local_secrets.Folder(options.secrets_dir, os.environ)
    compiled = sources.build(found, sources.recipients_only(found, folder))
    for warning in compiled.warnings:
        out.warn(warning)
    files = compiled.compilation.artifacts
    if options.check:
        try:
            complaints = envoy.validate(files)
        except envoy.EnvoyError as error:
            raise console.Failure(console.WRONG_ENVIRONMENT, str(error)) from error
        if complaints:
            raise console.Failure(console.WRONG_INPUT, *(f"envoy: {complaint}" for complaint in complaints))
    if options.output is not None:
        try:
            _write(options.output, files)
        except OSError as error:
            raise console.Failure(
                console.WRONG_ENVIRONMENT,
                f"{options.output}: expected a folder we can write, got: {error.strerror}; "
                "what was there has not changed; choose another with -o",
            ) from error
    out.say(f"revision {compiled.compilation.revision}: {len(found.services)} services, {len(files)} files")
    return console.DONE


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """All of them or none: what can fail (a full disk, say) comes before the first name is given away."""
    from mpp_operator import directory

    fresh: dict[Path, Path] = {}
    try:
        for name, text in sorted(files.items()):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir() and not path.is_symlink():
                raise IsADirectoryError(errno.EISDIR, f"{name} is a folder")
            fresh[path] = path.with_name(f".{path.name}.{os.getpid()}")
            directory.write(fresh[path], text, mode=0o644)
        for path, written in fresh.items():
            written.replace(path)
    finally:
        for written in fresh.values():
            written.unlink(missing_ok=True)


# --- import ----------------------------------------------------------------------------------------------


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("description", metavar="FILE", type=Path, help="OpenAPI 3.0 or 3.1, as JSON or YAML")
    parser.add_argument("--price", metavar="AMOUNT", required=True, help='of each operation, such as "0.05"')
    parser.add_argument("--currency", metavar="NAME", default="pathUSD", help="(default: %(default)s)")
    parser.add_argument(
        "--network", metavar="NAME", default="moderato", help="real money only when named (default: %(default)s)"
    )
    parser.add_argument("--recipient", metavar="ADDRESS", help="who is paid (default: RECIPIENT_ADDRESS says it)")
    parser.add_argument("--upstream", metavar="URL", help="where the API is (default: its first server)")
    parser.add_argument("--name", metavar="NAME", help="of the service and its basePath (default: from the title)")
    parser.add_argument("--namespace", metavar="NAME", default="default", help="(default: %(default)s)")
    parser.add_argument("--host", metavar="HOST", action="append", default=[], help="may be given several times")
    parser.add_argument(
        "--only", metavar="PATTERN", action="append", default=[],
        help="these operations alone: /pets/**, 'GET /pets/{id}' or tag:pets; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--free", metavar="PATTERN", action="append", default=[], help="these cost nothing; as --only"
    )
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to write (default: stdout)")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.set_defaults(command=_import)


def _import(options: argparse.Namespace, out: console.Console) -> int:
    from mpp_operator.importing import command

    return command.run(options, out)


# --- bootstrap -------------------------------------------------------------------------------------------


def _bootstrap_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--instance", type=_name, required=True, help="node id, different for each start of an Envoy"
    )
    parser.add_argument(
        "--address", type=_address, default="127.0.0.1", help="where to listen (default: %(default)s)"
    )
    parser.add_argument("--port", type=_port, default=4402, help="(default: %(default)s)")
    parser.add_argument("--authz-socket", action="append", help="a socket of authz; once for each process")
    parser.add_argument("--admin-socket", default="admin.sock", help="(default: %(default)s)")
    parser.add_argument("--outcomes-file", default="outcomes.log", help="(default: %(default)s)")
    parser.set_defaults(command=_bootstrap)


def _bootstrap(options: argparse.Namespace, out: console.Console) -> int:
    from mpp_operator import bootstrap

    settings = bootstrap.BootstrapSettings(
        instance=options.instance,
        address=options.address,
        port=options.port,
        authz_sockets=tuple(options.authz_socket or ("authz.sock",)),
        admin_socket=options.admin_socket,
        outcomes_file=options.outcomes_file,
    )
    out.result(bootstrap.render(settings).rstrip("\n"))
    return console.DONE


# --- arguments -------------------------------------------------------------------------------------------


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", text):
        raise argparse.ArgumentTypeError(f"expected letters, digits, '.', '_' and '-', got {text!a}")
    return text


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected an IP address such as 127.0.0.1 or ::1, got {text!a}"
        ) from None


def _port(text: str) -> int:
    return int(_number(text, "a port from 0 to 65535", lambda port: port.is_integer() and 0 <= port <= 65535))


def _endpoint(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise argparse.ArgumentTypeError(f"expected an address and a port such as 127.0.0.1:9464, got {text!r}")
    return text


def _count(text: str) -> int:
    return int(_number(text, "a whole number from 1", lambda count: count.is_integer() and count >= 1))


def _seconds(text: str) -> float:
    return _number(text, "seconds from 0 to 3600", lambda seconds: 0 <= seconds <= 3600)


def _number(text: str, expected: str, fits: Callable[[float], bool]) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and fits(number)):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return number


if __name__ == "__main__":
    sys.exit(main())
