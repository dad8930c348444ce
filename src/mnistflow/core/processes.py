"""Processes that end with the one that started them."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil


@contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process for the time of the block. At the block's end, it is stopped with all that it started.

    A terminal sends Ctrl-C to all of them. SIGTERM, as of `kill` and `docker stop`, reaches one alone.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                stop(process.pid)


def started_by(number: int) -> list[psutil.Process]:
    """The process with this ID and all that it started, directly or not; none where it has ended."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(number)
        return [process, *process.children(recursive=True)]
    return []


def stop(number: int) -> None:
    """End a process and all that it started; those that do not end in half a minute are killed."""
    processes = started_by(number)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=30)
    for process in left:
        process.kill()
