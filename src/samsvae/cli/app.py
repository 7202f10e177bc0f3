"""The command line: a file of `commands` for each command."""

from collections.abc import Sequence

from cyclopts import App

from samsvae._version import __version__
from samsvae.cli.commands.discoveries import discoveries, regulators
from samsvae.cli.commands.effects import combinations, effects, simulate
from samsvae.cli.commands.files import datasets, inspect
from samsvae.cli.commands.mechanisms import programs, responders
from samsvae.cli.commands.reproduce import reproduce
from samsvae.cli.commands.scoring import compare, evaluate, report
from samsvae.cli.commands.training import demo, train
from samsvae.errors import InputError
from samsvae.ops.device import started_together

app = App(
    name="samsvae",
    version=__version__,
    help="Train SAMS-VAE, or a model of its family, on a Perturb-seq screen, score it, and ask it "
    "what perturbations do. "
    "Any command takes --debug, which shows the traceback of an error.",
    help_on_error=False,
    suppress_keyboard_interrupt=False,
)
COMMANDS = (
    inspect,
    train,
    evaluate,
    effects,
    discoveries,
    regulators,
    programs,
    responders,
    combinations,
    simulate,
    compare,
    report,
    reproduce,
    datasets,
    demo,
)
for command in COMMANDS:
    app.command(command)


def check_processes(arguments: Sequence[str]) -> None:
    """Raise if each of several processes that were started together is to do the whole work."""
    name = arguments[0] if arguments else ""
    works = name in app and not name.startswith("-")  # --help is for all
    if started_together() and works and name != train.__name__:
        raise InputError(
            f"several processes were started together (WORLD_SIZE in the environment), and each "
            f"would run all of samsvae {name}: start it once, without torchrun, which is for "
            "samsvae train"
        )
