"""`layerprune/source.json`: whose model this was and under which licence, for the model card of the pruned one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.files import dump_json, read_json
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.checkpoint.folder import regular_file
from hf_layerprune.checkpoint.side_files import README, RECORDS
from hf_layerprune.errors import LayerPruneError

PROVENANCE = "source.json"
CARD_KEYS = ("license", "license_name", "license_link", "language", "pipeline_tag", "base_model")
MAX_CARD_BYTES = 64 << 10


def source_record(folder: Path, source: SourceRef) -> bytes:
    """The content of source.json: the source's id, commit and fingerprint, and what its model card says in `CARD_KEYS`.

    A pruned source has no card of ours to read; what was recorded of its own source is handed on.
    """
    card = _card(folder) or _inherited(folder)
    return dump_json({"format": 1, **vars(source), **{key: card[key] for key in CARD_KEYS if key in card}})


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
