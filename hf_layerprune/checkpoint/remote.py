"""A Hub repository at one commit, read by ranges: nothing is taken that its listing did not announce."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from hf_layerprune.checkpoint.hub_errors import hub_errors, transport_error
from hf_layerprune.checkpoint.remote_files import AGAIN, RemoteFile, check_answer
from hf_layerprune.errors import CheckpointError, SourceError

MAX_FILES = 100_000
RETRIES, WAIT_SECONDS = 5, 1.0  # as huggingface_hub's own download: five attempts in a row that bring nothing new


class RemoteRepo:
    """A repository at one commit. requests, received: how many ranges were asked for and how many bytes of them arrived."""

    def __init__(self, id: str, commit: str, *, token: str | bool | None = None, inner: str = "") -> None:
        self.id, self.commit, self.inner = id, commit, inner
        self.requests = self.received = 0
        self.token = token
        self._tags: dict[str, str] = {}
        self._lock = threading.Lock()

    @cached_property
    def files(self) -> Mapping[str, RemoteFile]:
        """What the repository lists, by path from config.json's folder. SourceError if it cannot be listed, or is no model."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        start = f"{self.inner}/" if self.inner else ""
        with hub_errors(self.id, self.commit, False, self.token):
            listed = HfApi().list_repo_tree(self.id, self.inner or None, recursive=True, revision=self.commit, token=self.token)
            entries = list(islice(listed, MAX_FILES + 1))
        if len(entries) > MAX_FILES:
            raise SourceError(f"{self.id} has more than {MAX_FILES:,} files, which is no model. Pass another repository.")
        files = [entry for entry in entries if isinstance(entry, RepoFile)]
        named = [(file.path.removeprefix(start), file) for file in files]
        return {
            name: RemoteFile(name, self.where(name), file.size, file.lfs.sha256 if file.lfs else None, file.blob_id) for name, file in named
        }

    def where(self, name: str) -> str:
        """How errors name a file."""
        return "/".join(filter(None, (self.id, self.inner, name)))

    def fetch(self, name: str) -> Path:
        """A file in the Hub's cache, fetched if it is not there. SourceError if the Hub does not give it."""
        from huggingface_hub import hf_hub_download

        with hub_errors(self.id, self.commit, False, self.token):
            return Path(hf_hub_download(self.id, name, subfolder=self.inner or None, revision=self.commit, token=self.token))

    def read(self, name: str, begin: int, end: int) -> Iterator[bytes]:
        """The bytes of a file from `begin` to before `end`, in blocks as they arrive; a dropped connection is taken up again.

        Never reads beyond `end`, whatever the server sends. Raises SourceError when the Hub refuses or is silent, and
        CheckpointError naming the file when it answers with something else than was listed or sent before.
        """
        failed = 0
        with hub_errors(self.id, self.commit, False, self.token):
            while begin < end:
                before = begin
                try:
                    for block in self._answer(self.files[name], begin, end):
                        begin += len(block)
                        yield block
                    if begin == before:
                        raise CheckpointError(f"{self.where(name)}: ends at byte {begin:,}, expected {end:,}. {AGAIN}")
                except transport_error() as error:
                    failed = failed + 1 if begin == before else 0
                    if hasattr(error, "response") or failed > RETRIES:  # an answer of the Hub, which was asked often enough
                        raise
                    time.sleep(WAIT_SECONDS)

    def _answer(self, file: RemoteFile, begin: int, end: int) -> Iterator[bytes]:
        from huggingface_hub import constants, hf_hub_url, utils

        hub: Any = utils  # which exports these without saying so to type checkers
        url = hf_hub_url(self.id, file.name, subfolder=self.inner or None, revision=self.commit)
        asked = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        headers = {**hub.build_hf_headers(token=self.token), **asked}
        self._count(1, 0)
        # Exceptions are retried by `read`, which knows what has arrived; busy and ill servers are huggingface_hub's to wait for.
        with hub.http_stream_backoff(
            "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, retry_on_exceptions=()
        ) as response:
            if response.status_code != 416:
                hub.hf_raise_for_status(response)
            self._tags[file.name] = check_answer(file, begin, response, self._tags.get(file.name))
            for block in response.iter_raw():
                wanted = block[: end - begin]
                self._count(0, len(block))
                begin += len(wanted)
                yield wanted
                if begin == end:
                    return

    def _count(self, requests: int, received: int) -> None:
        with self._lock:
            self.requests += requests
            self.received += received
