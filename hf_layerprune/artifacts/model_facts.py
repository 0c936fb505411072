"""What is known of a checkpoint without its weights: its name and content, what it was made from, how deep its decoder is."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal
from urllib.parse import unquote

from hf_layerprune.artifacts.display import Readable, one_line
from hf_layerprune.artifacts.jsonfile import record_of
from hf_layerprune.errors import ArtifactError, UsageError, shown

HOSTS = ("huggingface.co/", "www.huggingface.co/", "hf.co/")
REVISION = r"(?P<revision>(?:refs/(?:pr|convert)/)?[^/]+)"
REPOSITORY = re.compile(rf"(?P<id>[^/@]+/[^/@]+)(?:@{REVISION})?(?:/(?P<inner>.*))?")
PAGE = re.compile(rf"(?P<kind>tree|blob|raw|resolve|commits?)/{REVISION}(?:/(?P<inner>.*))?")  # of a repository
HUB_ID = re.compile(r"\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)
SOURCE: Final = "source"
PRUNED: Final = "pruned"
HEALED: Final = "healed"
MAX_STEPS = 100


@dataclass(frozen=True)
class SourceRef:
    """A checkpoint by name and by content."""

    id: str  # Hub id, `mini`, or the folder's name
    commit: str | None  # on the Hub
    fingerprint: str  # sha256 over config.json, the shards' headers and four blocks of each shard (see `checkpoint.shards`)


@dataclass(frozen=True)
class Step:
    """A checkpoint of a lineage. how: "source" for one that was not made with hf-layerprune, else what made it of the one before."""

    source: SourceRef
    how: Literal["source", "pruned", "healed"]

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self.source), "how": self.how}


def parse_lineage(value: object, where: str) -> tuple[Step, ...]:
    """The steps in `source.json`, none where it has no such key; ArtifactError if they are damaged."""
    if value is None:
        return ()
    if not isinstance(value, list) or not 0 < len(value) <= MAX_STEPS:
        raise ArtifactError(f"{where}: the lineage is damaged: expected a list of at most {MAX_STEPS} checkpoints.")
    flat = [dict(item) if isinstance(item, dict) else {} for item in value]
    steps = tuple(record_of(Step, {"how": item.pop("how", None), "source": item}, "lineage", where) for item in flat)
    if any(step.how == SOURCE for step in steps[1:]):
        raise ArtifactError(f"{where}: the lineage is damaged: only its first checkpoint can be a source.")
    return steps


def is_hub_id(text: object) -> bool:
    """Whether a value is OWNER/NAME as the Hub takes it; folders and `mini` are known by a name without an owner."""
    if not isinstance(text, str):
        return False
    return HUB_ID.fullmatch(text) is not None and not text.endswith(".git") and not re.search(r"--|\.\.", text)


@dataclass(frozen=True)
class HubName:
    """A repository on the Hub, as a person named it."""

    id: str  # OWNER/NAME
    kind: Literal["model", "dataset", "space"] | None = None  # as an address says
    revision: str | None = None  # branch, tag, commit or refs/pr/N


def hub_name(text: str) -> HubName | None:
    """What OWNER/NAME, OWNER/NAME@REVISION, an hf:// path or the address of a page on the Hub names; None for any other text.

    UsageError where it names a folder within the repository, or no revision follows an @.
    """
    path = _path_on_the_hub(text)
    if path is None:
        id, at, revision = text.rstrip("/").partition("@")
        if at and not revision and is_hub_id(id):
            raise UsageError(f"{shown(text)}: no revision follows the @. Name a branch, tag or commit, or leave it out.")
        return HubName(id, None, revision or None) if is_hub_id(id) else None
    kinds: dict[str, Literal["model", "dataset", "space"]] = {"models": "model", "datasets": "dataset", "spaces": "space"}
    first, _, rest = path.partition("/")
    found = REPOSITORY.fullmatch(rest if first in kinds else path)
    if found is None or not is_hub_id(found["id"]):
        return None
    inner, revision = found["inner"], found["revision"]
    if inner and not text.startswith("hf://"):  # which page of the repository
        page = PAGE.fullmatch(inner)
        revision, inner = (page["revision"], page["inner"] if page["kind"] == "tree" else "") if page else (revision, "")
    if inner:
        raise UsageError(f"{shown(text)} names {shown(inner)} within {found['id']}, expected the repository itself.")
    return HubName(found["id"], kinds.get(first, "model"), revision)


def _path_on_the_hub(text: str) -> str | None:
    """What follows hf://, or the host of the Hub in an address, without its query; None for a text that is neither."""
    if text.startswith("hf://"):
        return unquote(text[5:]).strip("/")
    hosts: tuple[str, ...] = HOSTS
    bare = re.sub(r"\Ahttps?://", "", text)
    if bare != text and not bare.startswith(hosts):
        from huggingface_hub.constants import ENDPOINT

        hosts = (re.sub(r"\Ahttps?://", "", ENDPOINT.rstrip("/")) + "/",)
    path = next((bare[len(host) :] for host in hosts if bare.startswith(host)), None)
    return None if path is None else unquote(re.sub(r"[?#].*", "", path)).strip("/")


@dataclass(frozen=True, repr=False)
class ModelFacts(Readable):
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

    def __repr__(self) -> str:
        pruned = () if self.original_layers is None else ("pruned before",)
        size = f"{self.layers} decoder layers x {self.hidden_size}"
        return one_line(self, shown(self.source.id), self.family, size, f"{self.deepstack_layers} with DeepStack", *pruned)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
