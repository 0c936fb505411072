"""Let two folders change names in one step, where the kernel and the file system can: neither name is ever without a folder."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

AT_FDCWD = -100  # names are relative to the working directory, as everywhere else; the numbers are Linux's
RENAME_EXCHANGE = 2
# No such call, a file system without it, and sandboxes that forbid what they do not know.
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def exchange(one: Path, other: Path) -> bool:
    """Let two existing folders of one file system change names; False, and nothing done, where that is not to be had.

    OSError as the system raises it for everything else that goes wrong.
    """
    code = _renameat2(os.fsencode(one), os.fsencode(other))
    if code in UNSUPPORTED:
        return False
    if code:
        raise OSError(code, os.strerror(code), str(one), None, str(other))
    return True


def _renameat2(one: bytes, other: bytes) -> int:
    """The system's error number, 0 for success. Python has no function of its own for this call."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        return errno.ENOSYS
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return ctypes.get_errno() if call(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE) else 0
