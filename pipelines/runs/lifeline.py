"""Tells every process of a launch that another one ended before the run did, and why.

A collective operation waits for a process that is gone until its timeout, which is long, and a launcher ends only the
processes of its own node. So each process keeps a TCP connection to rank 0. The operating system closes it when the
process ends in any way, and probes find a node that lost power or network. Rank 0 passes the news to all others.
"""

import contextlib
import ipaddress
import json
import os
import secrets
import socket
import sys
import threading
import time
import weakref
from datetime import timedelta
from typing import Any, TextIO

from pipelines.config.errors import RunError, printable

START_MINUTES = 15.0  # for which a process waits until all others have started
GRACE_SECONDS = 8.0  # for which a process may end by itself after another one has ended
PROBES = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 6))  # silence of 45 s is the end of a node
LONGEST = 2000  # characters of a reason

News = dict[str, Any]  # rank, host, pid, and why: empty if the process gave no reason


class Lifeline:
    """The connections of this process to rank 0, or of rank 0 to all others.

    Args:
        rank: number of this process.
        count: number of processes.
        turn: how many groups this process has opened before, the same on every rank.

    Raises:
        RunError: not all processes started in time, or rank 0 cannot be reached.
    """

    def __init__(self, rank: int, count: int, *, turn: int = 0) -> None:
        self.who: News = {"rank": rank, "host": socket.gethostname(), "pid": os.getpid()}
        self.news: News | None = None  # of the first process that ended
        self._others: dict[int, socket.socket] = {}
        self._lock, self._printed, self._closed = threading.Lock(), threading.Event(), False
        master, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.store = open_store(master, port, rank, turn)
        try:
            if rank == 0:
                self._gather(count, _address(master, port))
            else:
                self._join()
        except (OSError, RuntimeError) as error:  # RuntimeErrors are the store's
            self._drop()
            problem = f"could not meet the other processes of the launch at {master}:{port} ({error})"
            raise RunError(f"{problem}; their output may say why") from error
        closes = weakref.WeakMethod(self._drop)  # or a worker that outlives this process keeps it alive for the others
        os.register_at_fork(after_in_child=lambda: _call(closes))

    def _gather(self, count: int, address: str) -> None:
        """On rank 0: waits for the connection of every other process."""
        secret, deadline = secrets.token_hex(16), time.monotonic() + 60 * START_MINUTES
        with _serve() as server:
            self.store.set("lifeline", json.dumps([address, server.getsockname()[1], secret]))
            while len(self._others) < count - 1:
                server.settimeout(max(deadline - time.monotonic(), 0.01))
                try:
                    other, _ = server.accept()
                except TimeoutError:
                    missing = sorted({*range(1, count)} - {*self._others})
                    problem = (f"of {count} processes, {len(missing)} did not start within {START_MINUTES:g} minutes: "
                               f"rank {', '.join(map(str, missing[:8]))}; their output says why")  # fmt: skip
                    self._spread({**self.who, "why": problem})
                    raise RunError(problem) from None
                other.settimeout(10)
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a stranger
                    lines = other.makefile("r", encoding="utf-8")
                    hello = json.loads(lines.readline())
                    if secrets.compare_digest(hello.pop("secret"), secret):
                        self._hold(hello, other, lines)
                        continue
                other.close()

    def _join(self) -> None:
        """On other ranks: connects to rank 0."""
        address, port, secret = json.loads(self.store.get("lifeline"))
        other = socket.create_connection((address, port), timeout=60)
        other.sendall(_line({**self.who, "secret": secret}))
        self._hold({"rank": 0, "host": address, "pid": None}, other, other.makefile("r", encoding="utf-8"))

    def _hold(self, who: News, other: socket.socket, lines: TextIO) -> None:
        other.settimeout(None)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in PROBES:
            if hasattr(socket, name):  # Linux
                other.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._others[who["rank"]] = other
        threading.Thread(target=self._listen, args=(who, lines), daemon=True).start()

    def _listen(self, who: News, lines: TextIO) -> None:
        """Reads what another process sends until it ends."""
        with contextlib.suppress(OSError, ValueError):
            for line in lines:
                message = json.loads(line)
                if message is None:  # it has nothing more to do
                    return
                self._hear(message)
        self._hear({**who, "why": ""})

    def _hear(self, news: News) -> None:
        """Passes the first news on, prints it, and ends this process if it does not end by itself."""
        if self._closed or not self._spread(news):
            return
        print(printable(f"rank {self.who['rank']}: {describe(news)}"), file=sys.stderr, flush=True)
        self._printed.set()
        time.sleep(GRACE_SECONDS)
        if not self._closed:
            os._exit(1)  # the main thread waits for the process that is gone

    def _spread(self, news: News) -> bool:
        """Sends the first news to all others; True if these are the first."""
        with self._lock:
            if self.news is not None:
                return False
            self.news = news
        for rank, other in {**self._others}.items():
            if rank != news["rank"]:
                with contextlib.suppress(OSError):
                    other.sendall(_line(news))
        return True

    @property
    def is_open(self) -> bool:
        """True until `close`."""
        return not self._closed

    def tell(self, why: str) -> None:
        """Tells all other processes that this one ends, and why."""
        self._spread({**self.who, "why": why[:LONGEST]})

    def has_told(self, seconds: float = 0.0) -> bool:
        """True if it has printed that another process ended, or does within some seconds."""
        return self._printed.wait(seconds)

    def close(self) -> None:
        """Leaves without news: every process has done its work."""
        self._closed = True
        for other in self._others.values():
            with contextlib.suppress(OSError):
                other.sendall(_line(None))
                other.shutdown(socket.SHUT_RDWR)
        self._drop()

    def _drop(self) -> None:
        """Closes the files of the connections, without a word; a parent process keeps its own."""
        for other in self._others.values():
            if other.fileno() >= 0:
                os.close(other.detach())  # `close` waits for the file that reads


def describe(news: News) -> str:
    """A sentence about a process that ended."""
    where = f"rank {news['rank']} on {news['host']}"
    if news["why"]:
        return f"{where} ended the run: {news['why']}"
    number = f" (process {news['pid']})" if news["pid"] else ""
    return (f"{where}{number} ended without a reason, as when it is killed, runs out of memory or loses its network; "
            "its output and the system's log may say more")  # fmt: skip


def open_store(master: str, port: int, rank: int, turn: int) -> Any:
    """The part of a group in the store of the launch: the launcher's, or one that rank 0 opens.

    Torchrun's store outlives a restart of its processes, and both outlive a group, so they have addresses of others.
    """
    from torch.distributed import PrefixStore, TCPStore

    launchers = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        master, port, is_master=rank == 0 and not launchers, timeout=timedelta(minutes=START_MINUTES),
        wait_for_workers=False, multi_tenant=True,
    )  # fmt: skip
    return PrefixStore(f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{turn}", store)


def _address(master: str, port: int) -> str:
    """The address at which other nodes reach this one, if it is not the one with the store."""
    family, _, _, _, place = socket.getaddrinfo(master, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(place)  # sends nothing
        own = probe.getsockname()[0]
    return master if ipaddress.ip_address(own.partition("%")[0]).is_loopback else own


def _serve() -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 is switched off
            return socket.create_server(("", 0), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=1024)


def _line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _call(method: "weakref.WeakMethod[Any]") -> None:
    if (bound := method()) is not None:
        bound()
