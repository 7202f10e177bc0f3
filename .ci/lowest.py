"""The lowest versions that pyproject.toml states, of dependencies and of what the tests need.

`lowest.py` prints them as requirements, one a line, but for torch; `lowest.py torch` that of torch;
`lowest.py installed` what is installed beside what is stated, and fails where these differ (torch
may: see the Makefile).
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
STATED = re.compile(r"([A-Za-z0-9_.-]+)>=([0-9][0-9A-Za-z.]*)")


def lowest(text: str) -> dict[str, str]:
    """Return the lowest version of each dependency that a pyproject.toml states, by its name.

    Raises
    ------
    SystemExit
        If it states none of one.
    """
    read = tomllib.loads(text)
    found = {}
    for requirement in (*read["project"]["dependencies"], *read["dependency-groups"]["test"]):
        match = STATED.fullmatch(requirement)
        if match is None:
            sys.exit(f"{requirement!r} states no lowest version: expected name>=version")
        found[match[1]] = match[2]
    return found


def same(first: str, second: str) -> bool:
    """Whether two versions are one: 1.0 is 1.0.0."""
    return re.sub(r"(\.0)+$", "", first) == re.sub(r"(\.0)+$", "", second.split("+")[0])


def main(asked: str) -> str:
    """Return what is to be printed."""
    stated = lowest(PROJECT.read_text(encoding="utf-8"))
    if asked == "installed":
        found = {name: version(name) for name in stated}
        lines = [f"{name} {found[name]} (stated: {stated[name]})" for name in stated]
        wrong = [n for n in stated if n != "torch" and not same(stated[n], found[n])]
        if wrong:
            lines.append(f"not the lowest: {', '.join(wrong)}; something else asks for more")
            sys.exit("\n".join(lines))
        return "\n".join(lines)
    wanted = [name for name in stated if (name == "torch") == (asked == "torch")]
    return "\n".join(f"{name}=={stated[name]}" for name in wanted)


if __name__ == "__main__":
    print(main("".join(sys.argv[1:])))
