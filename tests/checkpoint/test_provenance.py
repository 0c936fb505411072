"""What is read of a stranger's model card, and that nothing in it can do harm."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.checkpoint.provenance import source_record

REF = {"id": "owner/x", "commit": None, "fingerprint": "f" * 64}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def record(folder: Path) -> dict[str, Any]:
    value = json.loads(source_record(folder, SourceRef(**REF)))
    assert value.pop("format") == 1
    return {key: item for key, item in value.items() if key not in REF}


CARDS: dict[str, tuple[str, dict[str, Any]]] = {
    "usual": ("---\nlicense: mit\nbase_model: a/b\n---\ntext", {"license": "mit", "base_model": "a/b"}),
    "Windows line ends": ("---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
    "byte-order mark": ("\ufeff---\nlicense: mit\n---\n", {"license": "mit"}),
    "other licence": (
        "---\nlicense: other\nlicense_name: qwen\nlicense_link: https://x/LICENSE\n---\n",
        {"license": "other", "license_name": "qwen", "license_link": "https://x/LICENSE"},
    ),
    "lists": (
        "---\nlicense: [mit, apache-2.0]\nlanguage:\n- en\n- no\n---\n",
        {"license": ["mit", "apache-2.0"], "language": ["en", "no"]},
    ),
    "no front matter": ("# Model\nlicense: mit\n", {}),
    "no end": ("---\nlicense: mit\n", {}),
    "broken YAML": ("---\nlicense: [mit\n---\n", {}),
    "a list": ("---\n- license\n---\n", {}),
    "nested too deep": ("---\n" + "[" * 20_000 + "\n---\n", {}),
    "an object as licence": ("---\nlicense: {a: b}\nlanguage: en\n---\n", {"language": "en"}),
    "huge licence": (f"---\nlicense: {'x' * 2000}\nlanguage: en\n---\n", {"language": "en"}),
    "python tag": (
        "---\nlicense: !!python/object/apply:os.system ['exit 1']\nlanguage: en\n---\n",
        {"license": ["exit 1"], "language": "en"},
    ),
    "bomb": (f"---\n{BOMB}license: *i\nlanguage: en\n---\n", {"language": "en"}),
    "bomb as language": (f"---\n{BOMB}language: *i\n---\n", {}),
}


@pytest.mark.parametrize(("card", "expected"), CARDS.values(), ids=CARDS)
def test_card(tmp_path: Path, card: str, expected: dict[str, Any]) -> None:
    (tmp_path / "README.md").write_text(card, encoding="utf-8", newline="")
    started = time.monotonic()
    assert record(tmp_path) == expected
    assert time.monotonic() - started < 60  # unfolded, the bombs would take hours


def test_no_card(tmp_path: Path) -> None:
    assert record(tmp_path) == {}


def test_a_card_that_is_a_link_out_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("---\nlicense: secret\n---\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/README.md").symlink_to("../secret.md")
    assert record(tmp_path / "model") == {}


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\nlanguage: \xff\n---\n")
    assert record(tmp_path)["license"] == "mit"


@pytest.mark.parametrize("content", ["{", "[]", '{"license": {"a": 1}}', '{"license": 7}'])
def test_damaged_record_of_an_earlier_rewrite(tmp_path: Path, content: str) -> None:
    (tmp_path / "layerprune").mkdir()
    (tmp_path / "layerprune/source.json").write_text(content)
    assert record(tmp_path) == {}
