"""A stand-in for the Hugging Face Hub on the loopback: repositories in memory, with commits, branches and tokens."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_test"


class Hub:
    """The repositories: for each name, the files of every commit and the commits of its branches."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.private: dict[str, bool | None] = {}
        self.requests: list[tuple[str, str]] = []
        self.messages: list[str] = []
        self.status: int | None = None  # that every request gets, if it is set

    def commit(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Adds files to a branch; gives the commit."""
        before = self.commits.setdefault(name, {}).get(self.branches.setdefault(name, {}).get(branch, ""), {})
        now = {**before, **files}
        commit = hashlib.sha1(repr(sorted(now.items())).encode()).hexdigest()
        self.commits[name][commit] = now
        self.branches[name][branch] = commit
        return commit


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: object = b"", headers: dict[str, str] | None = None) -> None:
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(payload)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def refuse(self, status: int, code: str = "") -> None:
        self.answer(status, {"error": code or str(status)}, {"X-Error-Code": code} if code else None)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.requests.append((self.command, self.path))
        if self.hub.status is not None:
            return self.refuse(self.hub.status)
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if found is None:
            return self.refuse(404)
        name, revision, file = found.groups()
        if name not in self.hub.commits or (self.hub.private.get(name) and not self.is_known):
            return self.refuse(401, "RepoNotFound")
        commit = self.hub.branches[name].get(revision, revision)
        if commit not in self.hub.commits[name]:
            return self.refuse(404, "RevisionNotFound")
        content = self.hub.commits[name][commit].get(file)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            return self.answer(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
        return self.answer(200, content, {**headers, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})

    @property
    def is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self) -> None:  # noqa: PLR0911
        self.hub.requests.append((self.command, self.path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.status is not None:
            return self.refuse(self.hub.status)
        if not self.is_known:
            return self.refuse(401)
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", self.path):
            name, branch = found.groups()
            if branch in self.hub.branches[name]:
                return self.refuse(409)
            self.hub.branches[name][branch] = self.hub.branches[name]["main"]
            return self.answer(200, {})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self.path):
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                     for file in json.loads(body)["files"]]  # fmt: skip
            return self.answer(200, {"files": files})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", self.path):
            return self.take(*found.groups(), [json.loads(line) for line in body.splitlines()])
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        return self.refuse(404)

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"http://{self.headers['Host']}/{name}"
        if name in self.hub.commits:
            return self.answer(409, {"error": "exists", "url": url})
        self.hub.private[name] = asked.get("private") or asked.get("visibility") == "private"  # older and newer clients
        self.hub.commit(name, {".gitattributes": b""})
        return self.answer(200, {"url": url, "name": name, "id": name})

    def take(self, name: str, branch: str, lines: list[dict[str, Any]]) -> None:
        files = {line["value"]["path"]: base64.b64decode(line["value"]["content"])
                 for line in lines if line["key"] == "file"}  # fmt: skip
        self.hub.messages += [line["value"]["summary"] for line in lines if line["key"] == "header"]
        commit = self.hub.commit(name, files, branch)
        url = f"http://{self.headers['Host']}/{name}/commit/{commit}"
        return self.answer(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})


@contextmanager
def serve() -> Iterator[tuple[Hub, str]]:
    """A hub while the block runs, and its address."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
