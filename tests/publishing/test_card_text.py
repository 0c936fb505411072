"""What a card says, what it says was not measured, and that no untrusted text is more than text in it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hf_layerprune.artifacts.eval_report import TaskSettings
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.artifacts.scores import Tally
from hf_layerprune.errors import PublishError
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.merge import find_parts, our_parts
from hf_layerprune.publishing.metadata import metadata
from hf_layerprune.publishing.template import paper_tables, render_card, score
from tests.card_commands import command
from tests.hub.loopback import only_hub, serve
from tests.hub.writing import objections
from tests.plans import plan_of

HOSTILE = [
    "---",
    "a: b",
    "\n---\nlicense: mit\n",
    "'\"`",
    "<script>alert(1)</script>",
    "a|b|c",
    r"x\|<img src=https://evil.example>",
    r"\\|[a](javascript:alert(1))|`\`|",
    "|www.evil.example|https://evil.example|a@evil.example|",
    "```",
    "\u202eevil\u200f",
    "\x00\x1b[31m\x7f",
    "<!-- hf-layerprune:end title -->",
    "\n<!-- hf-layerprune:begin title -->\n",
    "-->",
    "[x](javascript:alert(1))",
    "https://evil.example www.evil.example a@evil.example",
    "# heading",
    "{{ 7 * 7 }}{% raw %}",
    "$(rm -rf /)",
    "--help",
    "&lt;b&gt;&#60;",
    "`` ` ``",
    "\\",
    "\ud800",
    "x" * 1_000_000,
]
PAGE = MarkdownIt("gfm-like", {"linkify": False, "html": True})
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40), st.lists(st.sampled_from(HOSTILE[:-1]), max_size=3).map("".join))
ALLOWED_HTML = re.compile(
    r"<!-- hf-layerprune:(begin|end) [a-z]+ -->|<!-- hf-layerprune:keys [a-z_ -]+ -->|</?picture>|</?code>|<(source|img) [^<>]+>"
)


def hostile_facts(facts: CardFacts, text: str) -> CardFacts:
    """Every untrusted text in a card's records replaced by one."""
    assert facts.plan and facts.healing and facts.evaluation and facts.control and facts.statistics
    source = SourceRef(text, text, facts.source.fingerprint)
    plan = replace(facts.plan, source=source, strategy=text, parameters={text: text}, score_meaning=text)
    sources = tuple(replace(item, origin=text, spec=text, revision=text, left_out=1) for item in facts.healing.data.sources)
    healing = replace(
        facts.healing,
        checkpoint=SourceRef(text, text, facts.healing.checkpoint.fingerprint),
        recipe=replace(facts.healing.recipe, name=text, paper=text, precision=text),
        overridden=("precision",),
        trained=replace(facts.healing.trained, chosen_by=text),
        data=replace(facts.healing.data, sources=sources),
        engine=replace(facts.healing.engine, device=text),
        versions={text: text},
    )
    domains = {text: {"images": 1, "origin": text}, "math": {"images": 1, "origin": text}}
    record = replace(facts.statistics.record, probe_set={"domains": domains, "fingerprint": text}, settings={"device": text, "dtype": text})
    evaluation = hostile_report(facts.evaluation, text)
    card = {"license": text, "license_name": text, "license_link": text, "language": [text, text], "pipeline_tag": text, "base_model": text}
    return replace(
        facts,
        name=text,
        source=source,
        plan=plan,
        healing=healing,
        statistics=replace(facts.statistics, record=record),
        evaluation=evaluation,
        control=hostile_report(facts.control, text),
        pruned=hostile_report(facts.pruned, text),
        card=card,
        figures=frozenset({"layer-map.png", "loss.png"}),
    )


def hostile_report(report: Any, text: str) -> Any:
    rows = tuple(replace(row, task=text, subtask=None if row.subtask is None else text + row.subtask) for row in report.rows[:6])
    tasks = (replace(report.tasks[0], name=text, origin=text, revision=text, spec=text),)
    names = ("dtype", "device", "torch", "transformers", "hf_layerprune")
    model = replace(report.model, environment=replace(report.model.environment, **dict.fromkeys(names, text)))
    other = replace(report.against, source=SourceRef(text, text, text))
    return replace(report, rows=rows, tasks=tasks, model=model, against=other)


def structure(card: str) -> tuple[list[str], list[str], set[str], set[str]]:
    """Of a card as a page: its blocks and what is in its tables' cells, its headings, its links and its HTML."""
    tokens = PAGE.parse(card.split("\n---\n", 1)[1])
    every = [child for token in tokens for child in (token, *(token.children or []))]
    headings = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open" and token.tag != "h1"]
    links = {str(token.attrGet("href")) for token in every if token.type == "link_open"}
    html = {left for token in every if token.type.startswith("html") for left in [ALLOWED_HTML.sub("", token.content).strip()] if left}
    blocks = [
        token.type for token in tokens if token.type in ("fence", "hr", "table_open", "bullet_list_open", "blockquote_open", "code_block")
    ]
    cells = [tokens[place + 1] for place, token in enumerate(tokens) if token.type == "td_open"]
    blocks += [inside(cell) for cell in cells]
    return blocks, headings, links, html


def inside(cell: Any) -> str:
    """What is in a cell, where a code span and the elements of the pipes beside it are one."""
    kinds = "".join(f"{child.content if child.type == 'html_inline' else child.type} " for child in cell.children or [])
    return re.sub("(?:code_inline |<code> text </code> )+", "code_inline ", kinds)


def check_inert(facts: CardFacts, text: str) -> None:
    card = render_card(hostile_facts(facts, text))
    found = ModelCard(card.encode("utf-8", "replace").decode())
    keys = [key for key in found.data.to_dict() if key != "model-index"]
    assert set(keys) <= {*yaml.safe_load(card.split("\n---\n")[0]), "eval_results", "model_name"}
    front = yaml.safe_load(re.split(r"\n---\n", card, maxsplit=1)[0])
    assert list(front) == list(metadata(hostile_facts(facts, text)))
    blocks, headings, links, html = structure(card)
    plain_blocks, plain_headings, plain_links, _ = structure(render_card(hostile_facts(facts, "words")))
    assert (blocks, headings, html) == (plain_blocks, plain_headings, set())
    assert links <= plain_links | {f"https://huggingface.co/{text}"}
    assert [part.name for part in find_parts(card)] == [part.name for part in find_parts(render_card(facts))]
    assert len(card) < 60_000 and not re.search("[\x00-\x08\x0b-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]", card)
    assert our_parts(card)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_known_hostile_text_is_inert(facts: CardFacts, text: str) -> None:
    check_inert(facts, text)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_any_text_is_inert(facts: CardFacts, text: str) -> None:
    check_inert(facts, text)


def test_the_card_is_valid_on_the_hub(facts: CardFacts, tmp_path: Path) -> None:
    card = ModelCard(render_card(facts))
    with serve() as hub, only_hub(hub, tmp_path):
        card.validate()
        for source in (SourceRef("Qwen/Qwen3-VL-4B-Instruct", "c" * 40, facts.source.fingerprint), SourceRef("a: b\n---", None, "f")):
            ModelCard(render_card(replace(facts, source=source, name=source.id))).validate()
        assert hub.requests and set(hub.requests) == {"/api/validate-yaml"}
    assert card.data.license == "apache-2.0" and card.data.library_name == "transformers" and card.data.pipeline_tag == "image-text-to-text"
    assert card.data.tags == ["hf-layerprune", "layer-pruning", "pruned"]
    assert not hasattr(card.data, "base_model_relation")
    index = metadata(facts)["model-index"]
    name, results = model_index_to_eval_results(index)
    assert eval_results_to_model_index(name, results) == index == card.data.to_dict()["model-index"]
    assert name == facts.name and facts.evaluation is not None
    assert {result.dataset_name: result.metric_value for result in results} == {
        task.name: round(facts.evaluation.row(task.name).model.accuracy, 2) for task in facts.evaluation.tasks
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("tags", value) for value in ("pruned", [1], [["a"]])],
        *[("language", value) for value in ("English", ["en", 7], {"en": "en"})],
        *[("pipeline_tag", value) for value in ("talking", 7)],
        *[("base_model", value) for value in ("mini", ["a/b", 7])],
        *[("model-index", [{"name": "a", "results": [value]}]) for value in ({}, 7, {"task": {"type": "image-text-to-text"}})],
        *[("license", value) for value in ("free", ["mit", "free"])],
    ],
)
def test_metadata_of_other_types_would_not_be_valid_on_the_hub(facts: CardFacts, key: str, value: Any) -> None:
    """The loopback Hub refuses what the Hub does, so that what it takes means something."""
    found = metadata(facts)
    assert [*objections(found)] == [] and [*objections(found | {key: value})]


def test_a_base_model_is_named_only_where_it_is_on_the_hub(facts: CardFacts) -> None:
    qwen = SourceRef("Qwen/Qwen3-VL-4B-Instruct", "1a2b3c4", facts.source.fingerprint)
    found = metadata(replace(facts, source=qwen))
    assert (found["base_model"], found["base_model_relation"]) == (qwen.id, "finetune")
    folder = replace(facts, source=SourceRef("my-folder", None, facts.source.fingerprint), card={**facts.card, "base_model": qwen.id})
    assert metadata(folder)["base_model"] == qwen.id
    assert "base_model" not in metadata(facts)
    card = render_card(replace(facts, source=qwen))
    assert "hf-layerprune apply Qwen/Qwen3-VL-4B-Instruct --revision 1a2b3c4 layerprune/plan.json" in command(card, "apply")


def test_a_pruned_merge_names_all_that_was_merged(facts: CardFacts) -> None:
    """Its source, where that is on the Hub, is the base model alone."""
    models = ["first/model", "second/model"]
    merged = replace(facts, source=SourceRef("merged", None, facts.source.fingerprint), card={**facts.card, "base_model": models})
    found = metadata(merged)
    assert (found["base_model"], found["base_model_relation"]) == (models, "merge")
    assert "a merge of several models, as its card says: `first/model`, `second/model`.\n" in render_card(merged)
    on_hub = metadata(replace(merged, source=SourceRef("me/merged", "1a2b3c4", facts.source.fingerprint)))
    assert (on_hub["base_model"], on_hub["base_model_relation"]) == ("me/merged", "finetune")


def test_use_comes_first_then_what_it_cost_then_how(facts: CardFacts) -> None:
    titles = [line for line in render_card(facts).splitlines() if line.startswith("## ")]
    assert [title[3:] for title in titles] == [
        *("Use", "Quality", "What was removed", "How", "Healing", "Speed", "Reproduce", "Limits", "Licence and lineage", "Citation")
    ]


def test_datasets_of_the_hub_are_named_by_their_ids(facts: CardFacts) -> None:
    assert facts.healing and facts.evaluation
    commit = "c" * 40
    lines = {"spec": "math.jsonl,count=5", "origin": "math.jsonl", "revision": None}
    found = {"spec": f"me/lessons,subset=a,count=5,revision={commit}", "origin": "me/lessons, a, train", "revision": commit}
    source = facts.healing.data.sources[0]
    healing = replace(facts.healing, data=replace(facts.healing.data, sources=(replace(source, **lines), replace(source, **found))))
    task = replace(facts.evaluation.tasks[0], **{**found, "spec": f"me/questions,subset=b,split=test,revision={commit}"})
    evaluation = replace(facts.evaluation, tasks=(task, facts.evaluation.tasks[1]))
    both = replace(facts, healing=healing, evaluation=evaluation)
    said = metadata(both)
    assert said["datasets"] == ["me/lessons"]
    first, second = (result["dataset"] for result in said["model-index"][0]["results"])
    place = {"type": "me/questions", "config": "b", "split": "test", "revision": commit}
    assert first == {"name": "mini-math", **place} and second == {"name": "mini-general", "type": "mini-general"}
    name, results = model_index_to_eval_results(said["model-index"])
    assert eval_results_to_model_index(name, results) == said["model-index"]
    card = render_card(both)
    assert f" --data math.jsonl,count=5 --data me/lessons,subset=a,count=5,revision={commit} " in command(card, "heal")
    tasks = f" --tasks me/questions,subset=b,split=test,revision={commit} --tasks mini-general --seed 0"
    assert command(card, "evaluate").endswith(tasks)
    assert "On the disk of the person who made this lay `math.jsonl`; the records have the sha256" in card


def test_the_options_of_an_evaluation_are_in_its_command(facts: CardFacts) -> None:
    assert facts.evaluation and facts.evaluation.against
    report = facts.evaluation
    asked = TaskSettings(None, True, "relaxed", 64, 3)
    model = replace(report.model, settings=replace(report.model.settings, device="cpu", dtype="bfloat16"))
    other = replace(report.against, source=SourceRef("you/other", "d" * 40, "0" * 64))
    tasks = tuple(replace(task, unusable=3, samples=97) for task in report.tasks)
    rows = tuple(replace(row, unusable=3) for row in report.rows)
    card = render_card(replace(facts, evaluation=replace(report, asked=asked, model=model, against=other, tasks=tasks, rows=rows)))
    assert command(card, "evaluate").endswith(
        f" --against you/other@{'d' * 40} --tasks mini-math --tasks mini-general "
        "--scorer relaxed --max-new-tokens 64 --seed 3 --dtype bfloat16 --allow-fewer --max-bad 3%"
    )
    assert facts.healing
    few, many = (replace(facts.healing.data.sources[0], bad=bad, available=300) for bad in (3, 7))
    for sources, words in (((few,), " --seed 0 -o "), ((few, many), " --seed 0 --max-bad 3% -o ")):
        healing = replace(facts.healing, data=replace(facts.healing.data, sources=sources))
        assert words in command(render_card(replace(facts, healing=healing)), "heal")
    folder = replace(report, against=replace(report.against, source=SourceRef("thesis", None, "0" * 64)))
    card = render_card(replace(facts, evaluation=folder))
    assert " --against ./thesis " in command(card, "evaluate") and "On the disk of the person who made this lay `thesis`;" in card


def test_scores_stand_in_the_table_as_the_record_has_them(facts: CardFacts) -> None:
    card = render_card(facts)
    assert facts.evaluation and facts.control and facts.pruned
    assert "\n| accuracy in % (samples) | source | pruned | healed | control | difference | verdict |\n" in card
    for row, pruned, control in zip(facts.evaluation.rows, facts.pruned.rows, facts.control.rows, strict=True):
        line = next(line for line in card.splitlines() if line.startswith("|") and f"`{row.name}`" in line)
        difference = f"{row.difference:+.2f},\xa0{row.relative:+.1f}\xa0%"
        p = facts.evaluation.corrected[row.task, row.subtask]
        chance = f"p\xa0=\xa0{p:.3f}" if p >= 0.001 else "p\xa0<\xa00.001"
        verdict = "not\xa0significant" if p >= 0.05 else "better" if row.difference > 0 else "worse"
        assert line.endswith(f"| {difference} | {verdict}, {chance} |") and f"\xa0({row.model.samples}) |" in line
        scores = [score(tally) for tally in (row.other, pruned.model, row.model, control.model) if tally]
        assert f" | {' | '.join(scores)} | " in line and len(scores) == 4
        assert "100.00\xa0±" not in line


def test_a_perfect_score_has_a_bound() -> None:
    assert [score(Tally(100, correct, 0)) for correct in (100, 0, 96)] == [
        "100.00\xa0≥\xa096.30",
        "0.00\xa0≤\xa03.70",
        "96.00\xa0±\xa01.96",
    ]


def test_what_a_reader_may_take_amiss_is_explained(facts: CardFacts) -> None:
    card = render_card(facts)
    assert "part of hf-layerprune; `mini-math` and `mini-general` are its own synthetic tasks.\n" in card
    assert "`mini-math` 89.40\xa0±\xa01.38 (-8.00, -8.2\xa0%; 500 samples)" in card
    assert "Protected: layers 0, 1, 2 and 15: the first and the last, and layers 0, 1 and 2, after which visual features are added" in card
    assert "Not significant does not mean equal: as few as 125 samples show large differences only." in card
    assert (
        "Where all answers or none are correct, ≥ or ≤ gives the bound of the 95 % Wilson interval instead." in card
        and "nats an answer token (natural logarithms; 0 is certain)." in card
    )
    assert (
        "The control was not trained just like healed: more layers (12, 13, 14 and 15, healed 5, 9 and 11), more parameters (787,712, "
        "healed 590,784).\n"
    ) in card
    assert facts.control_healing and facts.healing and facts.plan
    alike = replace(facts, control_healing=replace(facts.control_healing, trained=facts.healing.trained))
    assert "not trained just like" not in render_card(alike)
    curve = {name: numbers[:-2] for name, numbers in facts.healing.curve.items()}
    shorter = replace(facts.healing, curve=curve, trained=replace(facts.healing.trained, layers=(5, 6, 9)))
    fewer = render_card(replace(facts, control_healing=shorter))
    assert "just like healed: other layers (5, 6 and 9, healed 5, 9 and 11), fewer steps (126, healed 128).\n" in fewer
    rising = replace(facts.healing, curve=dict.fromkeys(facts.healing.curve, (0.1, 0.2)))
    assert "The loss did not fall" not in render_card(replace(facts, healing=rising))
    dense = render_card(replace(facts, plan=None, healing=rising, control=None, control_healing=None, lineage=facts.lineage[:1]))
    assert "The loss did not fall, which can happen when the model already knew these tasks." in dense
    marked = replace(facts.plan, tune=(4,), freeze=(0,))
    alone = replace(facts, plan=marked, healing=None, control=None, control_healing=None, lineage=facts.lineage[:1])
    assert "to tune 4, to freeze 0 (not used: not fine-tuned).\n" in render_card(alone)
    assert "to tune 4, to freeze 0.\n" in render_card(replace(facts, plan=marked))
    one = replace(facts.plan, drop=(6,), keep=tuple(sorted({*range(16)} - {6})), budget=replace(facts.plan.budget, layers=1))
    shown = render_card(replace(facts, plan=one, figures=frozenset({"layer-map.png"})))
    assert "general images; removed: layer 6 of 16." in shown


def test_the_loss_in_words_is_that_of_the_text(facts: CardFacts) -> None:
    """The figure's alternative text and the list name the same means, of the first and the last tenth of the steps."""
    assert facts.healing
    loss = facts.healing.curve["loss"]
    first, last = sum(loss[:12]) / 12, sum(loss[-12:]) / 12
    shown = render_card(replace(facts, figures=frozenset({"loss.png"})))
    assert f"tenth of the steps: {first:.4f} and {last:.4f} nats an answer token" in shown
    assert f'alt="The loss over 128 steps: {first:.4f} in the mean over the first tenth, {last:.4f} over the last."' in shown


def test_the_recipe_says_of_each_setting_whose_it_is(facts: CardFacts) -> None:
    assert facts.healing
    recipe = replace(facts.healing.recipe, optimizer="AdamW", ours=("adam_beta1", "optimizer"))
    layers = render_card(replace(facts, healing=replace(facts.healing, recipe=recipe)))
    for line in ("| `optimizer` | `AdamW` | ours |", "| `warmup_ratio` | `0.03` | paper |", "| `learning_rate` | `0.001` | this run |"):
        assert f"\n{line}\n" in layers
    assert "`lora_rank`" not in layers
    adapters = render_card(replace(facts, healing=replace(facts.healing, recipe=replace(recipe, method="lora", lora_rank=32))))
    assert "\n| `lora_rank` | `32` | paper |\n" in adapters


def test_a_published_cards_dark_figures_are_found_from_anywhere(facts: CardFacts) -> None:
    """The Hub finds the `src` of an image in the repository; of a `srcset` that is not known."""
    shown = render_card(replace(facts, figures=frozenset({"layer-map.png"}), repo="me/short"))
    assert 'srcset="https://huggingface.co/me/short/resolve/main/layerprune/layer-map-dark.png"' in shown
    assert 'src="layerprune/layer-map.png"' in shown


def test_what_is_said_of_the_papers_stands_in_their_tables(facts: CardFacts) -> None:
    """Every number in the limits is one of the data file, and the numbers say what the sentences do."""
    tables = paper_tables()
    limits = render_card(facts).split("## Limits")[1].split("<!--")[0]
    numbers = {float(text) for text in re.findall(r"\b\d+\.\d\d\b", limits.replace("2603.20275", ""))}
    assert len(numbers) == 22 and numbers <= {value for table in tables.values() for rows in table.values() for value in rows.values()}
    assert set(re.findall(r"table (\d)", limits)) == tables.keys()
    for rows in tables["3"].values():
        at_10, at_25 = ([rows[f"{method} {share} %"] for method in ("math", "nonmath", "mixed")] for share in (10, 25))
        assert rows["cka 10 %"] > max(at_10) and rows["cka 25 %"] < min(at_25)
        assert min(at_25) == rows["math 25 %"]
    assert tables["3"]["Snapask"]["math 10 %"] > tables["3"]["Snapask"]["nonmath 10 %"] > tables["3"]["Snapask"]["mixed 10 %"]
    assert tables["3"]["NuminaMath"]["nonmath 10 %"] > max(tables["3"]["NuminaMath"][f"{method} 10 %"] for method in ("math", "mixed"))
    assert all(rows["nonmath 25 %"] > rows["math 25 %"] for table in "23" for rows in tables[table].values())


def test_a_card_claims_nothing_that_no_record_shows(facts: CardFacts) -> None:
    """No order in which abilities go, no purpose reached, no control where nothing was compared."""
    dense = replace(facts, plan=None, control=None, control_healing=None, lineage=facts.lineage[:1])
    for card in map(render_card, (facts, dense, replace(facts, evaluation=None, control=None))):
        assert not re.search("reasoning|first to go|suffers|make up for|even a random", card.split("## Citation")[0], re.IGNORECASE)
    assert "the control" not in render_card(dense).lower()
    assert "no layer removed, fine-tuned for 128 steps by hf-layerprune.\n" in render_card(dense)


def test_what_was_not_measured_is_said_to_be(facts: CardFacts) -> None:
    assert "unpruned source was **not measured**" in render_card(replace(facts, control=None))
    assert "The pruned model before fine-tuning was **not measured**" in render_card(replace(facts, pruned=None))
    without = render_card(replace(facts, evaluation=None, control=None, pruned=None))
    assert "**Its quality was not measured.**" in without and "model-index" not in without
    assert "## Speed\n\nNot measured." in without and "**not tested** for this model" in without
    assert "probe set is not known" in render_card(replace(facts, statistics=None))
    assert facts.evaluation
    rows = tuple(replace(row, other=None, gained=0, lost=0) for row in facts.evaluation.rows)
    alone = render_card(replace(facts, evaluation=replace(facts.evaluation, against=None, rows=rows)))
    assert "The source was **not measured** in this evaluation" in alone


def test_a_dropped_deepstack_layer_forced_layers_and_a_relaxed_rule_are_told(facts: CardFacts) -> None:
    assert facts.plan
    plan = replace(facts.plan, drop=(1, 6, 12), keep=tuple(sorted({*range(16)} - {1, 6, 12})), forced=(1,), relaxed=True, strict_drop=(6,))
    card = render_card(replace(facts, plan=plan))
    assert (
        "**Warning:** the plan drops" in card and "Forced, protected and removed nevertheless: layer 1." in card and "- Relaxed: " in card
    )


@pytest.mark.parametrize(("method", "relaxed"), [("interlace", True), ("interlace-pooled", True), ("mixed", False)])
def test_a_plan_that_was_relaxed_is_called_so_wherever_it_is_shown(facts: CardFacts, method: str, relaxed: bool) -> None:
    """At 40 % mini's twelve free layers hold fewer separate triplets than layers that are to go."""
    mini = replace(facts.decoder, layers=16, original_layers=None)
    plan = plan_of(mini, method, statistics=facts.statistics, budget="0.4")
    card = render_card(replace(facts, plan=plan, figures=frozenset({"layer-map.png"})))
    layers = ", ".join(map(str, plan.drop))
    said = [
        f"- Method: `{method}` (relaxed)",
        "\nRemoved (relaxed): layers ",
        f"; removed (relaxed): layers {layers} of 16.",
        f"5 of 16 layers by `{method}` (relaxed), ",
        f"- Relaxed: the method's own spacing rule reaches only {len(plan.strict_drop)} of 5 layers; the removed layers are only not",
    ]
    assert plan.relaxed is relaxed and [text in card for text in said] == [relaxed] * len(said)
    assert ("elaxed" in card) is relaxed and ("\nRemoved: layers " in card) is not relaxed


@pytest.mark.parametrize("change", [{"steps": 1}, {"sources": "x"}, {"sources": [{}]}, {"sources": [{"origin": "a", "samples": "<b>"}]}])
def test_a_record_that_lacks_what_a_card_needs_is_refused(facts: CardFacts, change: dict[str, Any]) -> None:
    assert facts.healing
    with pytest.raises(PublishError, match="a record does not hold what a card needs"):
        render_card(replace(facts, healing=replace(facts.healing, data=change)))
