"""Set the disk to work on what was written while more is being written, so that the fsync at the end has little to wait for."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

SYNC_FILE_RANGE_WRITE = 2  # Linux's number: begin to write these bytes back, do not wait for them


def start_writeback(handle: int, begin: int, end: int) -> None:
    """Begin to write a file's bytes from `begin` to before `end` to the disk; where the system cannot, nothing happens.

    What goes wrong on the disk is told by the fsync that must follow.
    """
    if (call := _sync_file_range()) is not None:
        call(handle, begin, end - begin, SYNC_FILE_RANGE_WRITE)


@cache
def _sync_file_range() -> Callable[..., int] | None:
    """The system's function, which Python has not."""
    call = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call
