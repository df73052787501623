"""The command line: parse, call one function, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from netx_export.errors import QpsnnError
from qpsnn_lava.cli import ablate, bench, chips, compare, data, flow, netx, setup, sweep
from qpsnn_lava.cli.console import complain

COMMANDS: dict[str, Callable[..., None]] = {
    "run": flow.run,
    "train": flow.train,
    "export": flow.export,
    "inspect": netx.inspect,
    "simulate": netx.simulate,
    "verify": netx.verify,
    "import": netx.import_nir,
    "map": chips.map_network,
    "chips": chips.chips,
    "report": flow.report,
    "compare": compare.compare,
    "plot": compare.plot,
    "sweep": sweep.sweep,
    "ablate": ablate.ablate,
    "doctor": setup.doctor,
}
GROUPS = {"bench": bench.app, "data": data.app}


class _Commands(TyperGroup):
    """Lists the commands before the groups; typer would list them after."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: name in GROUPS)


app = typer.Typer(
    name="qpsnn",
    cls=_Commands,
    help="Quantised, pruned spiking networks: trained in SLAYER, exact on Lava, mapped onto Loihi.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in COMMANDS.items():
    app.command(name)(command)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)

_INTERRUPTED = 130  # 128 + SIGINT
_UsageError: Any = typer.BadParameter.__bases__[0]  # click's UsageError, or that of the copy of click in newer typer


def main() -> None:
    """Runs the command line and exits with the design's codes: 0 ok, 1 usage or internal, 2 does not fit, 3 mismatch."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="qpsnn", standalone_mode=False)
        if code == _INTERRUPTED:  # what newer typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        complain("interrupted; the same command goes on from what was finished.")
        sys.exit(_INTERRUPTED)
    except _UsageError as error:
        hint = f" Try '{error.ctx.command_path} --help'." if error.ctx else ""
        complain(f"{error.format_message().rstrip('.')}.{hint}")
        sys.exit(1)
    except QpsnnError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        complain(f"{error.name} is not installed, and this needs it. 'qpsnn doctor' says how to install it.")
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("QPSNN_DEBUG"):
            raise
        complain(f"internal error ({type(error).__name__}: {error}). Set QPSNN_DEBUG=1 to see where, and please report it.")
        sys.exit(1)
