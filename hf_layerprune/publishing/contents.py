"""What of a folder goes to the Hub: the files of its manifest, the records beside them, and a card. Nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hf_layerprune.artifacts.folder import CARD, README, RECORDS
from hf_layerprune.artifacts.manifest import FileRecord, Manifest
from hf_layerprune.checkpoint.files import regular_file
from hf_layerprune.errors import LayerPruneError, PublishError
from hf_layerprune.hub.listing import RemoteFile, file_record

# Records, statistics and figures. Answers (answers.jsonl) quote the questions of whoever evaluated, and stay where they are.
RECORD_SUFFIXES = (".json", ".png", ".safetensors")
CARD_RECORD = f"{RECORDS}/{CARD}"  # made by each push; a downloaded one is of an earlier push


@dataclass(frozen=True)
class Item:
    """A file as it is to be on the Hub. name: its path there; content: where it lies here, or its bytes; record: size and sha256."""

    name: str
    content: Path | bytes
    record: FileRecord

    @classmethod
    def of(cls, name: str, content: Path | bytes) -> Item:
        return cls(name, content, file_record(content))

    def is_at(self, file: RemoteFile | None) -> bool:
        """Whether the repository lists this very file under its name."""
        if file is None or not file.is_content(self.content, self.record):
            return False
        # Git's id is that of the file as it is now, which may have changed since it was recorded.
        return file.sha256 is not None or file_record(self.content) == self.record


def record_files(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The records that are published, by their names on the Hub, and the names of files beside them that are not.

    PublishError naming a record that is a link out of the folder, a device or a pipe.
    """
    try:
        names = sorted(path.name for path in (folder / RECORDS).iterdir() if not path.name.startswith("."))
        found = [f"{RECORDS}/{name}" for name in names if name.endswith(RECORD_SUFFIXES)]
        left = tuple(f"{RECORDS}/{name}" for name in names if not name.endswith(RECORD_SUFFIXES))
        remedy = "Put a regular file there, or remove it."
        return {name: regular_file(folder, name, remedy) for name in found if name != CARD_RECORD}, left
    except OSError as error:
        raise PublishError(f"{folder / RECORDS}: cannot list it: {error.strerror}. Check the disk and its permissions.") from error
    except LayerPruneError as error:
        raise PublishError(str(error)) from error


def items_of(folder: Path, manifest: Manifest, records: Mapping[str, Path], beside: Mapping[str, bytes]) -> list[Item]:
    """All files but the card; the manifest's have been proved, so that they are not read again.

    beside: what goes into layerprune/ with a new card, in place of older files.
    """
    contents: dict[str, Path | bytes] = {**records, **{f"{RECORDS}/{name}": content for name, content in beside.items()}}
    try:
        return [
            *(Item(name, folder / name, record) for name, record in manifest.files.items() if name != README),
            *(Item.of(name, contents[name]) for name in sorted(contents)),
        ]
    except OSError as error:
        raise PublishError(f"{folder}: reading it failed: {error.strerror or error}. Check the disk, then push again.") from error
