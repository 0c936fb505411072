"""Download files of a repository, all of one commit, and prove each: huggingface_hub compares sizes, and not what arrived."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.jsonfile import kept_folder
from hf_layerprune.errors import CheckpointError, LayerPruneError, SourceError
from hf_layerprune.hub.errors import read_errors
from hf_layerprune.hub.listing import RemoteRepo
from hf_layerprune.hub.prove import git_id, prove, record_of

SUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's id of a small file, sha256 of one in LFS or Xet
READERS = 2


@dataclass(frozen=True)
class Cache:
    """A model repository whose files are fetched into the Hub's cache."""

    repo: str  # OWNER/NAME
    inner: str = ""  # the folder in it that config.json lies in
    folder: str | Path | None = None  # of the cache; huggingface_hub's own, if None
    only: bool = False  # fetch nothing
    token: str | bool | None = field(default=None, repr=False)

    @contextmanager
    def errors(self, revision: str | None) -> Iterator[None]:
        """Within the block, what the Hub refuses becomes SourceError about this repository."""
        with read_errors(self.repo, revision, self.token, cache_only=self.only):
            yield

    def commit(self, revision: str | None) -> str:
        """The commit that a branch, tag or commit names now, or named when the Hub was last asked."""
        from huggingface_hub import HfApi

        with self.errors(revision):
            return str(HfApi().resolve_revision(self.repo, revision=revision, **self._place).resolved)

    def has(self, commit: str, name: str) -> bool:
        """Whether a file of a commit was fetched before."""
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repo, self._within(name), self.folder, commit), str)

    def fetch(self, commit: str, patterns: Sequence[str]) -> Path:
        """The folder of the cache that holds config.json, with all files that match the patterns fetched and proved.

        A file that is damaged is fetched anew, once. SourceError naming the first that stays damaged.
        """
        from huggingface_hub import snapshot_download

        with self.errors(commit):
            snapshot = snapshot_download(self.repo, revision=commit, allow_patterns=list(map(self._within, patterns)), **self._place)
            folder = Path(snapshot) / self.inner
            self._prove(folder, commit, patterns)
            return folder

    def _prove(self, folder: Path, commit: str, patterns: Sequence[str]) -> None:
        from huggingface_hub import constants, hf_hub_download

        links = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_symlink() and path.is_file()}
        files = {name: path for name, path in links.items() if any(fnmatch(name, pattern) for pattern in patterns)}
        with ThreadPoolExecutor(READERS) as readers:
            good = dict(zip(files, readers.map(_has_its_sum, files.values()), strict=True))
        offline = self.only or constants.is_offline_mode()
        for name in (name for name, is_good in good.items() if not is_good):
            if not offline:
                hf_hub_download(self.repo, self._within(name), revision=commit, force_download=True, **self._place)
            if offline or not _has_its_sum(files[name]):
                remedy = "Run again online" if offline else "The server or the connection is at fault: run again later"
                where = "/".join(filter(None, (self.repo, self.inner, name)))
                raise SourceError(f"{where}: what lies in the Hub's cache is not the file that the Hub lists. {remedy}, to fetch it anew.")

    def _within(self, name: str) -> str:
        return f"{self.inner}/{name}" if self.inner else name

    @property
    def _place(self) -> dict[str, Any]:
        return {"cache_dir": self.folder, "local_files_only": self.only, "token": self.token}


def fetch_record(repo: RemoteRepo, name: str, limit: int) -> Path | None:
    """A file in the Hub's cache, fetched if it is not there, and proved; None if the repository does not list it.

    CheckpointError if it has more than `limit` bytes, or arrived as another file than is listed.
    """
    from huggingface_hub import hf_hub_download

    if (file := repo.files.get(name)) is None:
        return None
    if file.size > limit:
        raise CheckpointError(f"{file.where}: {file.size:,} bytes is no record; at most {limit:,} are read.")
    with read_errors(repo.id, repo.commit, repo.token):
        path = Path(hf_hub_download(repo.id, name, subfolder=repo.inner or None, revision=repo.commit, token=repo.token))
        prove(path, file)
    return path


def fetch_into(folder: Path, repo: RemoteRepo, name: str) -> Path:
    """A listed file, downloaded into a folder and proved; a dropped connection is huggingface_hub's to take up again.

    What huggingface_hub notes in `folder/.cache` stays. SourceError if the Hub does not give it, CheckpointError naming it if what
    arrived is not what is listed.
    """
    from huggingface_hub import hf_hub_download

    file = repo.files[name]
    with read_errors(repo.id, repo.commit, repo.token):
        arrived = hf_hub_download(repo.id, name, subfolder=repo.inner or None, revision=repo.commit, token=repo.token, local_dir=folder)
        prove(Path(arrived), file)
    return Path(arrived)


def _has_its_sum(link: Path) -> bool:
    """Whether a file of the cache has the sum that it is named by; a name of another kind promises nothing.

    That a large file was right is remembered for as long as it is not written again.
    """
    blob = link.resolve()
    if not SUM.fullmatch(blob.name):
        return True
    if len(blob.name) == 40:
        return git_id(blob) == blob.name
    status = blob.stat()
    state, note = f"{status.st_ino} {status.st_size} {status.st_mtime_ns}\n", None
    with suppress(LayerPruneError):  # where nothing can be kept, it is read every time
        note = kept_folder("proved") / blob.name
    with suppress(OSError):
        if note and note.read_text() == state:
            return True
    if record_of(blob).sha256 != blob.name:
        return False
    with suppress(OSError):
        if note:
            note.write_text(state)
    return True
