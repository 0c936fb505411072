"""Download files of a repository, all of one commit, and prove each: huggingface_hub compares sizes, and not what arrived."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.jsonfile import kept_folder
from hf_layerprune.errors import LayerPruneError, SourceError
from hf_layerprune.hub.errors import Call, hub_errors
from hf_layerprune.hub.listing import RemoteRepo, file_record, git_id

SUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's id of a small file, sha256 of one in LFS or Xet
READERS = 2


@dataclass(frozen=True)
class Cache:
    """A model repository whose files are fetched into the Hub's cache. SourceError for whatever the Hub refuses."""

    repo: str  # OWNER/NAME
    inner: str = ""  # the folder in it that config.json lies in
    folder: str | Path | None = None  # of the cache; huggingface_hub's own, if None
    only: bool = False  # fetch nothing
    token: str | bool | None = field(default=None, repr=False)

    def commit(self, revision: str | None) -> str:
        """The commit that a branch, tag or commit names now or, where the Hub cannot be asked, named before."""
        from huggingface_hub import HfApi

        with hub_errors(Call(self.repo, revision, self.token, self.only)):
            return str(HfApi().resolve_revision(self.repo, revision=revision, **self._place).resolved)

    def has(self, commit: str, name: str) -> bool:
        """Whether a file of a commit was fetched before."""
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repo, self._within(name), self.folder, commit), str)

    def fetch(self, commit: str, patterns: Sequence[str]) -> Path:
        """The folder of the cache that holds config.json, with all files that match the patterns fetched and proved.

        A file that is damaged is fetched anew, once. SourceError naming the first that stays damaged.
        """
        from huggingface_hub import constants, hf_hub_download, snapshot_download

        offline = self.only or constants.is_offline_mode()
        with hub_errors(Call(self.repo, commit, self.token, self.only)):
            snapshot = snapshot_download(self.repo, revision=commit, allow_patterns=list(map(self._within, patterns)), **self._place)
            folder = Path(snapshot) / self.inner
            for name in _damaged(folder, patterns):
                if not offline:
                    hf_hub_download(self.repo, self._within(name), revision=commit, force_download=True, **self._place)
                if offline or not _has_its_sum(folder / name):
                    remedy = "Run again online" if offline else "The server or the connection is at fault: run again later"
                    what = f"{self.repo}/{self._within(name)}: what lies in the Hub's cache is not the file that the Hub lists"
                    raise SourceError(f"{what}. {remedy}, to fetch it anew.")
        return folder

    def _within(self, name: str) -> str:
        return f"{self.inner}/{name}" if self.inner else name

    @property
    def _place(self) -> dict[str, Any]:
        return {"cache_dir": self.folder, "local_files_only": self.only, "token": self.token}


def fetch_into(folder: Path, repo: RemoteRepo, name: str) -> Path:
    """A listed file, downloaded into a folder and proved. What huggingface_hub notes in `folder/.cache` stays.

    SourceError if the Hub does not give it, CheckpointError naming it if what arrived is not what is listed.
    """
    from huggingface_hub import hf_hub_download

    file = repo.files[name]
    with hub_errors(Call(repo.id, repo.commit, repo.token)):
        arrived = hf_hub_download(repo.id, name, subfolder=repo.inner or None, revision=repo.commit, token=repo.token, local_dir=folder)
        file.prove(Path(arrived))
    return Path(arrived)


def _damaged(folder: Path, patterns: Sequence[str]) -> list[str]:
    """The files of a snapshot that match patterns and have not the sum that they are named by, where the cache consists of links."""
    links = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_symlink() and path.is_file()}
    files = {name: path for name, path in links.items() if any(fnmatch(name, pattern) for pattern in patterns)}
    with ThreadPoolExecutor(READERS) as readers:
        return [name for name, good in zip(files, readers.map(_has_its_sum, files.values()), strict=True) if not good]


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
    if file_record(blob).sha256 != blob.name:
        return False
    with suppress(OSError):
        if note:
            note.write_text(state)
    return True
