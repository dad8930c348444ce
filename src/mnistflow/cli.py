"""How a stage becomes a command: arguments in, one sentence out when something is wrong."""

import errno
import inspect
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from mnistflow.workspace import WorkflowError


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
    try:
        main(*(parameter.annotation(argument) for parameter, argument in zip(parameters, arguments, strict=True)))
    except WorkflowError as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            sys.exit(_fail(f"{error.filename or 'a file'}: {error.strerror}; something else is in its place."))
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        sys.exit(_fail(f"{error.filename or 'a file'}: {error.strerror}; make room or permit writing, then run again."))
    except KeyboardInterrupt:
        sys.exit(_interrupted())


def _interrupted() -> int:
    return _fail("interrupted; run `dvc repro` to go on.", status=130)


def _fail(message: str, status: int = 1) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _interrupted()
    else:
        sys.__excepthook__(kind, error, trace)


# For Ctrl-C before `run` is called, in the seconds in which a stage imports TensorFlow.
sys.excepthook = _hook
