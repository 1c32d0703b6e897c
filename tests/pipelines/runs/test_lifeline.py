"""The processes of a launch hear that one of them ended, and why; here they are threads that share a store."""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from pipelines.config.errors import RunError
from pipelines.runs import lifeline
from pipelines.runs.lifeline import Lifeline, describe

OPENED: list[Lifeline] = []


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The codes with which processes were ended."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(lifeline, "GRACE_SECONDS", 0.2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    yield codes
    for line in OPENED:
        line.close()
    OPENED.clear()


def open_all(count: int, turn: int = 0) -> list[Lifeline]:
    lines: dict[int, Lifeline] = {}
    threads = [
        threading.Thread(target=lambda rank=rank: lines.__setitem__(rank, Lifeline(rank, count, turn=turn)))
        for rank in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    OPENED.extend(lines.values())
    return [lines[rank] for rank in range(count)]


def vanish(line: Lifeline) -> None:
    """What the system does when a process ends."""
    line._closed = True  # so that its own thread says nothing
    for other in line._others.values():
        other.shutdown(socket.SHUT_RDWR)
    line._drop()


def wait_for(holds: object, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.01)
    assert holds()  # type: ignore[operator]


@pytest.mark.parametrize("dead", [0, 2])
def test_all_processes_hear_that_one_has_vanished(
    dead: int, exits: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = open_all(4)
    vanish(lines[dead])
    others = [line for line in lines if line is not lines[dead]]
    wait_for(lambda: all(line.has_told() for line in others))
    wait_for(lambda: exits == [1, 1, 1])
    told = capsys.readouterr().err
    assert len(re.findall(rf"rank \d: rank {dead} on \S+ .*ended without a reason, as when it is killed", told)) == 3


def test_all_processes_hear_the_reason_of_one_that_fails(exits: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    lines = open_all(3)
    lines[1].tell("OutOfMemoryError: out of\x1b memory")
    vanish(lines[1])  # the reason comes before the end
    wait_for(lambda: all(line.has_told() for line in (lines[0], lines[2])))
    wait_for(lambda: exits == [1, 1])
    told = capsys.readouterr().err.splitlines()
    assert sorted(line.split(" on ")[0] for line in told) == ["rank 0: rank 1", "rank 2: rank 1"]
    assert all(line.endswith(r"ended the run: OutOfMemoryError: out of\x1b memory") for line in told)


def test_processes_that_have_done_their_work_leave_in_silence(
    exits: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    for turn in range(2):  # as of two runs, one after the other
        lines = open_all(3, turn)
        for line in lines if turn else reversed(lines):
            line.close()
    time.sleep(0.4)
    assert exits == [] and capsys.readouterr().err == ""


def test_a_process_that_never_starts_is_named(exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "START_MINUTES", 0.5 / 60)
    with pytest.raises(RunError, match=r"of 3 processes, 2 did not start within .* minutes: rank 1, 2; their output"):
        Lifeline(0, 3)


def test_a_stranger_is_not_taken_for_a_process(exits: list[int]) -> None:
    ready: list[Lifeline] = []
    thread = threading.Thread(target=lambda: ready.append(Lifeline(0, 2)))
    thread.start()
    store = lifeline.open_store("localhost", int(os.environ["MASTER_PORT"]), 1, 0)
    address, port, _ = json.loads(store.get("lifeline"))
    with closing(socket.create_connection((address, port))) as stranger:
        stranger.sendall(b'{"rank": 1, "secret": "guess"}\n')
        own = Lifeline(1, 2)
        thread.join(10)
        assert not own.has_told() and len(ready) == 1
    for line in (own, *ready):
        line.close()


def test_a_killed_process_is_described_with_its_number() -> None:
    news = {"rank": 3, "host": "node7", "pid": 41, "why": ""}
    assert describe(news).startswith("rank 3 on node7 (process 41) ended without a reason, as when it is killed")
    assert describe({**news, "why": "no memory"}) == "rank 3 on node7 ended the run: no memory"
