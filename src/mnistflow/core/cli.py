"""How a module becomes a command: arguments in, one sentence out when something is wrong."""

import atexit
import errno
import gc
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from mnistflow.core.errors import WorkflowError

# A notebook's figures go elsewhere; Matplotlib would refuse its name when it is imported, so this is set before.
os.environ["MPLBACKEND"] = "agg"
# Set by Ctrl-C or SIGTERM. TensorFlow turns the KeyboardInterrupt of a data generator into an exception of its own.
INTERRUPTED = threading.Event()


def run(main: Callable[..., None], *arguments: Any) -> None:
    """Call `main` with the command line's arguments, each converted by its annotation (str or Path).

    Returns when `main` does; where that fails, exits.

    A command that has options reads its command line itself, and passes on the `arguments` of `main`.

    Exit status 1 with one sentence on standard error for a WorkflowError or a file that can't be read or
    written, 2 for a wrong number of arguments, 130 after Ctrl-C or after SIGTERM, which `kill` and
    `docker stop` send. Any other exception is a bug and keeps its traceback.
    """
    # Python's garbage collector would go through the million objects of TensorFlow and MLflow again and again while
    # they are imported, and once more at the end: a process of both took 5.3 s, and takes 3.1.
    gc.set_threshold(100_000, 50, 50)
    atexit.register(gc.freeze)
    values = arguments or _arguments(main)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        main(*values)
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except Exception as error:
        if INTERRUPTED.is_set():
            sys.exit(_interrupted())
        if sentence := str(error) if isinstance(error, WorkflowError) else _file_sentence(error):
            sys.exit(_fail(sentence))
        raise


def _arguments(main: Callable[..., None]) -> list[Any]:
    """The command line's arguments as `main` takes them; exits with the usage where there are too few or too many."""
    parameters: list[Any] = list(inspect.signature(main).parameters.values())
    required = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    arguments = sys.argv[1:]
    if not len(required) <= len(arguments) <= len(parameters):
        usage = " ".join(parameter.name.upper() for parameter in parameters)
        sys.exit(_fail(f"usage: python {sys.argv[0]} {usage}", status=2))
    return [parameter.annotation(argument) for parameter, argument in zip(parameters, arguments, strict=False)]


def _file_sentence(error: Exception) -> str | None:
    """One sentence for an error of the file system that the user can correct; None for other errors."""
    if not isinstance(error, OSError):
        return None
    file, reason = error.filename or "a file", os.strerror(error.errno or 0)
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return f"{file}: {reason}; move away what has taken its place."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{file}: {reason}; free some space, then run the same command again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{file}: {reason}; give yourself the right to write there, then run the same command again."
    if error.errno == errno.ENOENT and error.filename:
        return f"{file} is missing; `dvc repro` makes the pipeline's outputs."
    return None


def _interrupt(number: int, frame: FrameType | None) -> None:
    INTERRUPTED.set()
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    if not INTERRUPTED.is_set():  # a second signal must not disturb the ending that the first one began
        _interrupt(number, frame)


def _interrupted() -> int:
    return _fail("interrupted; run the same command again to go on.", status=130)


def _fail(message: str, status: int = 1) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
