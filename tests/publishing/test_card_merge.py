"""A card that a person has edited keeps every byte of theirs beside our parts, and every key of theirs in its metadata."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_layerprune.errors import ArtifactError, CheckpointError, PublishError
from hf_layerprune.publishing.card import write_card
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.merge import begin, end, find_parts, merge_card, our_parts, own_text, taken_keys
from hf_layerprune.publishing.template import render_card

OLD = f"""---
library_name: transformers
license: mit
tags:
- hf-layerprune
- pruned
---
{begin("title")}<!-- hf-layerprune:keys library_name license tags -->

# old
{end("title")}
{begin("limits")}old limits
{end("limits")}"""
NEW = f"""---
library_name: transformers
license: apache-2.0
base_model: a/b
tags:
- hf-layerprune
- layer-pruning
- pruned
---
{begin("title")}<!-- hf-layerprune:keys library_name license base_model tags -->

# new
{end("title")}
{begin("how")}new how
{end("how")}
{begin("limits")}new limits
{end("limits")}"""
PERSON = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=60).filter(lambda text: "hf-layerprune:" not in text)


def test_our_parts_and_keys_are_written_anew_and_the_rest_is_kept() -> None:
    edited = OLD.replace(
        "license: mit\n", "# why mit\nlicense: mit  # mine\ndatasets: [x, 'y']\n\n# a remark\nmy_key: &a >\n  two\n  text\n"
    )
    edited = edited.replace("- pruned\n", "- pruned\n- my-tag\n").replace(end("title"), end("title") + "\nMy words, CRLF\r\n\ttab  \n")
    merged = merge_card(edited + "\nlast words, no line break", NEW)
    found = yaml.safe_load(merged.split("---\n")[1])
    assert list(found) == ["library_name", "license", "datasets", "my_key", "tags", "base_model"]
    assert (found["license"], found["datasets"], found["my_key"]) == ("apache-2.0", ["x", "y"], "two text\n")
    assert "\nMy words, CRLF\r\n\ttab  \n" in merged and merged.endswith(f"new limits\n{end('limits')}\nlast words, no line break")
    assert "old" not in merged and found["tags"] == ["hf-layerprune", "layer-pruning", "pruned", "my-tag"]
    assert [part.name for part in find_parts(merged)] == ["title", "how", "limits"] and merged.index("My words") > merged.index("new how")
    assert our_parts(merged) == our_parts(NEW) != our_parts(OLD)
    assert merge_card(merged, NEW) == merged


def test_a_persons_own_card_gets_our_parts_at_its_end() -> None:
    mine = "---\nlicense: mit\nother: 1\n---\n# Mine\n\ntext\n"
    merged = merge_card(mine, NEW)
    assert merged.startswith("---\nlicense: apache-2.0\nother: 1\nlibrary_name: transformers\n")
    assert merged.split("---\n", 2)[2].startswith("# Mine\n\ntext\n\n<!-- hf-layerprune:begin title -->") and our_parts(
        merged
    ) == our_parts(NEW)
    assert (
        merge_card("# only text", NEW).startswith("---\nlibrary_name: transformers\n")
        and merge_card("", NEW) == merge_card("\n", NEW) == NEW
    )


def test_parts_and_keys_of_ours_that_are_gone_are_removed() -> None:
    merged = merge_card(NEW.replace("base_model", "extra: 1\nbase_model", 1), OLD)
    assert "new how" not in merged and "base_model" not in merged and "extra: 1\n" in merged
    assert our_parts(merged) == our_parts(OLD)


def test_metadata_that_need_not_change_stays_as_it_is_written() -> None:
    remarked = NEW.replace("license:", "# a remark\nlicense:").replace("apache-2.0", "'apache-2.0'  # mine")
    assert merge_card(remarked, NEW) == remarked
    flow = merge_card("---\n{license: mit, mine: 1.5, made: 2026-01-02}\n---\n# Mine\n", NEW)
    assert flow.startswith("---\nlicense: apache-2.0\nmine: 1.5\nmade: 2026-01-02\nlibrary_name: transformers\n")


def test_a_key_that_we_never_set_is_a_persons() -> None:
    merged = merge_card(OLD.replace("license: mit\n", "license: mit\nbase_model: mine/own\nlanguage: de\n"), OLD)
    assert "base_model: mine/own\nlanguage: de\n" in merged
    assert our_parts(merged) == our_parts(OLD)


@pytest.mark.parametrize(
    "edit",
    [
        lambda card: card + "\nmore",
        lambda card: card.replace("---\n", "---\nmy: key\n", 1),
        lambda card: card.replace("- pruned\n", "- pruned\n- mine\n"),
        lambda card: card.replace(begin("how"), "between\n" + begin("how")),
        lambda card: card.replace(begin("title"), "before\n" + begin("title")),
    ],
)
def test_what_a_person_wrote_is_told_from_what_we_did(edit: Callable[[str], str]) -> None:
    edited = edit(NEW)
    assert own_text(NEW) == own_text(OLD) == own_text("") == own_text(NEW.replace("\n", "\r\n")) == "" != own_text(edited)
    assert own_text(merge_card(edited, OLD)) == own_text(edited) == own_text(edited.replace("\n", "\r\n"))
    assert merge_card(OLD, edited) == merge_card(OLD, NEW), "a person's text in the other card is not taken over"


def test_a_key_that_becomes_ours() -> None:
    theirs = OLD.replace("license: mit\n", "license: mit\nbase_model: mine/own\nlanguage: de\n")
    assert taken_keys(theirs, NEW) == ("base_model",)
    assert taken_keys(theirs.replace("mine/own", "'a/b'"), NEW) == taken_keys(theirs, OLD) == taken_keys(OLD, NEW) == ()
    assert taken_keys("---\nlicense: mit\ntags: [x]\n---\n# Mine\n", NEW) == ("license",) and taken_keys("# Mine\n", NEW) == ()


@pytest.mark.parametrize(
    "edit",
    [
        lambda card: card.replace("new how", "newer how"),
        lambda card: card.replace("license: apache-2.0", "license: mit"),
        lambda card: card.replace("- pruned\n", ""),
        lambda card: card.replace(begin("how") + "new how\n" + end("how"), ""),
    ],
)
def test_a_change_of_our_parts_is_seen(edit: Callable[[str], str]) -> None:
    assert our_parts(edit(NEW)) != our_parts(NEW)


@pytest.mark.parametrize(
    "edit",
    [
        lambda card: card.replace("\n", "\r\n"),
        lambda card: card.replace("- pruned\n", "- pruned\n- mine\n").replace("---\n", "---\nmy: key\n", 1),
        lambda card: card.replace("license: apache-2.0\n", "").replace("tags:", "license: 'apache-2.0'\ntags:"),
        lambda card: card + "\nmore",
        lambda card: "\ufeff" + card,
    ],
)
def test_a_change_beside_our_parts_does_not_count(edit: Callable[[str], str]) -> None:
    assert our_parts(edit(NEW)) == our_parts(NEW)


@pytest.mark.parametrize(
    "edit",
    [
        lambda card: card.replace(end("title"), ""),
        lambda card: card.replace(begin("limits"), ""),
        lambda card: card.replace(begin("limits"), begin("title")),
        lambda card: card.replace("# old", begin("limits")),
        lambda card: card + card[card.index("<!--") :],
        lambda card: card.replace("<!-- hf-layerprune:end title -->", "<!-- hf-layerprune:end title --> words"),
        lambda card: card.replace("<!-- hf-layerprune:end title -->", "<!--hf-layerprune:end title-->"),
        lambda card: card.replace("license: mit", "license: {mit"),
        lambda card: card.replace("license: mit", "license: mit\nlicense: mit"),
        lambda card: card.replace("license: mit", "a: &a [x]\nb: *a"),
        lambda card: re.sub(r"---\n[\s\S]*?---\n", "---\n- license\n---\n", card, count=1),
        lambda card: re.sub(r"---\n[\s\S]*?---\n", "---\na: !!python/object/apply:os.system [x\n---\n", card, count=1),
    ],
    ids=range(12),
)
def test_a_damaged_card_is_refused_in_one_line_that_says_what_to_do(edit: Callable[[str], str]) -> None:
    with pytest.raises(PublishError, match="Repair the card by hand") as error:
        merge_card(edit(OLD), NEW)
    assert "\n" not in str(error.value)


@settings(max_examples=80, deadline=None)
@given(before=PERSON, between=PERSON, after=PERSON)
def test_any_text_of_a_person_is_kept_byte_for_byte(before: str, between: str, after: str) -> None:
    head, title, rest = OLD.partition(begin("title"))
    edited = head + before + "\n" + title + rest.replace(end("title"), end("title") + between + "\n") + after
    merged = merge_card(edited, NEW)
    pieces = re.split(r"<!-- hf-layerprune:begin \w+ -->\n[\s\S]*?<!-- hf-layerprune:end \w+ -->\n", merged)
    front = NEW.partition(begin("title"))[0].replace("base_model: a/b\n", "").replace("- pruned\n", "- pruned\nbase_model: a/b\n")
    assert [pieces[0], "".join(pieces[1:-1]), pieces[-1]] == [front + before + "\n", "\n" + between + "\n\n", after]
    assert merge_card(merged, NEW) == merged and our_parts(merged) == our_parts(NEW)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=PERSON)
def test_a_real_card_merges_with_itself(facts: CardFacts, text: str) -> None:
    card = render_card(facts)
    assert merge_card(card, card) == card
    assert merge_card(card + text, card) == card + text


def test_write_card_merges_and_a_damaged_card_changes_nothing(records: Callable[[str], Path]) -> None:
    folder = records("mini-random-13L")
    path = write_card(folder)
    written = path.read_bytes()
    path.write_bytes(written + "Grüße\r\n".encode())
    assert write_card(folder) == path and path.read_bytes() == written + "Grüße\r\n".encode()
    broken = written.replace(b"<!-- hf-layerprune:end title -->", b"")
    path.write_bytes(broken)
    for figure in folder.glob("layerprune/*.png"):
        figure.unlink()
    with pytest.raises(PublishError, match=r"README.md: .*Repair the card by hand"):
        write_card(folder)
    assert path.read_bytes() == broken and not list(folder.glob("layerprune/*.png"))
    path.write_bytes(b"\xff")
    with pytest.raises(PublishError, match="not UTF-8 text"):
        write_card(folder)


def test_a_card_that_cannot_be_written_is_refused_in_one_line(records: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = records("mini-random-13L")

    def full(path: Path, content: bytes) -> None:
        raise ArtifactError(f"{path}: writing failed: No space left on device; nothing was changed.")

    monkeypatch.setattr("hf_layerprune.publishing.card.write_atomic", full)
    with pytest.raises(PublishError, match="No space left on device"):
        write_card(folder)
    assert not (folder / "README.md").exists()
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(PublishError, match="No space left on device"):
        write_card(folder, elsewhere / "card.md")
    assert [*elsewhere.iterdir()] == []
    with pytest.raises(CheckpointError, match=r"card.md lies in .*, a model that hf-layerprune wrote"):
        write_card(folder, folder / "none" / "card.md")
