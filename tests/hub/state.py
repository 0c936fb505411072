"""What the loopback Hub holds: repositories, accounts, and the ways in which it is to fail."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Files = dict[str, bytes]


@dataclass
class Repo:
    """A repository, and how it fails."""

    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # branch to commit
    private: bool = False
    summaries: list[str] = field(default_factory=list)  # of the commits that a client made
    token: str | None = None  # who may read; None: everybody
    gated: bool = False
    status: int = 200  # what every request about it is answered with, but for its files
    broken: str | None = None  # a file that is listed, and cannot be fetched
    served: Files = field(default_factory=dict)  # what is sent in place of what is listed
    drop_at: int | None = None  # the first `drops` answers with a weight file end after so many bytes
    drops: int = 0
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # status and headers of the next answers about a file
    ignore_range: bool = False  # every file is sent whole
    new_etags: bool = False  # no two answers have the same
    slow: float = 0.0  # seconds before each file
    on_tree: Callable[[], object] | None = None  # called after it was listed
    on_file: Callable[[str, str], object] | None = None  # called with the path and the range of every file that is about to be sent

    @classmethod
    def of(cls, files: Files, **faults: Any) -> Repo:
        """A repository with one commit."""
        repo = cls(**faults)
        repo.push(files)
        return repo

    def push(self, files: Files) -> str:
        commit = hashlib.sha1(json.dumps({name: content.hex() for name, content in files.items()}).encode()).hexdigest()
        self.commits[commit] = files
        self.refs["main"] = commit
        return commit

    def commit(self, ref: str, files: Files, summary: str) -> str:
        oid = hashlib.sha1(f"{ref} {len(self.commits)} {summary}".encode()).hexdigest()
        self.commits[oid] = files
        self.refs[ref] = oid
        self.summaries.append(summary)
        return oid

    def files(self, ref: str = "main") -> Files:
        return self.commits[self.refs[ref]]


@dataclass
class Account:
    """Whose token it is. role: write, read or fineGrained; scopes: of the latter, a name and what is permitted there."""

    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ()
    scopes: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def describe(self) -> dict[str, Any]:
        token: dict[str, Any] = {"displayName": "test", "role": self.role}
        if self.role == "fineGrained":
            scoped = [{"entity": {"_id": "1", "type": "user", "name": name}, "permissions": [*rights]} for name, rights in self.scopes]
            token["fineGrained"] = {"global": [], "scoped": scoped}
        orgs = [{"type": "org", "name": name} for name in self.orgs]
        return {"type": "user", "name": self.name, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}}

    def may_write(self, repo: str) -> bool:
        owner = repo.split("/")[0]
        if self.role == "fineGrained":
            return any(name in (owner, repo) and "repo.write" in rights for name, rights in self.scopes)
        return self.role == "write" and owner in (self.name, *self.orgs)


@dataclass
class Fault:
    """A way to fail, used up after `times` requests. where: a pattern searched in "METHOD path"; status: what is answered instead, 0
    for no answer at all; late: only after what was asked is done; slow: seconds to wait, and then go on; before: called, then go on;
    after: called when what was asked is done, before the answer; skip: requests that go well before; body: of the answer."""

    where: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    late: bool = False
    slow: float = 0.0
    before: Callable[[], object] | None = None
    after: Callable[[], object] | None = None
    skip: int = 0
    body: bytes = b'{"error": "no"}'
