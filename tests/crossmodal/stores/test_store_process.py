"""The process that reads stores: it ends with those that use it, and its absence is told."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from stored import BUCKET, Store

from crossmodal.stores import backends, client
from crossmodal.stores.cache import Cache
from crossmodal.stores.errors import MissingError, ShortError, StoreError
from crossmodal.stores.paths import RemotePath, to_path

PARENT = """
import os, sys, time
from crossmodal.stores import client
client.ask("take_warnings")
if os.fork():
    os._exit(0) if sys.argv[1] == "first" else time.sleep(600)
print(client._SERVERS[-1].process.pid, flush=True)
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("which", ["first", "both"])
def test_it_ends_when_all_that_use_it_are_killed(which: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, which], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        assert is_running(server)
        if which == "first":
            parent.wait()
            time.sleep(0.2)
            assert is_running(server)  # a fork still uses it
        os.killpg(parent.pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while is_running(server):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_where_it_was_killed_one_request_fails_and_the_next_starts_it_anew(store: Store) -> None:
    store.put("killed/a", b"abc")
    path = RemotePath(f"s3://{BUCKET}/killed/a")
    assert path.read_bytes() == b"abc"
    client._SERVERS[-1].process.kill()
    client._SERVERS[-1].process.wait()
    with pytest.raises(StoreError, match=rf"the process that reads {path} ended; most likely memory ran out"):
        path.read_bytes()
    assert path.read_bytes() == b"abc"


def test_where_it_was_killed_a_fetch_is_one_sentence_too(tmp_path: Path) -> None:
    client.ask("take_warnings")
    client._SERVERS[-1].process.kill()
    client._SERVERS[-1].process.wait()
    with pytest.raises(StoreError, match=r"the process that reads s3://b/x.tar ended; most likely memory ran out"):
        client.ask("fetch", Cache(tmp_path, 9), [("s3://b/x.tar", 1, "0" * 64)], now=True)


def test_a_fork_has_a_connection_of_its_own(store: Store) -> None:
    client.ask("take_warnings")
    assert client._STATE.connection is not None
    if (child := os.fork()) == 0:
        os._exit(int(client._STATE.connection is not None))
    assert os.waitpid(child, 0)[1] == 0


def test_threads_have_answers_of_their_own(store: Store) -> None:
    for number in range(4):
        store.put(f"threads/{number}", bytes([number]) * 9)
    found: dict[int, list[bytes]] = {}

    def read(number: int) -> None:
        path = RemotePath(f"s3://{BUCKET}/threads/{number}")
        found[number] = [path.read_spans([(step, 2)])[0] for step in range(5)]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [bytes([number]) * 2] * 5 for number in range(4)}


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/pairs", "obstore"), ("hf://datasets/a/b", "fsspec")])
def test_a_missing_extra_is_one_sentence(url: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StoreError) as caught:
        backends.open_backend(url)
    assert str(caught.value) == f"{url} needs the package {package}: pip install 'crossmodal-transfer[remote]'"


class Failing(backends.Fsspec):
    """Raises each of some errors once, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.requests = [*errors], 0

    def _get(self, url: str) -> bytes:
        self.requests += 1
        if self.errors:
            raise self.errors.pop(0)
        return b"abc"

    def _ranges(self, url: str, starts: list[int], sizes: list[int]) -> list[bytes]:
        return [self._get(url)[: 1 if self.requests == 1 else 3]]


def test_requests_by_fsspec_are_repeated_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.RETRIES, "2")
    monkeypatch.setattr(backends, "time", SimpleNamespace(sleep=lambda seconds: None))
    busy = RuntimeError("no")
    busy.status = 503  # type: ignore[attr-defined]
    for error in (TimeoutError(), ConnectionResetError(), busy, OSError("502 Server Error: Bad Gateway for url: x")):
        assert Failing(error).get("hf://a/x") == b"abc"
    assert Failing().ranges("hf://a/x", [(0, 3)]) == [b"abc"]
    with pytest.raises(ShortError):
        Failing().ranges("hf://a/x", [(0, 4)])
    for errors, message in (
        ([TimeoutError()] * 3, "in time after 3 attempts"),
        ([busy] * 3, "status 503 after 3 attempts"),
        ([OSError("502 Server Error: Bad Gateway")] * 3, "status 502 after 3 attempts"),
        ([OSError("dns")], "reached after 1 attempt;"),
    ):
        failing = Failing(*errors)
        with pytest.raises(StoreError, match=message):
            failing.get("hf://a/x")
        assert failing.requests == len(errors)


def test_a_path_in_a_store_is_used_as_a_local_one_is(store: Store, tmp_path: Path) -> None:
    for path in (RemotePath(f"s3://{BUCKET}/paths"), tmp_path):
        for name in ("b/x.tar", "a/x.tar", "a/y.npy"):
            if isinstance(path, Path):
                (path / name).parent.mkdir(exist_ok=True)
                (path / name).write_bytes(name.encode() * 3)
            else:
                store.put(f"paths/{name}", name.encode() * 3)
        assert [each.parent.name for each in sorted(path.glob("*/x.tar"), key=str)] == ["a", "b"]
        assert [each.name for each in sorted(path.glob("*/*"), key=str)] == ["x.tar", "y.npy", "x.tar"]
        file = path / "a/x.tar"
        assert (file.name, file.parent.name, file.with_suffix(".index.npy").name) == ("x.tar", "a", "x.index.npy")
        assert (file.is_file(), file.is_dir(), file.parent.is_file(), file.parent.is_dir()) == (
            True,
            False,
            False,
            True,
        )
        assert file.stat().st_size == 21 and file.read_bytes() == b"a/x.tar" * 3
        with file.open("rb") as opened:
            assert (opened.read(3), opened.seek(-4, os.SEEK_END), opened.read(), opened.read(1)) == (
                b"a/x",
                17,
                b".tar",
                b"",
            )
        assert not (path / "c").is_file() and not (path / "c").is_dir()
    with pytest.raises(
        MissingError, match=rf"s3://{BUCKET}/paths/c: there is no such object or bucket; check the name"
    ):
        (RemotePath(f"s3://{BUCKET}/paths") / "c").read_bytes()
    assert to_path("runs/x") == Path("runs/x") and to_path(f"s3://{BUCKET}/x/") == RemotePath(f"s3://{BUCKET}/x")
