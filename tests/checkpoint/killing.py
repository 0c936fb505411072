"""Let a copy of this process work and die: before one of its steps on the file system, or at some moment.

A step is a call that changes something; one that only reads finds the disk as the step before left it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable
from typing import Any

STEPS = ("open", "write", "pwrite", "ftruncate", "fsync", "mkdir", "rename", "unlink", "rmdir", "close")


def changes(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call is a step: all are, but for the opening and closing of what is only read."""
    if name == "open":
        return bool(args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return name != "close" or fcntl.fcntl(args[0], fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def die_at(step: int) -> Callable[[], int]:
    """Patch this process so that it kills itself before the `step`-th call; returns a function that counts the calls so far."""
    calls = 0

    def patched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            if changes(name, args):  # which other threads do not, so that no call is lost
                calls += 1
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return call

    for name in STEPS:
        setattr(os, name, patched(name, getattr(os, name)))
    return lambda: calls


def in_a_fork(work: Callable[[], int]) -> tuple[int, list[int]]:
    """Run `work` in a copy of this process; returns its exit status as `waitpid` gives it, and the number it returned, if any."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(work()).encode())
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(writing)
    answer = os.read(reading, 40)
    os.close(reading)
    return status, [int(number) for number in answer.split()]


def die_within(seconds: float, work: Callable[[], object]) -> None:
    """Run `work` in a copy of this process, and kill that after so many seconds, if it has not ended by then."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
