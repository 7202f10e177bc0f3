"""The command line: its commands, in the order of `samsvae --help`."""

from collections.abc import Sequence

from cyclopts import App

from samsvae._version import __version__
from samsvae.cli.files import datasets, inspect, reproduce
from samsvae.cli.questions import (
    combinations,
    discoveries,
    effects,
    programs,
    regulators,
    responders,
    simulate,
)
from samsvae.cli.runs import compare, demo, evaluate, report, train
from samsvae.errors import InputError
from samsvae.ops.device import started_together

app = App(
    name="samsvae",
    version=__version__,
    help="Train SAMS-VAE, or another model of its family, on a Perturb-seq screen, score it, and "
    "ask it what perturbations do. With --debug, any command shows the traceback of an error.",
    help_on_error=False,
    suppress_keyboard_interrupt=False,
)
for command in (
    *(inspect, train, evaluate, effects, discoveries, regulators, programs, responders),
    *(combinations, simulate, compare, report, reproduce, datasets, demo),
):
    app.command(command)


def check_processes(arguments: Sequence[str]) -> None:
    """Raise if several processes were started together for a command that only one can run."""
    name = arguments[0] if arguments else ""
    is_command = name in app and not name.startswith("-")  # --help is for all
    if started_together() and is_command and name != train.__name__:
        raise InputError(
            f"several processes were started together (WORLD_SIZE in the environment), and each "
            f"would run all of samsvae {name}: start it once, without torchrun, which is for "
            "samsvae train"
        )
