"""A lock on the folder of a run."""

import fcntl
import os
import weakref
from pathlib import Path

from pipelines.config import ConfigError

LOCK = ".lock"
_HELD: "weakref.WeakSet[Lock]" = weakref.WeakSet()


class Lock:
    """Keeps other processes out of a folder until `release`, or while this object and its process live.

    Args:
        folder: the folder.
        name: name of the file that is locked.
        shared: let in processes that ask to share the folder too.

    Raises:
        ConfigError: another process is writing into the folder.
    """

    def __init__(self, folder: Path, name: str = LOCK, *, shared: bool = False) -> None:
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT)  # writable, or NFS refuses the lock
        self.release = weakref.finalize(self, os.close, descriptor)
        os.register_at_fork(after_in_child=self.release)  # or workers that outlive a killed process hold its lock
        _HELD.add(self)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError([f"output {folder}: another process is writing here; wait for it, or stop it"]) from error


def release_all() -> None:
    """Releases the locks of this process, which the traceback of a failed run may keep alive, as a notebook does."""
    for lock in [*_HELD]:
        lock.release()
