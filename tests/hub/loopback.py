"""A Hub on 127.0.0.1 for the real client: the few endpoints that a download needs, and the ways in which a Hub can fail.

What a push needs besides is in `writing`."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.hub.state import Account, Fault, Files, Repo
from tests.hub.writing import Writing


class LoopbackHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}  # of models
        self.datasets: dict[str, Repo] = {}
        self.requests: list[str] = []  # paths
        self.sent: list[tuple[str, str, int]] = []  # path in the repository, range asked for, bytes, of every file's content
        self.accounts: dict[str, Account] = {}  # by token
        self.others: dict[str, str] = {}  # "dataset" or "space", by name, of which nothing but the name is there
        self.renamed: dict[str, str] = {}  # the name that a repository has, by the one it had
        self.objects: Files = {}  # in LFS, by sha256
        self.parts: dict[str, dict[int, bytes]] = {}
        self.puts: list[str] = []  # objects and parts that were sent
        self.faults: list[Fault] = []
        self.part_size = self.wrong_tags = self.flips = 0  # of multipart uploads; how many answers or stored files are wrong
        self._numbers = count()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up, as one does that has read enough, is nothing to report."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def add(self, name: str) -> Repo:
        """A new repository, as the Hub makes it."""
        self.repos[name] = Repo()
        self.repos[name].push({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        return self.repos[name]

    def publish(self, files: Files, **faults: Any) -> tuple[str, Repo]:
        """A new model repository that holds these files and fails as the keywords say, and its name."""
        name = f"you/model-{next(self._numbers)}"
        self.repos[name] = Repo(**faults)
        self.repos[name].push(files)
        self.sent.clear()
        return name, self.repos[name]

    def mode(self, path: str) -> str:
        return "lfs" if is_lfs(path) else "regular"

    def oid(self, path: str, files: Files) -> str | None:
        """What a preupload says of a file that is there."""
        if (content := files.get(path)) is None:
            return None
        return hashlib.sha256(content).hexdigest() if is_lfs(path) else git_id(content)

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


@contextmanager
def only_hub(hub: LoopbackHub, cache: Path) -> Iterator[None]:
    """Within the block, huggingface_hub in this process knows no other Hub, caches there, waits for nothing and draws no bars."""
    from huggingface_hub import constants, utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr("hf_layerprune.hub.listing.WAIT_SECONDS", 0)
        patch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda seconds: None))
        utils.disable_progress_bars()
        yield
        utils.enable_progress_bars()


API = r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?"


class Handler(Writing, BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer on a kept connection waits 40 ms

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        path = urlsplit(self.path).path
        if self.fails() or self.moved():
            return
        if (match := re.fullmatch(API, path)) and (match[1] == "models" or match[2] not in self.server.others):
            self.describe(match[1], match[2], match[3], unquote(match[4] or "main"), unquote(match[5] or ""))
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file("datasets" if match[1] else "models", match[2], unquote(match[3]), unquote(match[4]))
        else:
            self.read_more(path)

    do_HEAD = do_GET

    def _repo(self, kind: str, name: str) -> Repo | None:
        """The repository, if this client may see it; otherwise the answer has been sent."""
        repo = (self.server.datasets if kind == "datasets" else self.server.repos).get(name)
        allowed = repo is not None and repo.token in (None, (self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if repo is None or not allowed:
            code = "GatedRepo" if repo and repo.gated else "RepoNotFound"
            self._send(403 if repo and repo.gated else 401, b'{"error": "no"}', {"X-Error-Code": code})
        elif repo.status != 200:
            self._send(repo.status, b'{"error": "no"}')
        else:
            return repo
        return None

    def describe(self, kind: str, name: str, what: str | None, revision: str, below: str) -> None:
        """What a repository is, or what lies at one of its commits. kind: models or datasets; below: the folder that is listed."""
        if (repo := self._repo(kind, name)) is None:
            return
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            self._send(404, b'{"error": "no"}', {"X-Error-Code": "RevisionNotFound"})
            return
        files = repo.commits[commit]
        if what == "paths-info":
            self._paths(files)
        elif what == "tree":
            self._tree(files, below)
            if repo.on_tree:
                repo.on_tree()
        else:
            siblings = [{"rfilename": path} for path in files]
            self.answer({"id": name, "modelId": name, "sha": commit, "private": repo.private, "siblings": siblings})

    def _tree(self, files: Files, below: str) -> None:
        inside = {path: content for path, content in files.items() if path.startswith(f"{below}/" if below else "")}
        if below and not inside:
            self._send(404, b'{"error": "no"}', {"X-Error-Code": "EntryNotFound"})
            return
        depth = below.count("/") + 2 if below else 1
        entries = [listed(path, content) for path, content in inside.items()]
        entries += [a_folder(path) for path in folders(inside) if path.count("/") >= depth - 1]
        if parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() != "true":
            entries = [entry for entry in entries if str(entry["path"]).count("/") == depth - 1]
        self._send(200, json.dumps(entries).encode())

    def _paths(self, files: Files) -> None:
        """Those of the paths that were asked for which exist."""
        body = self.body()
        asked = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
        found = [listed(path, files[path]) for path in asked["paths"] if path in files]
        self.answer(found + [a_folder(path) for path in asked["paths"] if path in folders(files)])

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        if (repo := self._repo(kind, name)) is None:
            return
        commit = repo.refs.get(revision, revision)
        content = repo.commits.get(commit, {}).get(path)
        if content is None or path == repo.broken:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif repo.refusals:
            status, headers = repo.refusals.pop(0)
            self._send(status, b"", headers)
        else:
            if self.command == "GET" and repo.on_file:
                repo.on_file(path, self.headers.get("Range") or "")
            time.sleep(repo.slow)
            self._content(repo, path, commit, content)

    def _content(self, repo: Repo, path: str, commit: str, content: bytes) -> None:
        tag = hashlib.sha256(content).hexdigest() if is_lfs(path) else git_id(content)
        tag = f"{len(self.server.requests):040}" if repo.new_etags else tag
        content = repo.served.get(path, content)
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if is_lfs(path):
            headers |= {"X-Linked-ETag": f'"{tag}"', "X-Linked-Size": str(len(content))}
        begin, end = self._range(len(content))
        status = 206 if "Range" in self.headers and not repo.ignore_range else 200
        if status == 206:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
            content = content[begin:end]
        if self.command == "GET":
            self.server.sent.append((path, self.headers.get("Range") or "", len(content)))
        self._send(416 if status == 206 and begin >= end else status, content, headers, repo if is_lfs(path) else None)

    def _range(self, size: int) -> tuple[int, int]:
        first, _, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
        return int(first), min(size, int(last) + 1) if last else size

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, drops: Repo | None = None) -> None:
        (muted, self.muted), (then, self.then) = (self.muted, None), (self.then, None)
        if then:
            then()
        if muted == 0:
            self.close_connection = True
            self.connection.shutdown(2)
            return
        status = muted or status
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


def is_lfs(path: str) -> bool:
    return path.endswith(".safetensors")


def listed(path: str, content: bytes) -> dict[str, object]:
    """An entry of the tree; of a file in LFS git itself holds a pointer only."""
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": git_id(content)}
    if is_lfs(path):
        entry |= {"oid": git_id(b"pointer"), "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 7}}
    return entry


def folders(files: Files) -> set[str]:
    """The folders that files lie in, at any depth."""
    return {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}


def a_folder(path: str) -> dict[str, object]:
    """An entry of the tree."""
    return {"type": "directory", "path": path, "size": 0, "oid": git_id(path.encode())}
