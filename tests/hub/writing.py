"""The half of the loopback Hub that is written to: new repositories, LFS objects, commits, pull requests."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.state import Account, Repo

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler as Server

    from tests.hub.loopback import LoopbackHub
else:
    Server = object

REPO = r"([^/]+/[^/]+)"
TASKS = ("image-text-to-text", "text-generation", "visual-question-answering", "image-to-text")
LICENCES = {*"apache-2.0 mit other unknown bsd-3-clause gpl-3.0 openrail cc-by-4.0 cc-by-nc-4.0 llama3.1 gemma".split()}


def objections(metadata: dict[str, Any]) -> Iterator[str]:
    """What the Hub says against a card's metadata: types, and the names that it knows."""

    def texts(value: object) -> list[Any]:
        found = value if isinstance(value, list) else [value]
        return found if found and all(isinstance(item, str) for item in found) else []

    if not {*(texts(metadata.get("license", "unknown")) or [""])} <= LICENCES:
        yield '"license" must be one of [apache-2.0, mit, ...]'
    if not all(isinstance(metadata.get(key, ""), str) for key in ("library_name", "license_name", "base_model_relation")):
        yield "a name must be a string"
    if "tags" in metadata and not (isinstance(metadata["tags"], list) and texts(metadata["tags"])):
        yield '"tags" must be an array of strings'
    if "language" in metadata and not (
        (codes := texts(metadata["language"])) and all(re.fullmatch("[a-z]{2,3}|multilingual", code) for code in codes)
    ):
        yield '"language" must only contain lowercase ISO 639 codes'
    if metadata.get("pipeline_tag", TASKS[0]) not in TASKS:
        yield f'"pipeline_tag" must be one of [{", ".join(TASKS)}]'
    for key in ("base_model", "datasets"):
        if key in metadata and not (texts(metadata[key]) and all(re.fullmatch(REPO, item) for item in texts(metadata[key]))):
            yield f'"{key}" with value {str(metadata[key])[:40]} is not valid. Use a model id from https://hf.co/models.'
    yield from (f'"model-index" is wrong: {error!r}' for error in index_errors(metadata.get("model-index", [])))


def index_errors(index: Any) -> Iterator[Exception]:
    try:
        for model in index:
            assert isinstance(model["name"], str), "no name"
            for result in model["results"]:
                assert result["task"]["type"] in TASKS, "unknown task"
                assert all(isinstance(result["dataset"][key], str) for key in ("name", "type")), "no dataset"
                assert all(isinstance(metric["type"], str) and isinstance(metric["value"], float) for metric in result["metrics"])
    except (AssertionError, LookupError, TypeError) as error:
        yield error


class Writing(Server):
    """What a request handler of the Hub does besides reading."""

    server: LoopbackHub
    then: Callable[[], object] | None = None  # called before the answer
    muted: int | None = None  # the status that is answered in place of the real one, 0 for none

    def do_POST(self) -> None:
        self.server.requests.append(self.path)
        if self.fails() or self.moved():
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/api/repos/create":
            self._create(json.loads(self.body()))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(self.body())["content"])
        elif match := re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)/paths-info/([^/]+)", path):
            self.describe(match[1], match[2], "paths-info", match[3], "")
        elif match := re.fullmatch(rf"/api/models/{REPO}/(preupload|commit)/(.+)", path):
            self._writable(match[1], self._preupload if match[2] == "preupload" else self._commit, match[3])
        elif match := re.fullmatch(rf"/{REPO}\.git/info/lfs/objects/batch", path):
            self._writable(match[1], self._batch, "")
        elif path == "/lfs/verify":
            self._verify(json.loads(self.body()))
        elif match := re.fullmatch(r"/lfs/complete/(\w+)", path):
            self._complete(match[1], json.loads(self.body()))
        else:
            self.body()
            self._send(404, b"")

    def do_PUT(self) -> None:
        """An object, or a part of one: /lfs/OID[/PART]. What ends early is not kept, as in a real store."""
        self.server.requests.append(self.path)
        if self.fails():
            return
        _, _, oid, *part = urlsplit(self.path).path.split("/")
        content = self.body()
        self.server.puts.append(oid)
        tag = hashlib.md5(content).hexdigest()
        if part:
            self.server.parts.setdefault(oid, {})[int(part[0])] = content
        else:
            self.server.objects[oid] = content
        if self.server.wrong_tags:
            self.server.wrong_tags -= 1
            tag = "0" * 32
        self._send(200, b"", {"ETag": f'"{tag}"'})

    def moved(self) -> bool:
        """Whether this was about a repository by the name it had, and the answer is the one it has: what follows is the client's."""
        for old, new in self.server.renamed.items():
            if f"/{old}" in self.path and f"/{new}" not in self.path:
                self.body()
                self._send(307, b"", {"Location": self.server.url + self.path.replace(f"/{old}", f"/{new}")})
                return True
        return False

    def fails(self) -> bool:
        """Whether a fault has answered this request."""
        asked = f"{self.command} {unquote(self.path)}"
        fault = next((fault for fault in self.server.faults if fault.times and re.search(fault.where, asked)), None)
        if fault is None:
            return False
        if fault.skip:
            fault.skip -= 1
            return False
        fault.times -= 1
        time.sleep(fault.slow)
        if fault.before:
            fault.before()
        self.then = fault.after
        if fault.slow or fault.before or fault.after:
            return False
        if fault.late:
            self.muted = fault.status
            return False
        if fault.status == 0:
            self.rfile.read(min(1000, int(self.headers.get("Content-Length") or 0)))
            self.close_connection = True
            self.connection.shutdown(2)
            return True
        self.body()
        self._send(fault.status, fault.body, fault.headers)
        return True

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            blocks = []
            while size := int(self.rfile.readline(), 16):
                blocks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(blocks)
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        if len(content) != length:
            raise ConnectionError("the client hung up")
        return content

    def account(self) -> Account | None:
        return self.server.accounts.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def answer(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode())

    def read_more(self, path: str) -> None:
        """The reading that only a push needs."""
        account = self.account()
        if path == "/api/whoami-v2":
            self.answer(account.describe() if account else {"error": "Invalid credentials"}, 200 if account else 401)
        elif match := re.fullmatch(rf"/api/models/{REPO}/auth-check/write", path):
            allowed = account is not None and account.may_write(match[1])
            self.answer({} if allowed else {"error": "no"}, 200 if allowed else 403)
        elif match := re.fullmatch(rf"/api/models/{REPO}/refs", path):
            refs = [{"name": ref, "ref": ref, "targetCommit": oid} for ref, oid in self.server.repos[match[1]].refs.items()]
            self.answer({"branches": refs[:1], "converts": [], "tags": [], "pullRequests": refs[1:]})
        elif re.fullmatch(rf"/api/models/{REPO}/xet-write-token/.+", path):
            self.answer({"casUrl": "http://127.0.0.1:9", "exp": int(time.time()) + 3600, "accessToken": "xet"})  # where nobody listens
        elif match := re.fullmatch(rf"/api/(dataset|space)s/{REPO}", path):
            found = self.server.others.get(match[2]) == match[1]
            code = {} if found else {"X-Error-Code": "RepoNotFound"}
            self._send(200 if found else 401, json.dumps({"id": match[2], "sha": "0" * 40}).encode(), code)
        else:
            self._send(404, b"")

    def _create(self, asked: dict[str, Any]) -> None:
        account = self.account()
        name = f"{asked.get('organization') or (account.name if account else '')}/{asked['name']}"
        if account is None or not account.may_write(name):
            self.answer({"error": "You don't have the rights to create a model under this namespace"}, 403 if account else 401)
        elif name in self.server.repos:
            self.answer({"error": "You already created this model repo"}, 409)
        else:
            repo = self.server.add(name)
            repo.private = asked.get("visibility") == "private"
            self.answer({"url": f"{self.server.url}/{name}"})

    def _validate(self, content: str) -> None:
        import yaml

        front = re.match(r"---\n(.*?\n)---\n", content, re.DOTALL)
        try:
            wrong = [*objections(yaml.safe_load(front[1] if front else "") or {})]
        except yaml.YAMLError as error:
            wrong = [str(error)]
        self.answer({"errors": [{"message": message} for message in wrong], "warnings": []}, 400 if wrong else 200)

    def _writable(self, name: str, then: Callable[[str, Repo, str, bytes], None], revision: str) -> None:
        content, account, repo = self.body(), self.account(), self.server.repos.get(name)
        proposes = "create_pr=1" in self.path or revision.startswith("refs/pr/") or "refs/pr/" in content[:4000].decode("latin-1")
        if account is None or repo is None:
            self._send(401, b'{"error": "no"}', {"X-Error-Code": "RepoNotFound"})
        elif not account.may_write(name) and (account.role == "read" or not proposes) and then != self._batch:
            self.answer({"error": "You do not have write access"}, 403)
        else:
            then(name, repo, revision, content)

    def _preupload(self, name: str, repo: Repo, revision: str, content: bytes) -> None:
        files = repo.commits[repo.refs[revision]]
        modes = [
            {"path": file["path"], "uploadMode": self.server.mode(file["path"]), "shouldIgnore": False}
            for file in json.loads(content)["files"]
        ]
        self.answer({"files": [mode | {"oid": self.server.oid(mode["path"], files)} for mode in modes]})

    def _batch(self, name: str, repo: Repo, revision: str, content: bytes) -> None:
        objects: list[dict[str, Any]] = []
        for asked in json.loads(content)["objects"]:
            oid, size, part = asked["oid"], asked["size"], self.server.part_size
            if oid in self.server.objects:
                objects.append({"oid": oid, "size": size})
                continue
            upload: dict[str, Any] = {"href": f"{self.server.url}/lfs/{oid}?X-Amz-Signature=signed"}
            if part and size > part:
                urls = {str(1 + number): f"{self.server.url}/lfs/{oid}/{1 + number}" for number in range(-(-size // part))}
                upload = {"href": f"{self.server.url}/lfs/complete/{oid}", "header": {"chunk_size": str(part), **urls}}
            objects.append({"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{self.server.url}/lfs/verify"}}})
        self.answer({"transfer": "basic", "objects": objects})

    def _complete(self, oid: str, asked: dict[str, Any]) -> None:
        parts = self.server.parts.pop(oid, {})
        tags = {part["partNumber"]: part["etag"].strip('"') for part in asked["parts"]}
        if tags != {number: hashlib.md5(content).hexdigest() for number, content in parts.items()}:
            self.answer({"error": "InvalidPart: the ETag of a part does not match"}, 400)
            return
        self.server.objects[oid] = b"".join(content for _, content in sorted(parts.items()))
        self.answer({})

    def _verify(self, asked: dict[str, Any]) -> None:
        content = self.server.objects.get(asked["oid"], b"")
        if len(content) != asked["size"] or hashlib.sha256(content).hexdigest() != asked["oid"]:
            self.server.objects.pop(asked["oid"], None)
            self.answer({"error": "the object is not what was announced"}, 400)
            return
        self.answer({})

    def _commit(self, name: str, repo: Repo, revision: str, content: bytes) -> None:
        header, *operations = (json.loads(line) for line in content.splitlines())
        head = repo.refs.get(revision)
        parent = header["value"].get("parentCommit", head)
        if head is None or parent not in repo.commits:
            self._send(404, b'{"error": "no"}', {"X-Error-Code": "RevisionNotFound"})
        elif parent != head and "create_pr" not in self.path:
            self.answer({"error": "A commit has happened since. Please refresh and try again."}, 412)
        elif missing := [
            op["value"]["path"] for op in operations if op["key"] == "lfsFile" and op["value"]["oid"] not in self.server.objects
        ]:
            self.answer({"error": f"LFS pointer of {missing[0]} pointed to a file that does not exist"}, 400)
        else:
            files = dict(repo.commits[parent])
            for operation in operations:
                self._apply(files, operation["key"], operation["value"])
            number = sum(ref.startswith("refs/pr/") for ref in repo.refs) + 1
            ref = f"refs/pr/{number}" if parse_qs(urlsplit(self.path).query).get("create_pr") else revision
            oid = repo.commit(ref, files, header["value"]["summary"])
            page = f"{self.server.url}/{name}"
            self.answer({"commitOid": oid, "commitUrl": f"{page}/commit/{oid}", "pullRequestUrl": f"{page}/discussions/{number}"})

    def _apply(self, files: dict[str, bytes], kind: str, value: dict[str, Any]) -> None:
        if kind == "deletedFile":
            del files[value["path"]]
        else:
            content = self.server.objects[value["oid"]] if kind == "lfsFile" else base64.b64decode(value["content"])
            flipped = self.server.flips and content
            self.server.flips -= bool(flipped)
            files[value["path"]] = content[:-1] + bytes([content[-1] ^ 1]) if flipped else content

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        raise NotImplementedError

    def describe(self, kind: str, name: str, what: str | None, revision: str, below: str) -> None:
        raise NotImplementedError
