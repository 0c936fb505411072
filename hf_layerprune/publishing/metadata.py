"""The card's YAML front matter: what the Hub reads. Every value is checked or plain text, and dumped by a YAML library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_layerprune.artifacts.eval_report import EvalReport, TaskRecord
from hf_layerprune.publishing.escaping import plain
from hf_layerprune.publishing.facts import CardFacts, hub_dataset

OUR_TAGS = ("hf-layerprune", "layer-pruning", "pruned")
INHERITED = ("license", "license_name", "license_link", "language", "pipeline_tag")


def metadata(facts: CardFacts) -> dict[str, Any]:
    """The keys that we set, in the order in which they are written; none for what the records do not say."""
    found: dict[str, Any] = {"library_name": "transformers"}
    for key in INHERITED:
        if key in facts.card:
            value = facts.card[key]
            found[key] = [plain(item, 1000) for item in value] if isinstance(value, list) else plain(value, 1000)
    if models := facts.base_models:  # the Hub knows no relation for pruned models: they have other weights than a merge or its parts
        merged = len(models) > 1
        found |= {"base_model": models if merged else models[0], "base_model_relation": "merge" if merged else "finetune"}
    sources = [source for stage in facts.stages if stage.healing for source in stage.healing.data.sources]
    if datasets := list(dict.fromkeys(spec.name for source in sources if (spec := hub_dataset(vars(source))))):
        found["datasets"] = datasets
    found["tags"] = [*OUR_TAGS] if facts.plan else [OUR_TAGS[0]]
    if facts.evaluation and (index := _model_index(facts.name, facts.evaluation)):
        found["model-index"] = index
    return found


def front_matter(found: Mapping[str, Any]) -> str:
    """The YAML block at the head of a card. Nothing in it can begin a line with `---`."""
    from huggingface_hub import utils

    hub: Any = utils  # which exports this without saying so to type checkers
    return f"---\n{hub.yaml_dump(dict(found), sort_keys=False)}---\n"


def _model_index(model: str, report: EvalReport) -> list[dict[str, Any]]:
    """The whole tasks' accuracies as the Hub's model-index; empty without scores."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = [
        EvalResult(
            task_type="image-text-to-text",
            dataset_name=plain(task.name),
            **_dataset(task),
            metric_type="accuracy",
            metric_name=f"accuracy in %, standard error {tally.error:.2f}, of {tally.samples} samples",
            metric_value=round(tally.accuracy, 2),
        )
        for task in report.tasks
        if (tally := report.row(task.name).model).samples
    ]
    return eval_results_to_model_index(plain(model), results) if results else []


def _dataset(task: TaskRecord) -> dict[str, Any]:
    """A dataset's id on the Hub, with subset, split and commit, where it has one; else the task's name."""
    revision = plain(task.revision) if task.revision else None
    if (spec := hub_dataset(vars(task))) is None:
        return {"dataset_type": plain(task.name), "dataset_revision": revision}
    subset, split = plain(spec.subset) if spec.subset else None, plain(spec.split or "train")
    return {"dataset_type": spec.name, "dataset_revision": revision, "dataset_config": subset, "dataset_split": split}
