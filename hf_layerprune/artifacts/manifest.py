"""The manifest: what a rewrite wrote, so that anyone can prove later that nothing changed and where each tensor came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.jsonfile import check_format, dump_json, read_json, write_atomic
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.errors import ArtifactError

MANIFEST_FORMAT = 1


@dataclass(frozen=True)
class FileRecord:
    """One file of the checkpoint: its size in bytes and the sha256 of its content, in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """files: every weight, config and side file by its path in the folder (records under `layerprune/` lie outside);
    tensors: for every tensor written, the name it has in the source; shard_policy: "source" (the source's boundaries) or
    the greatest shard size in bytes; writer: the version of the rewriter, which with source, plan and policy fixes the bytes;
    changed: the tensors that a fine-tuning gave new values, sorted, an earlier fine-tuning of the source too; all others are the
    source's, bit for bit; trained: those of them that the last fine-tuning changed, where an earlier one changed others, else empty.
    """

    source: SourceRef
    writer: str
    shard_policy: str | int
    files: Mapping[str, FileRecord]
    tensors: Mapping[str, str]
    changed: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        write_atomic(path, self.dump())

    def dump(self) -> bytes:
        value = {"format": MANIFEST_FORMAT, **asdict(self)}
        return dump_json({key: item for key, item in value.items() if item or key not in ("changed", "trained")})

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read `manifest.json`; ArtifactError if it is damaged or from a newer version."""
        value = read_json(path, "manifest")
        check_format(value.get("format"), MANIFEST_FORMAT, "manifest", str(path))
        try:
            files = {str(name): FileRecord(int(record["bytes"]), str(record["sha256"])) for name, record in value["files"].items()}
            tensors: dict[str, Any] = {str(name): str(origin) for name, origin in value["tensors"].items()}
            healed = (tuple(str(name) for name in value.get(key, ())) for key in ("changed", "trained"))
            return cls(SourceRef(**value["source"]), str(value["writer"]), value["shard_policy"], files, tensors, *healed)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ArtifactError(f"{path}: the manifest is damaged ({error!r}).") from error
