"""Loads items in order with worker processes; reports a worker that ends, stalls or lacks shared memory."""

import errno
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, get_worker_info

from crossmodal.data.manifest import ShardError
from crossmodal.stores.errors import StoreError

LOG = logging.getLogger(__name__)
SAY_SECONDS = 60.0  # interval between messages about a wait
GRACE_SECONDS = 2.0  # time for workers to end; then they get SIGTERM, and SIGKILL after the same time again
SHARED = Path("/dev/shm")
STATES = {
    "T": "is stopped by a signal; `kill -CONT` continues it",
    "D": "waits for a disk or a network file system",
    "R": "is computing",
    "S": "sleeps, and may be waiting for a lock or a network",
}
CAUSES = {
    signal.SIGKILL: "most likely the kernel or the container ran out of memory; use fewer workers or smaller batches",
    signal.SIGBUS: f"most likely {SHARED} is full, or a file was cut short while it was read",
}


class LoaderError(RuntimeError):
    """A worker process ended, or cannot hand over its data; the message has the cause."""


def load_in_order(dataset: Dataset, *, workers: int, **options: Any) -> Iterator[Any]:
    """The items of the dataset in order, loaded by worker processes, or by this process if `workers` is 0.

    After each minute of waiting, a message on stderr names the worker that is waited for.

    Raises:
        ShardError, StoreError: the dataset returned one.
        LoaderError: a worker process ended, or has no shared memory for its data.
    """
    ahead = options.get("prefetch_factor") or 2
    loader = DataLoader(
        dataset, batch_size=None, num_workers=workers, collate_fn=partial(_hand_over, ahead=ahead),
        worker_init_fn=_begin_worker, **options,
    )  # fmt: skip
    others, handler = {*multiprocessing.active_children()}, signal.getsignal(signal.SIGCHLD)
    items: Any = iter(loader)
    if workers and threading.current_thread() is threading.main_thread():
        # torch's handler would raise anywhere in the main thread, even while it writes a checkpoint
        signal.signal(signal.SIGCHLD, handler)
    started = sorted({*multiprocessing.active_children()} - others, key=lambda child: child.pid or 0)
    watchdog = _Watchdog(started)
    watchdog.start()
    try:
        while True:
            part = watchdog.next(items)
            if isinstance(part, ShardError | StoreError | LoaderError):
                raise part
            if part is None:
                return
            yield part
    finally:
        watchdog.ended.set()
        if workers:
            _end(items, started)


class _Watchdog(threading.Thread):
    """Reports once a minute what the loader waits for."""

    def __init__(self, workers: Sequence[BaseProcess]) -> None:
        super().__init__(daemon=True)
        self.workers, self.ended = workers, threading.Event()
        self.turn = 0  # number of items received; workers take turns
        self.since: float | None = None  # start of the current wait

    def next(self, found: Iterator[Any]) -> Any:
        """The next item; None after the last."""
        self.since = time.monotonic()
        try:
            return next(found, None)
        except Exception as error:  # torch's error, or any error of a broken connection
            if cause := self._why_ended(error):
                raise LoaderError(cause) from error
            raise
        finally:
            self.since = None
            self.turn += 1

    def run(self) -> None:
        reported = 0.0  # time of the last message
        while not self.ended.wait(min(1.0, SAY_SECONDS / 4)):
            since, now = self.since, time.monotonic()
            if since is not None and now - max(since, reported) >= SAY_SECONDS:
                reported = now
                LOG.warning("no data for %.0f s: %s", now - since, self._whom())  # to stderr unless configured

    def _whom(self) -> str:
        who = f"rank {os.environ['RANK']}: " if "RANK" in os.environ else ""
        if not self.workers:
            return f"{who}process {os.getpid()} is still reading or decoding its next pairs"
        number = self.turn % len(self.workers)
        child = self.workers[number]
        text = f"{who}worker {number} (process {child.pid}) gave none; it {STATES.get(_state(child), _state(child))}"
        for other, child in enumerate(self.workers):  # a stopped one can hold the lock that all need
            if other != number and _state(child) in ("T", "D"):
                text += f"; worker {other} (process {child.pid}) {STATES[_state(child)]}"
        return text

    def _why_ended(self, error: Exception) -> str:
        """A message about a worker that has ended; empty if none has."""
        if not self.workers:
            return ""
        unexpected = "exited unexpectedly" in str(error)
        torn = isinstance(error, ConnectionError | EOFError | FileNotFoundError)  # sockets close before it ends
        ended = wait([child.sentinel for child in self.workers], timeout=0 if unexpected else 30 if torn else 1)
        for number, child in enumerate(self.workers):
            if child.sentinel in ended:
                child.join(5)  # the sentinel, a pipe, closes before the exit code is known
            code = child.exitcode
            if code or (code == 0 and unexpected):
                return f"worker {number} of the data loader (process {child.pid}) {_ending(code)}"
        return ""


def _state(child: BaseProcess) -> str:
    """The process's state: on Linux a letter, such as the keys of `STATES`; elsewhere a phrase."""
    try:
        return Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:  # not Linux, or the process has just ended
        return "is running" if child.is_alive() else "has ended"


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}, before its work was done"
    number = signal.Signals(-code)
    cause = CAUSES.get(number)
    return f"was ended by {number.name}" + (f": {cause}" if cause else "")


def _end(found: Any, workers: Sequence[BaseProcess]) -> None:
    """Ends the workers, also stopped or stalled ones, for which Python would wait at exit for ever."""
    done = threading.Event()

    def insist() -> None:
        for end in (BaseProcess.terminate, BaseProcess.kill):
            if done.wait(GRACE_SECONDS):
                return
            for child in workers:
                end(child)

    thread = threading.Thread(target=insist, daemon=True)
    thread.start()
    found._shutdown_workers()  # torch has no public name for it
    done.set()


def _hand_over(part: Any, *, ahead: int) -> Any:
    """Moves a worker's item into shared memory.

    Otherwise a thread of the worker would do so; if that fails, the thread drops the item and the main process waits
    for it for ever.
    """
    worker = get_worker_info()
    if worker is None:
        return part
    try:
        return _Sent(bytes(ForkingPickler.dumps(part)))
    except (OSError, RuntimeError) as error:
        size = len(pickle.dumps(part))
        return LoaderError(_why_not_shared(error, worker.id, size, ahead * worker.num_workers))


class _Sent:
    """A pickled item, which unpickles to the item itself."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.payload,)


def _why_not_shared(error: Exception, worker: int, size: int, parts: int) -> str:
    text = f"worker {worker} of the data loader cannot hand over a batch part of {size / 2**20:.1f} MB: "
    if getattr(error, "errno", None) == errno.EMFILE or "Too many open files" in str(error):
        return f"{text}too many open files ({error}); raise the limit with `ulimit -n`, or use fewer workers"
    if "No space left" not in str(error) or not SHARED.is_dir():
        return f"{text}{error}"
    room = shutil.disk_usage(SHARED)
    return (
        f"{text}{SHARED} is full, with {room.total / 2**20:.0f} MB in all and {room.free / 2**20:.0f} MB free; this "
        f"process keeps up to {parts} parts there, {parts * size / 2**20:.0f} MB. Give it more "
        "(`docker run --shm-size=2g`), or use fewer workers (0 needs none)"
    )


def _begin_worker(worker: int) -> None:
    """Speeds up the hand-over of tensors, and leaves SIGINT and SIGTERM to the main process.

    The thread that hands over a tensor takes Python's lock several times, and waits 5 ms each time by default.

    Ctrl-C, torchrun and SLURM also signal the workers, but the main process needs them until it has saved. A worker
    ends by itself when the main process is gone. It obeys the main process's SIGTERM: Python ends its children with it
    at exit after an error, then waits for them, for ever if they ignored it.
    """
    sys.setswitchinterval(5e-4)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere a signal does not have its sender
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by, args=(os.getppid(),), daemon=True).start()


def _end_by(sender: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != sender:
        pass
    os._exit(0)  # the loader would report any other code as an error
