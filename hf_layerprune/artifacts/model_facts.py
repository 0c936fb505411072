"""What planning must know of a model, without the model: where it comes from, how deep it is, which layers are special."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

HUB_ID = re.compile(r"\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)


@dataclass(frozen=True)
class SourceRef:
    """A checkpoint by name and by content."""

    id: str  # Hub id, `mini`, or the folder's name
    commit: str | None  # on the Hub
    fingerprint: str  # sha256 over config.json, the shards' headers and four blocks of each shard (see `checkpoint.fingerprint`)


def is_hub_id(text: object) -> bool:
    """Whether a value is OWNER/NAME as the Hub takes it; folders and `mini` are known by a name without an owner."""
    if not isinstance(text, str):
        return False
    return HUB_ID.fullmatch(text) is not None and not text.endswith(".git") and not re.search(r"--|\.\.", text)


@dataclass(frozen=True)
class ModelFacts:
    """The decoder of a checkpoint, as far as planning needs it; ValueError for numbers that no decoder has."""

    source: SourceRef
    family: str
    layers: int  # L, the number of decoder layers
    hidden_size: int  # d, the width
    deepstack_layers: int  # visual features are added after the first this-many layers
    original_layers: tuple[int, ...] | None = None  # for each layer its index in the first ancestor, None if never pruned

    def __post_init__(self) -> None:
        original = self.original_layers
        if self.layers < 1 or min(self.hidden_size, self.deepstack_layers, *(original or ())) < 0:
            raise ValueError("a number of layers or a width is negative, or there is no layer")
        if original is not None and len(original) != self.layers:
            raise ValueError(f"{self.layers} layers, but {len(original)} original ones")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
