"""Requests to the process that reads stores; see `crossmodal.stores.server`."""

import atexit
import contextlib
import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from crossmodal.stores.errors import StoreError

LOG = logging.getLogger(__name__)
SAY_SECONDS = 5.0  # interval between messages about a wait
PROGRAM = "import json, sys; told = json.loads(sys.stdin.readline()); sys.path[:] = told[0]; " \
          "from crossmodal.stores.server import main; main(told[1], bytes.fromhex(told[2]))"  # fmt: skip


class _Server:
    """A process of `crossmodal.stores.server`, started with the first request; forks of this one use it too."""

    def __init__(self) -> None:
        self.key = secrets.token_bytes(32)
        name = f"crossmodal-{os.getpid()}-{secrets.token_hex(8)}"
        # abstract sockets leave no file behind, but only Linux has them
        self.address = f"\0{name}" if sys.platform == "linux" else str(Path(tempfile.gettempdir()) / name)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([sys.path, self.address, self.key.hex()]).encode() + b"\n")
        self.process.stdin.flush()
        if self.process.stdout.readline() != b"ready\n":
            raise StoreError("the process that reads object stores did not start; its message is above")
        atexit.register(self.end, os.getpid())

    def end(self, owner: int) -> None:
        if os.getpid() == owner and self.process.stdin is not None and self.process.stdout is not None:
            self.process.stdin.close()
            self.process.stdout.close()
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class _State(threading.local):
    """The connection of a thread."""

    connection: Connection | None = None


_LOCK = threading.Lock()
_STATE = _State()
_SERVERS: list[_Server] = []  # the last one is in use


def _after_fork() -> None:
    """A fork must not use the connections of its parent, and a lock that another thread held stays locked in it."""
    global _LOCK, _STATE
    _LOCK, _STATE = threading.Lock(), _State()


os.register_at_fork(after_in_child=_after_fork)


def _connect() -> Connection:
    with _LOCK:
        for attempt in range(2):
            if not _SERVERS or attempt:
                _SERVERS.append(_Server())
            try:
                return Client(_SERVERS[-1].address, "AF_UNIX", authkey=_SERVERS[-1].key)
            except (OSError, EOFError):  # it has ended
                if attempt:
                    raise
    raise AssertionError("the second attempt returns or raises")


def ask(name: str, *args: Any, **options: Any) -> Any:
    """The answer of an operation of `crossmodal.stores.server.Operations`.

    While it takes long, a message on the log names what is waited for.

    Raises:
        StoreError: the store does not answer or refuses access.
        MissingError: it has no such object.
    """
    if _STATE.connection is None:
        _STATE.connection = _connect()
    connection, began = _STATE.connection, time.monotonic()
    try:
        connection.send((name, args, options))
        while not connection.poll(SAY_SECONDS):
            LOG.warning("waiting for %s since %.0f s", _what(args), time.monotonic() - began)
        problem, answer, warnings = connection.recv()
    except BaseException as error:  # also a signal: the answer that is still to come must not be that of the next
        with contextlib.suppress(OSError):
            connection.close()
        _STATE.connection = None
        if isinstance(error, EOFError | OSError):
            raise StoreError(f"the process that reads {_what(args)} ended; most likely memory ran out. Run the same "
                             "command again") from error  # fmt: skip
        raise
    for warning in warnings:
        LOG.warning("%s", warning)
    if problem is not None:
        raise problem
    return answer


def _what(args: Sequence[Any]) -> str:
    """The first URL among the arguments."""
    return next(_texts(args), "object stores")


def _texts(args: Sequence[Any]) -> Iterator[str]:
    for each in args:
        if isinstance(each, str):
            yield each
        elif isinstance(each, list | tuple):
            yield from _texts(each)
