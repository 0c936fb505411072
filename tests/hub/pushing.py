"""For tests that push: a tiny pruned folder, and a loopback Hub where two people have accounts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.verify import verify_remote
from hf_layerprune.publishing import push as publishing
from hf_layerprune.publishing.options import PushOptions
from hf_layerprune.publishing.push import Pushed
from tests.hub.loopback import LoopbackHub
from tests.hub.models import content
from tests.rewriting import rewrite
from tests.tiny_checkpoint import make_checkpoint, make_plan

TOKEN, OTHER = "hf_" + "me" * 17, "hf_" + "yo" * 17
REPO = "me/tiny-5L"
AGAIN = r"Push again: what was sent is kept, and only the rest is sent\."  # how an error ends after which that is so
COMMIT, LISTED = "POST .*/commit/", "GET .*/tree/"
CARD = "---\nlicense: apache-2.0\nlanguage: en\n---\n"


def push(
    folder: Path, repo: str = REPO, *, token: str | None = TOKEN, say: Callable[[str], None] = lambda line: None, **options: Any
) -> Pushed:
    """Push a folder; options: the fields of PushOptions."""
    return publishing.push(folder, repo, PushOptions(**options), token=token, say=say)


def emptied(hub: LoopbackHub) -> LoopbackHub:
    """The Hub, which holds nothing any more and was asked for nothing."""
    for held in (hub.repos, hub.objects, hub.puts, hub.faults, hub.requests):
        held.clear()  # type: ignore[attr-defined]
    return hub


def pruned_folder(place: Path, *, drop: tuple[int, ...] = (2,), card: str = CARD, shards: int = 3) -> Path:
    """A model of somebody's without a layer, as `apply` writes it."""
    source = make_checkpoint(place / "source", tied=False, shards=shards)
    (source / "README.md").write_text(card)
    checkpoint = Checkpoint.open(source, "owner/tiny", "c" * 40)
    rewrite(checkpoint, make_plan(checkpoint, drop), place / "tiny-5L")
    return place / "tiny-5L"


def same_model(hub: LoopbackHub, folder: Path, repo: str = REPO, ref: str = "main") -> bool:
    """Whether all files of the folder but its card, and nothing but a card and its record besides, are on the Hub."""
    there = {name: data for name, data in hub.repos[repo].files(ref).items() if name not in (".gitattributes", "README.md")}
    there.pop("layerprune/card.json", None)
    return there == {name: data for name, data in content(folder).items() if name != "README.md"}


def whole(hub: LoopbackHub, folder: Path) -> bool:
    """Whether the folder is on the Hub as it is, and what is there is what its manifest says."""
    return same_model(hub, folder) and verify_remote(REPO, token=TOKEN).ok
