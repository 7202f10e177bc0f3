"""The command line: a file of `commands` for each command."""

from cyclopts import App

from samsvae._version import __version__
from samsvae.cli.commands.combinations import combinations
from samsvae.cli.commands.compare import compare
from samsvae.cli.commands.datasets import datasets
from samsvae.cli.commands.demo import demo
from samsvae.cli.commands.discoveries import discoveries
from samsvae.cli.commands.effects import effects
from samsvae.cli.commands.evaluate import evaluate
from samsvae.cli.commands.inspect import inspect
from samsvae.cli.commands.programs import programs
from samsvae.cli.commands.regulators import regulators
from samsvae.cli.commands.report import report
from samsvae.cli.commands.reproduce import reproduce
from samsvae.cli.commands.responders import responders
from samsvae.cli.commands.simulate import simulate
from samsvae.cli.commands.train import train

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
