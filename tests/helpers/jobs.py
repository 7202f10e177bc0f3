"""Jobs that only leave a file, fail, or take their worker down."""

from __future__ import annotations

import os
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path

from samsvae.storage.directory import Directory


@dataclass(frozen=True)
class Small:
    """Leaves a file that says in which process, and how often it was begun."""

    place: Path
    name: str
    fails: bool = False
    kills: int = 0
    """How often it takes its worker down before it ends well."""

    @property
    def directory(self) -> Directory:
        return Directory(self.place / self.name)

    @property
    def is_done(self) -> bool:
        return (self.place / f"{self.name}.done").exists()

    @property
    def begun(self) -> int:
        return len(list(self.place.glob(f"{self.name}.begun.*")))

    def run(self) -> None:
        begun = self.begun
        (self.place / f"{self.name}.begun.{begun}").touch()
        warnings.warn("a warning of the job", UserWarning, stacklevel=2)
        if begun < self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails:
            raise ValueError(f"{self.name} cannot be done")
        (self.place / f"{self.name}.done").write_text(str(os.getpid()))
