"""A Hub on 127.0.0.1 for the real client: the few endpoints that a download needs, and the ways in which a Hub can fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repo:
    """commits: files by commit; refs: branch to commit; token: who may read, None for everybody; status: answered to every
    request about the repository instead of a file; drop_at: the first answers with a weight file end after so many bytes."""

    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    status: int = 200
    drop_at: int | None = None
    drops: int = 0
    on_tree: Callable[[], object] | None = None

    def push(self, files: Files) -> str:
        commit = hashlib.sha1(json.dumps({name: content.hex() for name, content in files.items()}).encode()).hexdigest()
        self.commits[commit] = files
        self.refs["main"] = commit
        return commit


class LoopbackHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []  # paths

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield hub
        hub.shutdown()


class Handler(BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
            self._api(match[1], match[2], match[3] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        else:
            self._send(404, b"")

    do_HEAD = do_GET

    def _repo(self, name: str) -> Repo | None:
        """The repository, if this client may see it; otherwise the answer has been sent."""
        repo = self.server.repos.get(name)
        allowed = repo is not None and repo.token in (None, (self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if repo is None or not allowed:
            code = "GatedRepo" if repo and repo.gated else "RepoNotFound"
            self._send(403 if repo and repo.gated else 401, b'{"error": "no"}', {"X-Error-Code": code})
        elif repo.status != 200:
            self._send(repo.status, b'{"error": "no"}')
        else:
            return repo
        return None

    def _api(self, name: str, what: str | None, revision: str) -> None:
        if (repo := self._repo(name)) is None:
            return
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self._send(404, b'{"error": "no"}', {"X-Error-Code": "RevisionNotFound"})
            return
        files = repo.commits[commit]
        if what == "tree":
            entries = [{"type": "file", "path": path, "size": len(content), "oid": git_id(content)} for path, content in files.items()]
            self._send(200, json.dumps(entries).encode())
            if repo.on_tree:
                repo.on_tree()
        else:
            info = {"id": name, "modelId": name, "sha": commit, "private": False, "siblings": [{"rfilename": path} for path in files]}
            self._send(200, json.dumps(info).encode())

    def _file(self, name: str, revision: str, path: str) -> None:
        if (repo := self._repo(name)) is None:
            return
        commit = repo.refs.get(revision, revision)
        content = repo.commits.get(commit, {}).get(path)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        headers = {"ETag": f'"{git_id(content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if start else 200, content[start:], headers, repo if path.endswith(".safetensors") else None)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, drops: Repo | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if drops and drops.drop_at is not None and drops.drops:
            drops.drops -= 1
            body, self.close_connection = body[: drops.drop_at], True
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
