"""Object stores on the loopback: moto's S3, and a proxy before it that fails as stores fail."""

import http.client
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import pytest

BUCKET = "bucket"
SECRET = "topsecretkey"
SIGNATURE = "AWS4-HMAC-SHA256 Credential=testing/1/us-east-1/s3"  # moto does not check it


@dataclass
class Store:
    """An S3 whose requests pass through `fault`, which may answer in its place."""

    port: int
    behind: int = 0  # port of moto
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and path
    fault: Callable[["Proxy"], bool] = lambda proxy: False  # gives True if it has answered

    @property
    def variables(self) -> dict[str, str]:
        """Those of the environment of a process that uses the store."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def put(self, key: str, content: bytes) -> None:
        """Writes an object, past the faults."""
        self._ask("PUT", key, content)

    def delete(self, key: str) -> None:
        """Removes an object."""
        self._ask("DELETE", key)

    def upload(self, folder: Path, prefix: str) -> str:
        """Copies a folder; gives its URL."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def count(self, method: str, ending: str) -> int:
        """The number of requests for objects of this ending."""
        return sum(each == method and path.endswith(ending) for each, path in self.requests)

    def _ask(self, method: str, key: str, content: bytes = b"") -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.behind)
        path = f"/{BUCKET}/{key}" if key else f"/{BUCKET}"
        connection.request(method, path, content, {"Authorization": SIGNATURE})
        assert connection.getresponse().status < 300, f"{method} {key}"
        connection.close()


class Proxy(BaseHTTPRequestHandler):
    """Passes requests on."""

    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *_: object) -> None:
        """Prints nothing."""

    def answer(self, status: int, payload: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Sends a whole answer."""
        self.send_response(status)
        for name, value in (headers or {"Content-Length": str(len(payload))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def ask_behind(self) -> tuple[int, bytes, dict[str, str]]:
        """The answer of the store."""
        connection = http.client.HTTPConnection("127.0.0.1", self.store.behind)
        length = int(self.headers.get("Content-Length") or 0)
        connection.request(self.command, self.path, self.rfile.read(length), dict(self.headers))
        response = connection.getresponse()
        headers = {name: value for name, value in response.getheaders() if name.lower() != "transfer-encoding"}
        payload = response.read()
        connection.close()
        if self.command != "HEAD":
            headers["Content-Length"] = str(len(payload))
        return response.status, payload, headers

    def handle_any(self) -> None:
        """Lets the fault answer, or the store."""
        self.store.requests.append((self.command, self.path.partition("?")[0]))
        if not self.store.fault(self):
            self.answer(*self.ask_behind())

    do_GET = do_HEAD = do_PUT = do_DELETE = handle_any  # noqa: N815


@contextmanager
def serve() -> Iterator[Store]:
    """A store with one bucket."""
    pytest.importorskip("obstore", reason="needs crossmodal-transfer[remote]")
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    store = Store(0, moto.get_host_and_port()[1])
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Proxy,), {"store": store}))
    proxy.daemon_threads = True
    store.port = proxy.server_address[1]
    threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
    try:
        store._ask("PUT", "")
        with mock.patch.dict(os.environ, store.variables):
            yield store
    finally:
        proxy.shutdown()
        proxy.server_close()
        moto.stop()


# --- faults ---


def always(status: int) -> Callable[[Proxy], bool]:
    """Every request gets this status."""

    def fault(proxy: Proxy) -> bool:
        proxy.answer(status)
        return True

    return fault


def now_and_then(every: int, kind: str) -> Callable[[Proxy], bool]:
    """Every so many reads of a tar fail: "503", "reset", "cut" (fewer bytes than promised) or "slow"."""
    seen = [0]

    def fault(proxy: Proxy) -> bool:
        if proxy.command != "GET" or not proxy.path.endswith(".tar"):
            return False
        seen[0] += 1
        if seen[0] % every:
            return False
        if kind == "503":
            proxy.answer(503)
        elif kind == "reset":
            proxy.connection.close()
        else:
            status, payload, headers = proxy.ask_behind()
            half = len(payload) // 2
            proxy.answer(status, payload[:half], headers)
            proxy.wfile.flush()
            if kind == "slow":
                time.sleep(0.2)
                proxy.wfile.write(payload[half:])
            else:
                proxy.connection.close()
        proxy.close_connection = kind != "slow"
        return True

    return fault
