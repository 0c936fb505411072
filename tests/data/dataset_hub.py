"""A Hub of datasets on 127.0.0.1 for the real client and the real `datasets`: the few endpoints that streaming needs."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class DatasetRepo:
    """files: path to content; token: who may read, None for everybody; status: answered to every request instead;
    broken: a file that is listed, but cannot be fetched."""

    files: dict[str, bytes]
    token: str | None = None
    gated: bool = False
    status: int = 200
    broken: str | None = None

    @property
    def commit(self) -> str:
        return hashlib.sha1(json.dumps({name: content.hex() for name, content in self.files.items()}).encode()).hexdigest()


@dataclass
class DatasetHub:
    url: str
    repos: dict[str, DatasetRepo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@contextmanager
def serve_datasets() -> Iterator[DatasetHub]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub = DatasetHub(f"http://127.0.0.1:{server.server_port}")
        server.hub = hub  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield hub
        server.shutdown()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub: DatasetHub = self.server.hub  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.requests.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        match = re.fullmatch(r"/(api/)?datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info|resolve)/([^/]+)(?:/(.*))?)?", path)
        repo = hub.repos.get(match[2]) if match else None
        if match is None:
            self._send(404, {})
        elif (refusal := self._refusal(repo)) is not None or repo is None:
            self._send(*(refusal or (401, {}, {})))
        elif match[4] not in (None, "main", repo.commit):
            self._send(404, {}, {"X-Error-Code": "RevisionNotFound"})
        elif match[3] == "tree":
            self._tree(repo, match[5] or "")
        elif match[3] == "paths-info":
            asked = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
            self._send(200, [entry for name in asked["paths"] if (entry := _entry(repo, name))])
        elif match[3] == "resolve":
            self._file(repo, match[5])
        else:
            self._send(200, {"id": match[2], "sha": repo.commit, "siblings": [{"rfilename": name} for name in repo.files]})

    do_HEAD = do_POST = do_GET

    def _refusal(self, repo: DatasetRepo | None) -> tuple[int, Any, dict[str, str]] | None:
        allowed = repo is not None and repo.token in (None, (self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if repo is None or not allowed:
            gated = bool(repo and repo.gated)
            return 403 if gated else 401, {"error": "no"}, {"X-Error-Code": "GatedRepo" if gated else "RepoNotFound"}
        return None if repo.status == 200 else (repo.status, {"error": "no"}, {})

    def _tree(self, repo: DatasetRepo, below: str) -> None:
        recursive = parse_qs(urlsplit(self.path).query).get("recursive") == ["true"]
        inside = [name for name in repo.files if not below or name.startswith(f"{below}/")]
        if below and not inside:
            self._send(404, {}, {"X-Error-Code": "EntryNotFound"})
            return
        names = dict.fromkeys(inside)
        depth = below.count("/") + 2 if below else 1
        folders = dict.fromkeys("/".join(name.split("/")[:level]) for name in inside for level in range(depth, name.count("/") + 1))
        found = [entry for name in [*folders, *names] if (entry := _entry(repo, name)) and (recursive or name.count("/") == depth - 1)]
        self._send(200, found)

    def _file(self, repo: DatasetRepo, name: str) -> None:
        content = repo.files.get(name)
        if content is None or name == repo.broken:
            self._send(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit})
            return
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self._send(206, content[start : end + 1], headers)
        else:
            self._send(200, content, headers)

    def _send(self, status: int, body: Any, headers: dict[str, str] = {}) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _entry(repo: DatasetRepo, name: str) -> dict[str, Any] | None:
    if name in repo.files:
        return {"type": "file", "path": name, "size": len(repo.files[name]), "oid": _oid(repo.files[name])}
    if any(path.startswith(f"{name}/") for path in repo.files):
        return {"type": "directory", "path": name, "size": 0, "oid": _oid(name.encode())}
    return None


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
