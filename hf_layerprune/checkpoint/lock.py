"""One run at a time into one output. A lock file says who holds it; whether that run still lives is decided by identity."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hf_layerprune.errors import CheckpointError, shown

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PIDS = Path("/proc/self/ns/pid")  # the namespace that numbers processes; a container has its own
MAX_OWNER_BYTES = 4096


@dataclass(frozen=True)
class Owner:
    """A process, told apart from every other one: a number can be reused, but not on the same boot with the same start.

    host: node name; boot: id of the kernel's boot; pid: process id; started: its start in clock ticks since that boot;
    namespace: what its number counts in. "" where the system does not say.
    """

    host: str
    boot: str
    pid: int
    started: str
    namespace: str = ""

    @classmethod
    def current(cls) -> Owner:
        boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
        return cls(platform.node(), boot, os.getpid(), _start(os.getpid()), _namespace())

    def is_gone(self, here: Owner) -> bool:
        """Whether this process certainly runs no more; a process of another machine or container is never certain."""
        if self.boot != here.boot:
            return self.host == here.host
        known = bool(self.boot) or self.host == here.host
        return known and self.namespace == here.namespace and not _runs(self)


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, and remove it afterwards.

    Raises CheckpointError naming the holder if another run, alive or of another machine, has it; OSError as the system
    raises it if the file cannot be made.
    """
    here = Owner.current()
    handle = _acquire(path, what, here)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(here)).encode(), 0)
        yield
    finally:
        # Removed while still locked: whoever opened it meanwhile notices that its name is gone, and opens it anew.
        with suppress(OSError):
            os.unlink(path)
        os.close(handle)


def _acquire(path: Path, what: str, here: Owner) -> int:
    while True:
        try:
            handle, new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), True
        except FileExistsError:
            try:
                handle, new = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), False
            except FileNotFoundError:  # removed meanwhile
                continue
        try:
            if _lock(handle, path, what, new, here) and _is_named(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(handle: int, path: Path, what: str, new: bool, here: Owner) -> bool:
    """Take the kernel's lock, which ends with its process; False where the file must be opened anew.

    Where a file system has no such lock, whoever makes the file holds it, until its owner is certainly gone.
    """
    locked, owner = _kernel_lock(handle), _read_owner(handle)
    if locked is None:
        if new:
            return True
        if owner and owner.is_gone(here) and _is_named(handle, path):
            os.unlink(path)
            return False
    elif locked and (owner is None or (here.boot and owner.boot == here.boot) or owner.is_gone(here)):
        return True
    who = f"process {owner.pid} on {shown(owner.host)}" if owner else "another run"
    raise CheckpointError(f"{what}: {who} is writing it. Wait for it; if you are sure that it is dead, remove {path}.")


def _kernel_lock(handle: int) -> bool | None:
    """Whether the lock is ours now; None where the file system, such as some network ones, has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _read_owner(handle: int) -> Owner | None:
    try:
        value = json.loads(os.pread(handle, MAX_OWNER_BYTES, 0))
        place = (str(value["host"]), str(value["boot"]))
        return Owner(*place, int(value["pid"]), str(value["started"]), str(value.get("namespace", "")))
    except (OSError, ValueError, KeyError, TypeError):  # empty: new, or its maker died before writing into it
        return None


def _start(pid: int) -> str:
    """Field 22 of /proc/PID/stat, counted behind the name in parentheses, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _namespace() -> str:
    try:
        return os.readlink(PIDS)
    except OSError:
        return ""


def _runs(owner: Owner) -> bool:
    if owner.started:
        return _start(owner.pid) == owner.started
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
