"""`samsvae`, and `python -m samsvae`: the command line, and how its errors end."""

from __future__ import annotations

import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any, NoReturn

from cyclopts import CycloptsError

from samsvae._deprecated import renamed_options
from samsvae.cli.app import app, check_processes
from samsvae.cli.console import end
from samsvae.cli.streams import check_surroundings, never_failing
from samsvae.errors import (
    FailedJobsError,
    InputError,
    LostProcessError,
    NonFiniteError,
    first_line,
    is_lack_of_memory,
    shown,
)
from samsvae.ops.device import rank

_LESS_MEMORY = (
    "give the process more, leave counts in the file (--on-disk), or take a smaller model"
)


def main() -> None:
    """Run the command line: one line and exit code 2 for errors that users can fix."""
    with never_failing() as output, _stopped_by_signals():
        try:
            _main()
        except SystemExit as ending:
            if ending.code:
                raise
        finally:
            end()
        output.flush()
        if output.lost is not None:
            _fail(1, f"cannot print: {output.lost}; what is written to files is there", debug=False)


def _main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    warnings.showwarning = _note if rank() == 0 else lambda *_, **__: None
    try:
        check_surroundings()
        arguments = renamed_options(arguments)
        check_processes(arguments)
        app(arguments, exit_on_error=False, print_error=False)
    except (InputError, CycloptsError) as error:
        _fail(2, str(error), debug=debug)
    except (NonFiniteError, FailedJobsError, LostProcessError) as error:
        _fail(1, str(error), debug=debug)
    except KeyboardInterrupt as error:
        _fail(130, str(error) or "interrupted", debug=debug)
    except Exception as error:  # noqa: BLE001  an error of ours
        if is_lack_of_memory(error):
            _fail(1, f"out of memory ({first_line(error)}): {_LESS_MEMORY}", debug=debug)
        message = (
            f"internal error, {type(error).__name__}: {error} (please report it; --debug shows the "
            "traceback)"
        )
        _fail(1, message, debug=debug)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM, and the end of the terminal, stop what is done in the way of Ctrl-C.

    Otherwise they would end this process alone, and leave those that it has started.
    """

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    names = ("SIGTERM", "SIGHUP") if current_thread() is main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    ours = [one for one in numbers if signal.getsignal(one) is signal.SIG_DFL]  # nohup ignores it
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _fail(code: int, message: str, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    print("samsvae:", shown(" ".join(message.split()), most=1000), file=sys.stderr)
    sys.exit(code)


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
    print("samsvae: note:", shown(" ".join(str(message).split()), most=1000), file=sys.stderr)


if __name__ == "__main__":
    main()
