"""The manifest: what a rewrite wrote, so that anyone can prove later that nothing changed and where each tensor came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hf_layerprune.artifacts.display import Readable, one_line
from hf_layerprune.artifacts.jsonfile import dump_json, read_record
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.errors import shown

MANIFEST_FORMAT = 1


@dataclass(frozen=True)
class FileRecord:
    """One file of the checkpoint."""

    bytes: int
    sha256: str  # hexadecimal


@dataclass(frozen=True, repr=False)
class Manifest(Readable):
    """What a checkpoint folder holds, and of what it was made."""

    source: SourceRef
    writer: str  # version of the rewriter, which with source, plan and policy fixes the bytes
    shard_policy: str | int  # "source" (the source's boundaries) or the greatest shard size in bytes
    files: Mapping[str, FileRecord]  # weight, config and side files by their path in the folder, without the records in layerprune/
    tensors: Mapping[str, str]  # of every tensor written the name in the source
    changed: tuple[str, ...] = ()  # tensors that fine-tunings gave new values, sorted; all others are the source's, bit for bit
    trained: tuple[str, ...] = ()  # those of them that the last fine-tuning changed, where an earlier one changed others
    borrowed: Mapping[str, str] = field(default_factory=dict)  # side files that the source lacked, and the model they were taken from

    def __repr__(self) -> str:
        files = f"{len(self.files)} files of {sum(file.bytes for file in self.files.values()):,} bytes"
        changed = f"{len(self.changed)} of them fine-tuned" if self.changed else "all of them the source's, bit for bit"
        return one_line(self, f"made from {shown(self.source.id)}", files, f"{len(self.tensors)} tensors, {changed}")

    def dump(self) -> bytes:
        value = {"format": MANIFEST_FORMAT, **asdict(self)}
        return dump_json({key: item for key, item in value.items() if item or key not in ("changed", "trained", "borrowed")})

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read `manifest.json`; ArtifactError if it is damaged or from a newer version."""
        return read_record(cls, path, "manifest", MANIFEST_FORMAT)
