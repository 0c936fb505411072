"""The card's YAML front matter: what the Hub reads. Every value is checked or plain text, and dumped by a YAML library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_layerprune.artifacts.eval_report import EvalReport, TaskRecord
from hf_layerprune.artifacts.scores import Row
from hf_layerprune.publishing.escaping import plain
from hf_layerprune.publishing.facts import CardFacts, hub_dataset

OUR_TAGS = ("hf-layerprune", "layer-pruning", "pruned")
INHERITED = ("license", "license_name", "license_link", "language", "pipeline_tag")
TASK = "image-text-to-text"


def metadata(facts: CardFacts) -> dict[str, Any]:
    """The keys that we set, in the order in which they are written; none for what the records do not say."""
    found: dict[str, Any] = {"library_name": "transformers"}
    found |= {key: _plain(facts.card[key]) for key in INHERITED if key in facts.card}
    if facts.base_model:
        found |= {"base_model": facts.base_model, "base_model_relation": "finetune"}
    if datasets := _datasets(facts):
        found["datasets"] = datasets
    found["tags"] = [*OUR_TAGS] if facts.plan else [OUR_TAGS[0]]
    if facts.evaluation and (index := model_index(facts.name, facts.evaluation)):
        found["model-index"] = index
    return found


def front_matter(found: Mapping[str, Any]) -> str:
    """The YAML block at the head of a card. Nothing in it can begin a line with `---`."""
    from huggingface_hub import utils

    hub: Any = utils  # which exports this without saying so to type checkers
    return f"---\n{hub.yaml_dump(dict(found), sort_keys=False)}---\n"


def model_index(model: str, report: EvalReport) -> list[dict[str, Any]]:
    """The whole tasks' accuracies as the Hub's model-index; empty without scores."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    tasks = {task.name: task for task in report.tasks}
    rows = [report.row(name) for name in tasks]
    results = [
        EvalResult(
            task_type=TASK,
            dataset_name=plain(row.task),
            **_dataset(tasks[row.task]),
            metric_type="accuracy",
            metric_name=f"accuracy in %, standard error {row.model.error:.2f}, of {row.model.samples} samples",
            metric_value=_value(row),
        )
        for row in rows
        if row.model.samples
    ]
    return eval_results_to_model_index(plain(model), results) if results else []


def _value(row: Row) -> float:
    return round(row.model.accuracy, 2)


def _dataset(task: TaskRecord) -> dict[str, Any]:
    """A dataset's id on the Hub, with subset, split and commit, where it has one; else the task's name."""
    spec = hub_dataset(vars(task))
    revision = plain(task.revision) if task.revision else None
    if spec is None:
        return {"dataset_type": plain(task.name), "dataset_revision": revision}
    subset = plain(spec.subset) if spec.subset else None
    place = {"dataset_config": subset, "dataset_split": plain(spec.split or "train")}
    return {"dataset_type": spec.name, "dataset_revision": revision, **place}


def _datasets(facts: CardFacts) -> list[str]:
    """The Hub datasets that it, or what it was made from, was healed on."""
    sources = [source for stage in facts.stages if stage.healing for source in stage.healing.data.sources]
    return list(dict.fromkeys(spec.name for source in sources if (spec := hub_dataset(vars(source)))))


def _plain(value: Any) -> Any:
    return [plain(item, 1000) for item in value] if isinstance(value, list) else plain(value, 1000)
