"""Where the command line prints."""

from rich.console import Console

from samsvae.errors import shown

console = Console(markup=False, emoji=False)  # a name may hold brackets, or be like HLA:b:27


def say(text: str) -> None:
    """Print lines as they are, but for what would steer the terminal."""
    lines = (shown(line, most=1000) for line in text.split("\n"))
    console.print("\n".join(lines), highlight=False, soft_wrap=True)  # commands can be copied
