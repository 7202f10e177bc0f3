"""Where the command line prints."""

from rich.console import Console

console = Console(markup=False)  # a name may hold brackets


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False)
