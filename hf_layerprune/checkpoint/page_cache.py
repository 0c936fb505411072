"""Whether a file's bytes are in the system's page cache, asked without bringing them there."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from functools import cache


def is_cached(handle: int, begin: int, end: int) -> bool:
    """Whether most pages of a file from `begin` to before `end` are in memory; True where the system does not say.

    Linux answers for files that this user owns or may write to, and calls all others cached.
    """
    start = begin - begin % mmap.ALLOCATIONGRANULARITY
    if (ask := _mincore()) is None:
        return True
    try:
        window = mmap.mmap(handle, end - start, flags=mmap.MAP_PRIVATE, offset=start)  # none of its pages is touched
    except (OSError, ValueError):  # no memory to be mapped there, or a file that is shorter by now
        return True
    pages = (ctypes.c_ubyte * -(-(end - start) // mmap.PAGESIZE))()
    # The window ends with this call. Closing it by hand would fail where an interrupt comes while its address is held.
    failed = ask(ctypes.addressof(ctypes.c_char.from_buffer(window)), end - start, pages)
    return bool(failed) or 2 * sum(page & 1 for page in pages) > len(pages)


@cache
def _mincore() -> Callable[..., int] | None:
    """The system's function, which Python has not."""
    call = getattr(ctypes.CDLL(None), "mincore", None) if sys.platform == "linux" else None
    if call is not None:
        call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    return call
