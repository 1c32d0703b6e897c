"""Downloads of published weights: whole files or none, over connections that break."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crossmodal.published.files import Repository, from_url
from crossmodal.published.names import WeightsError
from tests.hubs import keep

CONTENT = bytes(range(256)) * 40


@contextmanager
def answering(reply: bytes | None) -> Iterator[str]:
    """A server that sends some bytes to everyone and closes, or resets each connection; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if reply is None:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by RST
                    continue
                connection.recv(4096)
                connection.sendall(reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def reply(body: bytes, length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + body


@pytest.mark.parametrize("body, message", [
    (CONTENT[:5000], "ended after 5000 of 10240 bytes"),
    (CONTENT[::-1], "its sha256 must begin with"),
])  # fmt: skip
def test_a_part_of_a_file_or_another_file_is_not_stored(tmp_path: Path, body: bytes, message: str) -> None:
    with answering(reply(body, len(CONTENT))) as address, pytest.raises(WeightsError, match=message):
        from_url("w", f"{address}/a.pt", [tmp_path], sha256=hashlib.sha256(CONTENT).hexdigest()[:8], download=True)
    assert not [*tmp_path.iterdir()]


def test_the_whole_file_is_stored(tmp_path: Path) -> None:
    with answering(reply(CONTENT, len(CONTENT))) as address:
        path = from_url("w", f"{address}/a.pt", [tmp_path], sha256=hashlib.sha256(CONTENT).hexdigest(), download=True)
    assert path.read_bytes() == CONTENT and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("sent", [None, b"no HTTP\r\n\r\n"])
def test_a_broken_connection_is_one_sentence(tmp_path: Path, sent: bytes | None) -> None:
    with answering(sent) as address, pytest.raises(WeightsError, match=r"/a\.pt could not be fetched: "):
        from_url("w", f"{address}/a.pt", [tmp_path], sha256="", download=True)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("sent", [None, b"no HTTP\r\n\r\n"])
def test_a_copy_is_enough_where_the_hub_breaks_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes | None
) -> None:
    pytest.importorskip("huggingface_hub", reason="the hub needs huggingface_hub")
    keep(tmp_path, "a/b", {"config.json": "{}"})
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with answering(sent) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        repository = Repository("hf-hub:a/b", "a/b", None, download=True)
        assert repository.optional("README.md") is None and repository.is_cut_off


@pytest.mark.parametrize("card, licence", [
    ("---\nlicense: mit\n---\n# A\n", "mit"),
    ("---\ntags: [a]\n---\n# A\nIts card would be\n---\nlicense: mit\n---\n", None),
])  # fmt: skip
def test_the_licence_is_that_in_the_head_of_the_card(tmp_path: Path, card: str, licence: str | None) -> None:
    (tmp_path / "README.md").write_text(card)
    assert Repository("w", f"{tmp_path}/", None, download=False).licence == licence
