"""What of a folder goes to the Hub: the files of its manifest, the records beside them, and a card. Nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hf_layerprune.artifacts.folder import (
    CONTROL_EVALUATION,
    CONTROL_HEALING,
    EVALUATION,
    HEALING,
    LAYER_MAP,
    LAYER_MAP_DARK,
    LICENSE,
    LOSS,
    LOSS_DARK,
    MANIFEST,
    PLAN,
    PROVENANCE,
    PRUNED_EVALUATION,
    README,
    RECORDS,
    STATISTICS,
)
from hf_layerprune.artifacts.manifest import FileRecord, Manifest
from hf_layerprune.checkpoint.copying import hash_file
from hf_layerprune.checkpoint.folder import regular_file
from hf_layerprune.errors import LayerPruneError, PublishError
from hf_layerprune.hub.listing import RemoteFile
from hf_layerprune.hub.prove import is_listed

# Records, statistics and figures. Answers (answers.jsonl) quote the questions of whoever evaluated, and stay where they are.
RECORD_SUFFIXES = (".json", ".png", ".safetensors")
CARD_RECORD = f"{RECORDS}/card.json"  # made by each push; a downloaded one is of an earlier push
# What pushes sent that did not write down what they sent.
OUR_RECORDS = frozenset(
    f"{RECORDS}/{name}"
    for name in (
        *(PLAN, MANIFEST, PROVENANCE, STATISTICS, HEALING, EVALUATION, LICENSE, CONTROL_EVALUATION, CONTROL_HEALING, PRUNED_EVALUATION),
        *(LAYER_MAP, LAYER_MAP_DARK, LOSS, LOSS_DARK),
    )
)


@dataclass(frozen=True)
class Item:
    """A file as it is to be on the Hub. name: its path there; content: where it lies here, or its bytes; record: size and sha256."""

    name: str
    content: Path | bytes
    record: FileRecord

    @classmethod
    def of_bytes(cls, name: str, content: bytes) -> Item:
        return cls(name, content, FileRecord(len(content), hashlib.sha256(content).hexdigest()))

    def is_at(self, file: RemoteFile | None) -> bool:
        """Whether the repository lists this very file under its name."""
        if file is None or file.size != self.record.bytes:
            return False
        if isinstance(self.content, Path):  # git's id is that of the file as it is now, which may have changed since it was recorded
            return is_listed(self.content, file, self.record) and (file.sha256 is not None or hash_file(self.content) == self.record)
        return is_listed(self.content, file, self.record)


def record_files(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The records that are published, by their names on the Hub, and the names of files beside them that are not.

    PublishError naming a record that is a link out of the folder, a device or a pipe.
    """
    try:
        names = sorted(path.name for path in (folder / RECORDS).iterdir() if not path.name.startswith("."))
        found = {f"{RECORDS}/{name}" for name in names if name.endswith(RECORD_SUFFIXES)} - {CARD_RECORD}
        left = tuple(f"{RECORDS}/{name}" for name in names if not name.endswith(RECORD_SUFFIXES))
        return {name: regular_file(folder, name, "Put a regular file there, or remove it.") for name in sorted(found)}, left
    except OSError as error:
        raise PublishError(f"{folder / RECORDS}: cannot list it: {error.strerror}. Check the disk and its permissions.") from error
    except LayerPruneError as error:
        raise PublishError(str(error)) from error


def items_of(folder: Path, manifest: Manifest, records: Mapping[str, Path], beside: Path) -> list[Item]:
    """All files but the card; the manifest's have been proved, so that they are not read again.

    beside: where a new card was written, whose figures and records go in place of older ones.
    """
    newer = {f"{RECORDS}/{path.name}": path for path in (beside / RECORDS).glob("*")}
    try:
        return [
            *(Item(name, folder / name, record) for name, record in manifest.files.items() if name != README),
            *(Item(name, path, hash_file(path)) for name, path in sorted({**records, **newer}.items())),
        ]
    except OSError as error:
        raise PublishError(f"{folder}: reading it failed: {error.strerror or error}. Check the disk, then push again.") from error
