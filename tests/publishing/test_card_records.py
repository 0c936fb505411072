"""What card_facts takes from a folder, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.artifacts.model_facts import SourceRef, Step, is_hub_id
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.errors import PublishError
from hf_layerprune.mini import model_path
from hf_layerprune.publishing.card import write_card
from hf_layerprune.publishing.options import CardOptions
from hf_layerprune.publishing.records import card_facts
from hf_layerprune.publishing.template import render_card
from tests.rewriting import rewrite

Records = Callable[[str], Path]


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_sizes_are_the_same_with_and_without_the_weights(records: Records, tmp_path: Path) -> None:
    folder = records("mini-mixed-13L")
    without = card_facts(folder).sizes
    source, whole = Checkpoint.open(model_path(), "mini"), tmp_path / "whole"
    rewrite(source, PruningPlan.load(folder / "layerprune" / "plan.json"), whole)
    found = card_facts(whole).sizes
    assert (without.parameters, without.bytes) == (found.parameters, found.bytes)
    assert (without.parameters_before, without.bytes_before) == (source.parameters, source.total_bytes)
    assert (found.parameters_before, found.bytes_before) == (source.parameters, source.total_bytes)
    assert without.fingerprint is None and found.fingerprint is not None


def test_an_evaluation_of_other_weights_is_refused(records: Records, tmp_path: Path) -> None:
    plan = PruningPlan.load(records("mini-random-13L") / "layerprune" / "plan.json")
    whole = tmp_path / "whole"
    rewrite(Checkpoint.open(model_path(), "mini"), plan, whole)
    shutil.copy(tmp_path / "mini-random-13L" / "layerprune" / "eval.json", whole / "layerprune")
    card_facts(whole)
    shutil.copy(records("mini-cka-13L") / "layerprune" / "eval.json", whole / "layerprune")
    with pytest.raises(PublishError, match=r"eval.json is of other weights .* evaluate` again"):
        card_facts(whole)


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="hf-layerprune did not make this folder"):
        card_facts(tmp_path)
    with pytest.raises(PublishError, match="hf-layerprune did not make this folder"):
        card_facts(model_path())


@pytest.mark.parametrize("record", ["plan.json", "manifest.json", "eval.json", "healing.json", "source.json", "statistics.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"format": 99}'])
def test_a_damaged_record_is_refused_in_one_line_that_names_it(records: Records, record: str, content: bytes) -> None:
    folder = records("mini-mixed-13L-interlace")
    (folder / "layerprune" / record).write_bytes(content)
    if record == "source.json" and content == b'{"format": 99}':
        return
    with pytest.raises(PublishError, match=record) as error:
        card_facts(folder)
    assert "\n" not in str(error.value)


def test_records_of_two_models_are_refused(records: Records) -> None:
    folder = records("mini-mixed-13L")
    edit(folder / "layerprune" / "plan.json", lambda plan: plan["source"].update(fingerprint="0" * 64))
    with pytest.raises(PublishError, match="for another source"):
        card_facts(folder)
    edit(folder / "layerprune" / "plan.json", lambda plan: plan.update(statistics="0" * 64, source=_source(folder)))
    with pytest.raises(PublishError, match=r"not the statistics that plan.json was made from"):
        card_facts(folder)


def _source(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "layerprune" / "manifest.json").read_text())["source"]
    return found


def test_healing_of_another_checkpoint_is_refused(records: Records) -> None:
    folder = records("mini-mixed-13L-interlace")
    edit(folder / "layerprune" / "healing.json", lambda record: record["checkpoint"].update(fingerprint="0" * 64))
    with pytest.raises(PublishError, match="of another checkpoint"):
        card_facts(folder)


def test_an_adapter_has_no_card(records: Records) -> None:
    folder = records("mini-mixed-13L")
    edit(folder / "layerprune" / "manifest.json", lambda manifest: manifest["files"].pop("config.json"))
    with pytest.raises(PublishError, match="adapter alone"):
        card_facts(folder)


def test_a_control_must_be_the_source_after_the_same_fine_tuning(records: Records) -> None:
    healed, control = records("mini-mixed-13L-interlace"), records("mini-interlace")
    for name in ("control-eval.json", "control-healing.json"):
        (healed / "layerprune" / name).unlink()
    assert card_facts(healed).control is None
    given = card_facts(healed, CardOptions(control=control))
    card = write_card(healed, options=CardOptions(control=control)).read_text()
    assert given.control is not None and card_facts(healed).control == given.control and write_card(healed).read_text() == card
    with pytest.raises(PublishError, match="no fine-tuning of its source is the same"):
        card_facts(records("mini-mixed-13L"), CardOptions(control=control))
    with pytest.raises(PublishError, match=r"no control: expected healing.json and eval.json"):
        card_facts(healed, CardOptions(control=healed))
    healing = control / "layerprune" / "healing.json"
    edit(healing, lambda record: record["recipe"].update(learning_rate=1e-4))
    with pytest.raises(PublishError, match="learning_rate differs"):
        card_facts(healed, CardOptions(control=control))
    edit(healing, lambda record: record["recipe"].update(learning_rate=1e-3))
    edit(control / "layerprune" / "eval.json", lambda report: report["tasks"][0].update(digest="0" * 64))
    with pytest.raises(PublishError, match="on other samples"):
        card_facts(healed, CardOptions(control=control))


def test_the_pruned_model_must_be_the_one_that_was_healed(records: Records) -> None:
    healed, pruned = records("mini-mixed-13L-interlace"), records("mini-mixed-13L")
    kept = healed / "layerprune" / "pruned-eval.json"
    kept.unlink(missing_ok=True)
    assert card_facts(healed).pruned is None
    card = write_card(healed, options=CardOptions(pruned=pruned)).read_text()
    assert kept.is_file() and write_card(healed).read_text() == card
    with pytest.raises(PublishError, match="is no pruned model that was healed, so there is none to compare with"):
        card_facts(pruned, CardOptions(pruned=pruned))
    stage = json.loads((healed / "layerprune" / "healing.json").read_text())["checkpoint"]["fingerprint"][:12]
    with pytest.raises(PublishError, match=rf"of 'mini-cka-13L' with fingerprint \w{{12}}, but this model was healed from {stage}"):
        card_facts(healed, CardOptions(pruned=records("mini-cka-13L")))
    evaluation = pruned / "layerprune" / "eval.json"
    edit(evaluation, lambda report: report["tasks"][0].update(digest="0" * 64))
    with pytest.raises(PublishError, match="on other samples"):
        card_facts(healed, CardOptions(pruned=pruned))
    evaluation.unlink()
    with pytest.raises(PublishError, match=r"eval\.json: missing\. Evaluate the pruned model first"):
        card_facts(healed, CardOptions(pruned=pruned))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"scorer": "relaxed"}, "scorer"),
        ({"max_new_tokens": 4}, "max new tokens"),
        ({"decoding": "sampled"}, "decoding"),
        ({"dtype": "bfloat16"}, "dtype"),
    ],
)
def test_a_control_must_be_asked_in_the_same_way(records: Records, settings: dict[str, Any], what: str) -> None:
    healed, control = records("mini-mixed-13L-interlace"), records("mini-interlace")

    def change(report: dict[str, Any]) -> None:
        parts = (report["asked"], report["model"]["settings"], report["model"]["environment"])
        for part in parts[:1] if "decoding" not in settings and "dtype" not in settings else parts[1:]:
            part.update({key: value for key, value in settings.items() if key in part})

    edit(control / "layerprune" / "eval.json", change)
    with pytest.raises(PublishError, match=rf"evaluated with another {what} than this model\. Evaluate both with the same options\."):
        card_facts(healed, CardOptions(control=control))


def test_a_model_healed_twice_has_no_control(records: Records) -> None:
    healed, control = records("mini-mixed-13L-interlace"), records("mini-interlace")
    facts = card_facts(healed)
    steps = [Step(facts.source, "source"), Step(SourceRef("x", None, "0" * 64), "pruned"), Step(facts.manifest.source, "healed")]
    edit(healed / "layerprune" / "source.json", lambda record: record.update(lineage=[step.to_dict() for step in steps]))
    with pytest.raises(PublishError, match="was healed 2 times, and a control is compared with one healing"):
        card_facts(healed, CardOptions(control=control))


@pytest.mark.parametrize(
    "text, answer",
    [
        ("Qwen/Qwen3-VL-4B-Instruct", True),
        ("mini", False),
        ("a/b/c", False),
        ("../x", False),
        ("a/b'", False),
        ("a/<b>", False),
        (None, False),
    ],
)
def test_only_an_owner_and_a_name_are_a_hub_id(text: str | None, answer: bool) -> None:
    assert is_hub_id(text) is answer


def test_the_licence_of_a_person_replaces_the_sources(records: Records) -> None:
    folder = records("mini-mixed-13L")
    edit(folder / "layerprune" / "source.json", lambda record: record.update(license="other", license_name="qwen", license_link="LICENSE"))
    assert card_facts(folder).license == "other"
    assert "license_name: qwen" in render_card(card_facts(folder))
    given = card_facts(folder, CardOptions(license="mit"))
    assert given.license == "mit" and "license_name" not in given.card
    assert "as the person who made this card named it" in render_card(given)
    with pytest.raises(PublishError, match="license is empty"):
        card_facts(folder, CardOptions(license=" "))


def test_a_licence_that_was_named_once_is_remembered(records: Records, tmp_path: Path) -> None:
    folder, elsewhere = records("mini-mixed-13L"), tmp_path / "elsewhere.md"
    write_card(folder, elsewhere, CardOptions(license="mit"))
    assert card_facts(folder).license == "apache-2.0"  # a card elsewhere changes nothing in the folder
    write_card(folder, options=CardOptions(license="mit"))
    assert "license: mit\n" in write_card(folder).read_text()
    assert "license: bsd-3-clause\n" in write_card(folder, options=CardOptions(license="bsd-3-clause")).read_text()
    assert card_facts(folder).license == "bsd-3-clause" and card_facts(folder).license_given
    record = folder / "layerprune" / "license.json"
    for damaged in ('{"license": ["mit"]}', '{"license": ""}', "{}"):
        record.write_text(damaged)
        with pytest.raises(PublishError, match=r"license\.json: names no license\. Name it again with --license"):
            card_facts(folder)
    assert card_facts(folder, CardOptions(license="mit")).license == "mit"


def test_a_licence_that_nobody_named_is_said_to_be_unknown(records: Records) -> None:
    folder = records("mini-mixed-13L")
    edit(folder / "layerprune" / "source.json", lambda record: record.pop("license"))
    facts = card_facts(folder)
    assert facts.license is None
    card = render_card(facts)
    assert "Licence: **not known**" in card and "\nlicense:" not in card


def test_a_download_is_left_as_it_is(records: Records, tmp_path: Path) -> None:
    folder = records("mini-random-13L")
    manifest, blob = folder / "layerprune" / "manifest.json", tmp_path / "blob"
    manifest.rename(blob)
    manifest.symlink_to(blob)
    with pytest.raises(PublishError, match=r"left as it is.*-o"):
        write_card(folder)
    assert not (folder / "README.md").exists()
    elsewhere = write_card(folder, tmp_path / "card.md")
    assert elsewhere.read_text().startswith("---\n") and (tmp_path / "layerprune" / "layer-map.png").is_file()
    assert sorted(path.name for path in (folder / "layerprune").iterdir()) == ["eval.json", "manifest.json", "plan.json", "source.json"]


def test_another_models_records_are_left_as_they_are(records: Records, tmp_path: Path) -> None:
    folder, other = records("mini-mixed-13L"), records("mini-random-13L")
    before = {path.name: path.read_bytes() for path in (other / "layerprune").iterdir()}
    (tmp_path / "alias").symlink_to(other)
    for output in (other / "card.md", other, tmp_path / "alias" / "card.md"):
        with pytest.raises(PublishError, match=r"holds another model, whose records are left as they are\. Name another place with -o"):
            write_card(folder, output, CardOptions(license="mit"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "layerprune").symlink_to(other / "layerprune")
    with pytest.raises(PublishError, match=r"elsewhere/layerprune: a link, and the card's figures go there"):
        write_card(folder, elsewhere / "card.md")
    assert {path.name: path.read_bytes() for path in (other / "layerprune").iterdir()} == before
    assert not (other / "card.md").exists() and not (other / "README.md").exists() and len([*elsewhere.iterdir()]) == 1
    assert write_card(folder, None, CardOptions(license="mit")).is_file() and (folder / "layerprune" / "license.json").is_file()


def test_a_card_beside_the_records_of_a_download_is_refused_too(records: Records, tmp_path: Path) -> None:
    folder = records("mini-random-13L")
    manifest, blob = folder / "layerprune" / "manifest.json", tmp_path / "blob"
    manifest.rename(blob)
    manifest.symlink_to(blob)
    with pytest.raises(PublishError, match="left as it is"):
        write_card(folder, folder / "other.md")
    assert not list(folder.glob("layerprune/*.png"))
