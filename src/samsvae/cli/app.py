"""The command line: the commands of the other modules."""

from collections.abc import Sequence

from cyclopts import App

from samsvae._version import __version__
from samsvae.cli import differences, files, questions, runs
from samsvae.cli.features import features
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
    *(files.inspect, runs.train, runs.evaluate),
    *(questions.effects, questions.discoveries, questions.regulators, questions.programs),
    *(questions.mechanisms, differences.contexts, differences.interactions),
    *(questions.sgrnas, features),
    *(questions.contrast, questions.responders, questions.combinations, questions.simulate),
    *(runs.compare, runs.report, runs.methods, files.reproduce, files.datasets, runs.demo),
):
    app.command(command)


def check_processes(arguments: Sequence[str]) -> None:
    """Raise if several processes were started together for a command that only one can run."""
    name = arguments[0] if arguments else ""
    is_command = name in app and not name.startswith("-")  # --help is for all
    if started_together() and is_command and name != "train":
        raise InputError(
            f"several processes were started together (WORLD_SIZE in the environment), and each "
            f"would run all of samsvae {name}: start it once, without torchrun, which is for "
            "samsvae train"
        )
