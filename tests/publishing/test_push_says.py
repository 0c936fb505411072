"""What a push tells people, and what other libraries log meanwhile."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hf_layerprune.hub.listing import RemoteRepo
from hf_layerprune.publishing.card import write_card
from tests.hub.loopback import LoopbackHub
from tests.hub.pushing import REPO, TOKEN, pruned_folder, push


def test_nothing_is_said_of_a_card_that_is_as_it_was_written(hub: LoopbackHub, tmp_path: Path) -> None:
    folder, said = pruned_folder(tmp_path), list[str]()
    write_card(folder)
    push(folder, REPO, token=TOKEN, say=said.append)
    write_card(folder)
    assert push(folder, REPO, token=TOKEN, say=said.append).uploaded == () and said == []
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("## Limits", "## No limits"))
    push(folder, REPO, token=TOKEN, say=said.append)
    (line,) = said
    assert line.startswith("README.md: written anew from the records")


def test_no_signed_address_is_logged(hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """httpx tells at INFO, and httpcore at DEBUG, what it sends where."""
    folder = pruned_folder(tmp_path)
    with caplog.at_level(logging.DEBUG):
        done = push(folder, REPO, token=TOKEN, say=lambda line: None)
        RemoteRepo(REPO, done.commit, token=TOKEN).read("config.json", 0, 10)
    assert "/lfs/" in caplog.text and "?***" in caplog.text
    assert "signed" not in caplog.text and TOKEN not in caplog.text
    assert not any(logging.getLogger(record.name).filters for record in caplog.records), "only while something is asked"
