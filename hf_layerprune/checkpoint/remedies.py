"""What people are told of an error: what to do about one of the operating system, and never the name of a hidden place."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_layerprune.errors import LayerPruneError

OPEN_FILES = "Close other programs or raise the limit of open files (ulimit -n)."
MEMORY = "Close other programs: there is not enough memory."
PROCESSES = "Close other programs or raise the limit of processes (ulimit -u)."
MEANWHILE = "Something appeared there meanwhile, and is left as it is: choose another name."
WRITING = {
    errno.ENOMEM: MEMORY,
    errno.EAGAIN: PROCESSES,
    errno.ENOSPC: "Free some space or choose another disk.",
    errno.EDQUOT: "Your quota is used up; free some space or choose another disk.",
    errno.EROFS: "Choose a folder on a disk that can be written to.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EMFILE: OPEN_FILES,
    errno.ENFILE: OPEN_FILES,
    errno.ENOTEMPTY: MEANWHILE,
    errno.EEXIST: MEANWHILE,
    errno.ENOTDIR: MEANWHILE,
    errno.EXDEV: "Folders there cannot be renamed (a mount point, a layer of a container); choose a place outside of it.",
    errno.EBUSY: "Choose a folder that is not a mount point itself.",
}
READING = {
    errno.ENOMEM: MEMORY,
    errno.EACCES: "Make it readable for you (chmod, chown).",
    errno.EPERM: "Make it readable for you (chmod, chown).",
    errno.EMFILE: OPEN_FILES,
    errno.ENFILE: OPEN_FILES,
    errno.ENOENT: "Start again; it was there before.",
    errno.ESTALE: "Its network disk has lost it; mount that again.",
}


def to_write(error: OSError) -> str:
    """One sentence for an error that came while an output was written."""
    return WRITING.get(error.errno or 0, "Check the disk.")


def to_read(error: OSError) -> str:
    """One sentence for an error that came while a source was read."""
    return READING.get(error.errno or 0, "Check the disk.")


@contextmanager
def told_as(hidden: Path, name: str) -> Iterator[None]:
    """Within the block an error about a hidden place names what that stands for."""
    try:
        yield
    except LayerPruneError as error:
        if str(hidden) not in str(error):
            raise
        raise type(error)(str(error).replace(str(hidden), name)) from error
