"""No problem, no scene and no rendered image is in two splits, over every draw that trains, probes, heals, chooses or is reported."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

from hf_layerprune.artifacts.prompts import DOMAINS, subtasks
from hf_layerprune.data.tables import MINI_COUNT
from hf_layerprune.evaluation.mini_task import MINI_SAMPLES
from hf_layerprune.mini.generator import SHARES, Split, draw_content, draw_image
from hf_layerprune.mini.problems import Problem
from hf_layerprune.mini.scenes import Scene
from hf_layerprune.probing.probe_set import PAPER_IMAGES

SUBTASKS = [name for domain in DOMAINS for name in subtasks(domain)]
TRAINED = json.loads((Path(__file__).parents[2] / "cards" / "mini" / "training.json").read_text())
COUNTS: dict[Split, int] = {"calibrate": 1000, "heal": MINI_COUNT, "validate": MINI_SAMPLES, "evaluate": MINI_SAMPLES}  # a subtask


def independent_content(drawn: Problem | Scene) -> tuple[object, ...]:
    """What is asked about, worked out another way: a problem's value as a sum of signed products, a scene's multiset."""
    if isinstance(drawn, Scene):
        return ("scene", *sorted((thing.color, thing.shape, thing.big) for thing in drawn.things))
    terms: list[tuple[str, tuple[int, ...]]] = [("+", (drawn.first,))]
    for operator, number in drawn.steps:
        if operator == "×":
            assert len(terms) == 1  # nothing that is drawn multiplies a sum
            terms = [("+", tuple(sorted((*terms[0][1], number))))]
        else:
            terms.append((operator, (number,)))
    return ("problem", *sorted(terms))


def draws(split: Split) -> Iterator[tuple[tuple[object, ...] | None, bytes]]:
    """The content (None where it is not known) and a hash of the pixels (empty for plain text) of every draw of a split in use."""
    if split == "train":
        yield from trained_draws()
        return
    if split == "probe":
        for domain in DOMAINS:
            for index in range(PAPER_IMAGES):
                yield None, pixels(draw_image(domain, "probe", index).tobytes())
    for name in SUBTASKS:
        for index in range(COUNTS.get(split, PAPER_IMAGES)):
            yield rendered(*draw_content(name, split, index))


def trained_draws() -> Iterator[tuple[tuple[object, ...] | None, bytes]]:
    """Every draw that mini was trained on, phase by phase as its record has them."""
    done: dict[str, int] = defaultdict(int)
    for phase in TRAINED["phases"]:
        how = {"seed": TRAINED["seed"], "two_steps": phase["two_steps"]}
        for index in range(done["text"], phase["problems_in_text"]):
            yield independent_content(draw_content("math-direct", "train", index, **how)[0]), b""
        for name, count in phase["samples"].items():
            for index in range(done[name], count):
                yield rendered(*draw_content(name, "train", index, **how))
        done |= {**phase["samples"], "text": phase["problems_in_text"]}


def rendered(drawn: Problem | Scene, rng: Random) -> tuple[tuple[object, ...], bytes]:
    return independent_content(drawn), pixels(drawn.render(rng, 64).tobytes())


def pixels(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def test_no_content_and_no_image_is_in_two_splits() -> None:
    """And each split holds many problems and many scenes that differ."""
    contents: dict[object, Split] = {}
    images: dict[bytes, Split] = {}
    distinct: Counter[tuple[Split, object]] = Counter()
    for split in SHARES:
        for content, image in draws(split):
            assert not image or images.setdefault(image, split) == split
            if content is not None:
                distinct[split, content[0]] += content not in contents
                assert contents.setdefault(content, split) == split, content
    assert all(distinct[split, "problem"] > 700 and distinct[split, "scene"] > 1500 for split in SHARES), distinct
