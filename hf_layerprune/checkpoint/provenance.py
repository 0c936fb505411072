"""`layerprune/source.json`: whose model this was and under which licence, for the model card of the pruned one."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.folder import MANIFEST, PLAN, PROVENANCE, README, RECORDS
from hf_layerprune.artifacts.jsonfile import dump_json, read_json
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.model_facts import HEALED, PRUNED, SOURCE, SourceRef, Step, parse_lineage
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.files import regular_file
from hf_layerprune.errors import LayerPruneError

CARD_KEYS = ("license", "license_name", "license_link", "language", "pipeline_tag", "base_model")
MAX_CARD_BYTES = 64 << 10


def source_record(folder: Path, source: SourceRef) -> bytes:
    """The content of source.json: the source's id, commit and fingerprint, what its model card says in `CARD_KEYS`, and its lineage.

    A pruned source has no card of ours to read; what was recorded of its own source is handed on. A source that was not made with
    hf-layerprune is its own lineage.
    """
    card = _card(folder) or _inherited(folder)
    return dump_json({"format": 1, **vars(source), **{key: card[key] for key in CARD_KEYS if key in card}, **_lineage(folder, source)})


def healed_record(folder: Path, source: SourceRef) -> bytes:
    """The content of source.json for what was fine-tuned from `source`: what was recorded there, the lineage one step longer."""
    try:
        record = read_json(folder / RECORDS / PROVENANCE, "source record")
    except LayerPruneError:
        return source_record(folder, source)
    return dump_json(record | _lineage(folder, source))


def base_model(folder: Path) -> str | None:
    """The model, or the first of the models, that a folder's card says it was made from."""
    found = (_card(folder) or _inherited(folder)).get("base_model")
    return found[0] if isinstance(found, list) else found


def lineage_of(folder: Path, source: SourceRef) -> tuple[Step, ...]:
    """How the checkpoint in a folder came about, oldest first and itself, named `source`, last, as far as its records say."""
    records = folder / RECORDS
    if not (records / MANIFEST).is_file():
        return (Step(source, SOURCE),)
    manifest = Manifest.load(records / MANIFEST)
    return (*ancestors_of(records, manifest), Step(source, HEALED if manifest.changed else PRUNED))


def ancestors_of(records: Path, manifest: Manifest) -> tuple[Step, ...]:
    """The checkpoints before one that we made, oldest first, its manifest's source last; ArtifactError where source.json is damaged."""
    path, plan = records / PROVENANCE, records / PLAN
    found = parse_lineage(read_json(path, "source record").get("lineage"), str(path)) if path.is_file() else ()
    if found:
        return found
    # Of a folder without a lineage its records still name the checkpoint before it, and of a healed one what that was pruned from.
    first = PruningPlan.load(plan).source if manifest.changed and plan.is_file() else manifest.source
    rest = () if first.fingerprint == manifest.source.fingerprint else (Step(manifest.source, PRUNED),)
    return (Step(first, SOURCE), *rest)


def _lineage(folder: Path, source: SourceRef) -> dict[str, Any]:
    with suppress(LayerPruneError):  # as with a card: what cannot be read says nothing
        if len(steps := lineage_of(folder, source)) > 1:
            return {"lineage": [step.to_dict() for step in steps]}
    return {}


def _card(folder: Path) -> dict[str, Any]:
    """The plain keys of the README's YAML front matter; a card that cannot be read says nothing, and does not stop a conversion."""
    import yaml  # 0.05 s, and most commands do without

    try:
        with regular_file(folder, README, "").open("rb") as file:
            text = file.read(MAX_CARD_BYTES).decode("utf-8-sig", "replace")
    except (LayerPruneError, OSError):
        return {}
    matter = re.match(r"---[ \t]*\r?\n(.*?\n)---[ \t]*(\r?\n|$)", text, re.DOTALL)
    try:
        # Stricter than safe_load: tags mean nothing, and `language: no` is Norwegian, not False.
        card = yaml.load(matter[1], Loader=yaml.BaseLoader) if matter else None
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return {key: value for key, value in card.items() if key in CARD_KEYS and _plain(value)} if isinstance(card, dict) else {}


def _plain(value: Any) -> bool:
    """A short text or a list of some: what these keys may hold. Aliases that unfold to gigabytes are neither."""
    items = value if isinstance(value, list) else [value]
    return 0 < len(items) <= 200 and all(isinstance(item, str) and 0 < len(item) <= 1000 for item in items)


def _inherited(folder: Path) -> dict[str, Any]:
    try:
        record = read_json(folder / RECORDS / PROVENANCE, "source record")
    except LayerPruneError:
        return {}
    return {key: value for key, value in record.items() if key in CARD_KEYS and _plain(value)}
