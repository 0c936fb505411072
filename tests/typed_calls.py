"""Calls of LayerPruner for mypy, which is strict about this file: each ignored error must be one. Nothing here is run."""

from __future__ import annotations

from hf_layerprune import EvalReport, HealingRecord, LayerPruner, LayerStatistics, PruningPlan


def right(pruner: LayerPruner) -> tuple[LayerStatistics, PruningPlan, HealingRecord, EvalReport, str]:
    statistics = pruner.probe(math_images="sums", samples=3, progress=lambda done, total: None)
    plan = pruner.prune("mixed", 0.25, protect=["first", 3], statistics=statistics)
    record = pruner.heal("out", "interlace", settings={"batch_size": 4}, tune_last=2)
    return statistics, plan, record, pruner.evaluate(samples=2, source=True), pruner.push_to_hub("me/x", "out", private=True).url


def wrong(pruner: LayerPruner) -> None:
    pruner.probe(sample=3)  # type: ignore[call-arg]
    pruner.prune(budget=[0.25])  # type: ignore[arg-type]
    pruner.heal()  # type: ignore[call-arg]
    pruner.evaluate(samples="2")  # type: ignore[arg-type]
    pruner.push_to_hub("me/x")  # type: ignore[call-arg]
