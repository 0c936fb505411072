"""Rewrite a checkpoint straight from the Hub: fetch a shard, rewrite what it holds, drop it. What is finished is not fetched again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from hf_layerprune.artifacts.folder import MANIFEST, RECORDS
from hf_layerprune.artifacts.jsonfile import dump_json, read_json
from hf_layerprune.artifacts.manifest import FileRecord, Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.copying import write_file
from hf_layerprune.checkpoint.header import Header, read_header
from hf_layerprune.checkpoint.layout import NewShard, Progress, write_shard
from hf_layerprune.checkpoint.remedies import told_as
from hf_layerprune.checkpoint.shards import moved
from hf_layerprune.checkpoint.verify import same_tensors
from hf_layerprune.errors import CheckpointError, LayerPruneError, shown
from hf_layerprune.hub.download import fetch_into
from hf_layerprune.hub.listing import RemoteRepo, file_record

HELD = ".fetched"  # in the staging folder: the source shard at hand, and the records of the shards that are written


class ShardStream:
    """Writes the shards of a pruned checkpoint from a repository's, of which one at a time lies on the disk.

    shards: the source's headers as they were read by ranges; verify: compare every tensor written with the fetched shard's.
    """

    def __init__(self, repo: RemoteRepo, shards: Mapping[str, Header], *, verify: bool = True) -> None:
        self._repo = repo
        self._shards = shards
        self._places = {span.file: name for name, header in shards.items() for span in header.tensors.values()}
        self._verify = verify
        self._done: dict[str, FileRecord] = {}

    def identity(self, plan: PruningPlan, writer: str) -> str:
        """What decides the bytes of the shards: an interrupted run with the same is gone on with, any other cleared away."""
        decisive = {
            "repository": self._repo.id,
            "commit": self._repo.commit,
            "plan": plan.to_dict(),
            "writer": writer,
            "verify": self._verify,
        }
        return hashlib.sha256(dump_json(decisive)).hexdigest()

    def room(self, shards: Sequence[NewShard]) -> int:
        """Bytes on disk beside the output: the largest source shard."""
        return max(self._repo.files[self._origin(shard)].size for shard in shards)

    def begin(self, staging: Path, shards: Sequence[NewShard]) -> None:
        """Clear a staging folder of all but the shards that an earlier run finished, each proved by its size and sha256."""
        self._done = {}
        for shard in shards:
            record, path = _record(staging, shard.name), staging / shard.name
            if record and path.is_file() and not path.is_symlink() and file_record(path) == record:
                self._done[shard.name] = record
        # What is known is written down before anything is cleared: this may be killed too.
        if (staging / HELD).is_symlink():
            (staging / HELD).unlink()
        (staging / HELD).mkdir(exist_ok=True)
        for name, record in self._done.items():
            if not (staging / HELD / f"{name}.json").exists():
                _keep_record(staging, name, record)
        kept = {HELD, *self._done, *(f"{HELD}/{name}.json" for name in self._done)}
        for path in (*staging.iterdir(), *(staging / HELD).iterdir()):
            if path.relative_to(staging).as_posix() not in kept:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def write(self, path: Path, shard: NewShard, progress: Progress | None = None) -> FileRecord:
        """Write a shard as `copying.write_shard` does, from a fetched file that is gone afterwards; or take the finished one.

        Raises CheckpointError naming the source shard if it is not what the repository lists, or not what was read of it before.
        """
        if done := self._done.get(shard.name):
            if progress:
                progress(sum(span.nbytes for span in shard.tensors.values()))
            return done
        held, origin = path.parent / HELD / "shard", self._origin(shard)
        try:
            with told_as(held, self._repo.id):
                fetched = self._fetch(origin, held)
                at_hand = replace(shard, tensors={name: replace(span, file=fetched) for name, span in shard.tensors.items()})
                record = write_shard(path, at_hand, progress)
                if self._verify:
                    _compare(path, at_hand)
        finally:
            if held.exists():
                shutil.rmtree(held)
        _keep_record(path.parent, shard.name, record)
        return record

    def end(self, staging: Path) -> None:
        """Leave only the checkpoint in the staging folder."""
        shutil.rmtree(staging / HELD)

    def _origin(self, shard: NewShard) -> str:
        """The source shard that holds a new shard's tensors: one, for the source's boundaries are kept."""
        (name,) = {self._places[span.file] for span in shard.tensors.values()}
        return name

    def _fetch(self, name: str, folder: Path) -> Path:
        path = fetch_into(folder, self._repo, name)
        if moved(read_header(path), Path()) != moved(self._shards[name], Path()):
            where = self._repo.where(name)
            raise CheckpointError(f"{where}: its header is another one than was read before. It was removed; start again.")
        return path


def _record(staging: Path, name: str) -> FileRecord | None:
    """What is recorded of a finished shard: in its own record or, from a run that died at the very end, in the manifest."""
    with suppress(LayerPruneError, KeyError, TypeError, ValueError):
        value = read_json(staging / HELD / f"{name}.json", "record of a shard")
        return FileRecord(int(value["bytes"]), str(value["sha256"]))
    with suppress(LayerPruneError):
        return Manifest.load(staging / RECORDS / MANIFEST).files.get(name)
    return None


def _keep_record(staging: Path, name: str, record: FileRecord) -> None:
    """Torn by a kill, it is none, and the shard is fetched again."""
    path = staging / HELD / f"{name}.json"
    path.unlink(missing_ok=True)
    write_file(path, dump_json(asdict(record)))


def _compare(path: Path, shard: NewShard) -> None:
    written = read_header(path).tensors
    for name, same in zip(shard.tensors, same_tensors([(written[name], span, True) for name, span in shard.tensors.items()]), strict=True):
        if not same:
            raise CheckpointError(f"{path}: tensor {shown(name)} was not written as it was fetched. Check disk and memory.")
