"""How a stage becomes a command: arguments in, one sentence out when something is wrong."""

import errno
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from mnistflow.workspace import WorkflowError

INTERRUPTED = threading.Event()  # by Ctrl-C: TensorFlow may make another exception of it


def run(main: Callable[..., None]) -> None:
    """Call `main` with the command line's arguments, each converted by its annotation (str or Path), and exit.

    Exit status 0 on success, 1 with one line on standard error for a WorkflowError or a place that can't be read or
    written, 2 for a wrong number of arguments, 130 when interrupted. Anything else is a bug and keeps its traceback.
    """
    parameters: list[Any] = list(inspect.signature(main).parameters.values())
    arguments = sys.argv[1:]
    if len(arguments) != len(parameters):
        usage = " ".join(parameter.name.upper() for parameter in parameters)
        sys.exit(_fail(f"usage: python {sys.argv[0]} {usage}", status=2))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)
    try:
        main(*(parameter.annotation(argument) for parameter, argument in zip(parameters, arguments, strict=True)))
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except WorkflowError as error:
        sys.exit(_fail(str(error)))
    except Exception as error:
        if INTERRUPTED.is_set():
            sys.exit(_interrupted())
        number, place = (error.errno, error.filename) if isinstance(error, OSError) else (None, None)
        if number in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            sys.exit(_fail(f"{place or 'a file'}: {os.strerror(number)}; something else is in its place."))
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            sys.exit(_fail(f"{place or 'a file'}: {os.strerror(number)}; make room or permit writing, then run again."))
        raise


def _note(number: int, frame: FrameType | None) -> None:
    INTERRUPTED.set()
    raise KeyboardInterrupt


def _interrupted() -> int:
    return _fail("interrupted; the same command goes on.", status=130)


def _fail(message: str, status: int = 1) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _interrupted()
    elif issubclass(kind, WorkflowError):
        _fail(str(error))
    else:
        sys.__excepthook__(kind, error, trace)


# For what happens before `run` is called: Ctrl-C in the seconds in which a stage imports TensorFlow, no such backend.
sys.excepthook = _hook
