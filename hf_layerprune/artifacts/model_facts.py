"""What planning must know of a model, without the model: where it comes from, how deep it is, which layers are special."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hf_layerprune.errors import ArtifactError

HUB_ID = re.compile(r"\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)


@dataclass(frozen=True)
class SourceRef:
    """A checkpoint by name and by content.

    id: Hub id, `mini`, or the folder's name; commit: the Hub commit or None; fingerprint: sha256 over config.json, the
    shards' headers and four blocks of each shard's data (see `checkpoint.fingerprint`).
    """

    id: str
    commit: str | None
    fingerprint: str

    def __post_init__(self) -> None:
        if not (isinstance(self.id, str) and isinstance(self.fingerprint, str) and isinstance(self.commit, (str, type(None)))):
            raise TypeError("id, commit and fingerprint of a source are text")


def is_hub_id(text: object) -> bool:
    """Whether a value is OWNER/NAME as the Hub takes it; folders and `mini` are known by a name without an owner."""
    if not isinstance(text, str):
        return False
    return HUB_ID.fullmatch(text) is not None and not text.endswith(".git") and not re.search(r"--|\.\.", text)


@dataclass(frozen=True)
class ModelFacts:
    """The decoder of a checkpoint, as far as planning needs it.

    layers: number of decoder layers L; hidden_size: width d; deepstack_layers: the first this-many layers receive visual
    features after them; original_layers: for each layer its index in the first ancestor, None if never pruned.
    """

    source: SourceRef
    family: str
    layers: int
    hidden_size: int
    deepstack_layers: int
    original_layers: tuple[int, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str) -> ModelFacts:
        """Rebuild from JSON; ArtifactError naming `where` if a key is missing, unknown or of the wrong type."""
        try:
            original = value["original_layers"]
            facts = cls(
                SourceRef(**value["source"]),
                str(value["family"]),
                _whole(value["layers"]),
                _whole(value["hidden_size"]),
                _whole(value["deepstack_layers"]),
                None if original is None else tuple(map(_whole, original)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{where}: the description of the model is damaged ({error!r}).") from error
        if facts.layers < 1 or (facts.original_layers is not None and len(facts.original_layers) != facts.layers):
            raise ArtifactError(f"{where}: the description of the model is damaged (layers {facts.layers}, original {original}).")
        return facts


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is no count")
    return value
