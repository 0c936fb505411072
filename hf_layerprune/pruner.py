"""LayerPruner: the whole journey from a vision-language model to a shallower one, in the manner of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_layerprune.arguments import (
    EvaluateArguments,
    HealArguments,
    PlanArguments,
    ProbeArguments,
    PushArguments,
    ignore,
    in_terms_of_python,
    takes,
)
from hf_layerprune.artifacts.display import by_reason
from hf_layerprune.artifacts.folder import STATISTICS
from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.option import parse_dtype
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.artifacts.statistics import LayerStatistics
from hf_layerprune.checkpoint.config import shorten_config
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.options import WriteOptions
from hf_layerprune.checkpoint.processor_files import assembled, borrowing
from hf_layerprune.checkpoint.rewrite import rewrite
from hf_layerprune.checkpoint.source import Place, resolve
from hf_layerprune.data.store import kept_or_said
from hf_layerprune.errors import LayerPruneError
from hf_layerprune.probing.options import ProbeOptions
from hf_layerprune.probing.probe_set import ProbeSet, open_probe_set, read_statistics
from hf_layerprune.strategies import planning

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

    from hf_layerprune.artifacts.eval_report import EvalReport
    from hf_layerprune.artifacts.healing_record import HealingRecord
    from hf_layerprune.artifacts.manifest import Manifest
    from hf_layerprune.models.loading import SourceModel
    from hf_layerprune.publishing.push import Pushed

Asked = TypeVar("Asked", ProbeArguments, EvaluateArguments)


class LayerPruner:
    """Prunes one source checkpoint, as often as wanted: every plan is made for the source, never for an earlier result.

        pruner = LayerPruner.from_pretrained("Qwen/Qwen3-VL-4B-Instruct")
        plan = pruner.prune(method="mixed", budget=0.25)
        pruner.save_pretrained("qwen3-vl-28-layers")  # which heal() and evaluate() then act on

    checkpoint: the source, indexed; plan: the last one made, or None; statistics: the last ones measured or given, or None.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: str | torch.dtype = "auto",
        device_map: Any = None,
        attn_implementation: str | None = None,
        statistics_folder: Path | str | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.plan: PruningPlan | None = None
        self.statistics: LayerStatistics | None = None
        self._dtype = parse_dtype(dtype)
        self._loading = {"device_map": device_map, "attn_implementation": attn_implementation}
        self._statistics_folder = Path(statistics_folder) if statistics_folder else None
        self._pruned: tuple[PruningPlan, PreTrainedModel] | None = None
        self._saved: tuple[PruningPlan, Path] | None = None

    @classmethod
    @in_terms_of_python
    def from_pretrained(
        cls,
        model_id_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        subfolder: str | None = None,
        processor: str | Path | None = None,
        dtype: str | torch.dtype = "auto",
        device_map: Any = None,
        attn_implementation: str | None = None,
        statistics_folder: Path | str | None = "default",
    ) -> LayerPruner:
        """Find a source (a folder, `mini`, or a Hub id) and index it; the model itself is loaded when something needs it.

        processor: another model, from which to take what the source lacks of tokenizer, image processor and chat template.
        statistics_folder: where statistics are kept between runs: huggingface_hub's assets cache by default, None for nowhere.
        Raises SourceError, CheckpointError or FamilyError if the source is not to be had, damaged, or of no known family.
        """
        place = Place(revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only, subfolder=subfolder)
        found = resolve(str(model_id_or_path), place)
        folder = kept_or_said("statistics", warnings.warn) if statistics_folder == "default" else statistics_folder
        checkpoint = Checkpoint.open(found.path, found.id, found.commit)
        if processor is not None:
            checkpoint = borrowing(checkpoint, str(processor), replace(place, revision=None, subfolder=None))
        loading = {"device_map": device_map, "attn_implementation": attn_implementation}
        return cls(checkpoint, dtype=dtype, **loading, statistics_folder=folder)

    def __repr__(self) -> str:
        plan = "no layers chosen yet" if self.plan is None else f"{len(self.plan.keep)} layers kept by the last plan"
        return f"LayerPruner({self.checkpoint.id!r}, {self.facts.family}, {self.facts.layers} decoder layers, {plan})"

    @property
    def facts(self) -> ModelFacts:
        """Depth, width and lineage of the source."""
        return self.checkpoint.facts

    @takes(ProbeArguments)
    def probe(self, asked: ProbeArguments) -> LayerStatistics:
        """Measure how much each layer changes its input, over images of both domains; later plans are made from it.

        What was measured before, with the same model, images and settings, is not measured again. Raises UsageError, DataError,
        ProbeError or ModelError.
        """
        asked = self._with_defaults(asked, dtype=self._dtype)
        return self.probe_over(self.probe_set(asked, asked.told), asked, progress=asked.progress or ignore, say=asked.told)

    def probe_over(
        self,
        probe_set: ProbeSet,
        options: ProbeOptions,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> LayerStatistics:
        """`probe` over a probe set at hand."""
        for domain, images in probe_set.sources.items():
            for line in by_reason(images.left_out):
                say(f"note: {domain} images: left out {line}")
        folder, settings = None if options.no_cache else self._statistics_folder, self.probe_settings(options)
        store = probe_set.entry(folder, self.facts.source.fingerprint, settings) if folder else None
        if store and (kept := read_statistics(store.path)):
            probe_set.check_unusable(kept.record.skipped_count, kept.record.skipped, options.tolerance)
            self.statistics = replace(kept, model=self.facts)
            return self.statistics
        from hf_layerprune.probing.probe import ProbedModel, probe

        def load() -> ProbedModel:
            processor = self._processor  # what it lacks is said before the weights are read
            mapped = options.device_map is not None
            source = self._source(device_map=options.device_map) if mapped else self._source_model
            return ProbedModel.of(
                source.for_probing(options.dtype, options.device), processor, self.checkpoint.family, settings, options.max_pixels
            )

        self.statistics = probe(self.facts, probe_set, load, options.tolerance, store=store, progress=progress, say=say)
        return self.statistics

    def probe_set(self, options: ProbeOptions, say: Callable[[str], None] = lambda line: None) -> ProbeSet:
        """The images that a probe takes for these options; their fingerprint reads every file, so make it once."""
        return open_probe_set(options, self.checkpoint.path, say)

    @takes(PlanArguments)
    def prune(self, asked: PlanArguments) -> PruningPlan:
        """Decide which layers go; the plan replaces an earlier one. Probes with the defaults, once, if the method needs it.

        Raises UsageError or StrategyError.
        """
        request, statistics = planning.resolve(self.facts, asked), asked.statistics
        if statistics is None and request.domains:
            statistics = self.statistics or self.probe()
        plan = self.prune_as(request, statistics)
        if warning := planning.deepstack_warning(plan, self.facts):
            warnings.warn(warning, stacklevel=3)
        return plan

    def prune_as(self, request: planning.Request, statistics: LayerStatistics | None = None) -> PruningPlan:
        """`prune` for a request at hand; statistics: as `probe` gives them, for a method that needs them."""
        self.plan = planning.make_plan(self.facts, request, statistics)
        self.statistics = statistics or self.statistics
        return self.plan

    @property
    @in_terms_of_python
    def model(self) -> PreTrainedModel:
        """The pruned model in memory, ready for `generate`; built on access, sharing the source model's weights."""
        from hf_layerprune.models.decoder import without_layers
        from hf_layerprune.models.loading import choose_dtype

        plan = self._planned()
        if self._pruned is None or self._pruned[0] is not plan:
            dtype = choose_dtype(self._dtype)
            config = shorten_config(self.checkpoint.config, plan, self.checkpoint.family)
            self._pruned = (plan, without_layers(self._source_model.get(dtype), self.checkpoint.family, plan.keep, config))
        return self._pruned[1]

    @property
    @in_terms_of_python
    def processor(self) -> ProcessorMixin:
        """The source's processor for images and text; with torchvision absent, without its video part."""
        return self._processor

    @cached_property
    def _processor(self) -> ProcessorMixin:
        from hf_layerprune.models.batches import load_processor

        with assembled(self.checkpoint) as folder:
            return load_processor(folder, self.checkpoint.config.get("image_token_id"))

    @in_terms_of_python
    def save_pretrained(
        self, directory: str | Path, *, max_shard_size: int | str | None = None, overwrite: bool = False, verify: bool = True
    ) -> Manifest:
        """Write the pruned checkpoint, from disk to disk: whole or not at all, and with `verify` proved against its source.

        max_shard_size: bytes, or a text such as "5GB"; None keeps the source's shards. Raises CheckpointError.
        """
        plan, options = self._planned(), WriteOptions(overwrite, max_shard_size, verify)
        manifest = rewrite(self.checkpoint, plan, Path(directory), options, records=self.records())
        self._saved = plan, Path(directory).absolute()
        return manifest

    def records(self) -> dict[str, bytes]:
        """What lies beside the plan in a pruned folder: the statistics it was made from, if it was made from any."""
        return {STATISTICS: used.content} if (used := self.statistics) and used.fingerprint == self._planned().statistics else {}

    @takes(HealArguments)
    def heal(self, asked: HealArguments) -> HealingRecord:
        """Fine-tune the pruned model that was saved last into the folder `output`, or, if nothing was pruned, the source.

        Raises LayerPruneError if the last plan was not saved, and as `healing.heal.heal`.
        """
        from hf_layerprune.healing.heal import heal
        from hf_layerprune.healing.request import resolve

        request = resolve(self._subject(asked.source), Path(asked.output), asked, kept_or_said("data", asked.told))
        return heal(request, progress=asked.progress or ignore, say=asked.told)[0]

    @takes(EvaluateArguments)
    def evaluate(self, asked: EvaluateArguments) -> EvalReport:
        """Evaluate the pruned model that was saved last, or, if nothing was pruned, the source, on held-out samples.

        Raises LayerPruneError if the last plan was not saved; the rest as `evaluation.run.evaluate`.
        """
        from hf_layerprune.evaluation.run import evaluate

        subject, progress = self._subject(asked.source), asked.progress or ignore
        options = self._with_defaults(asked, dtype=self._dtype, **self._loading)
        return evaluate(subject, options, against=asked.against, output=asked.output, progress=progress, say=asked.told).report

    @takes(PushArguments)
    def push_to_hub(self, asked: PushArguments) -> Pushed:
        """Publish as `repo_id`, OWNER/NAME, a `folder` that `save_pretrained` or `heal` wrote, not what is in memory.

        Raises as `publishing.push.push`.
        """
        from hf_layerprune.publishing.push import push

        return push(Path(asked.folder), asked.repo_id, asked, token=asked.token, say=asked.told)

    def probe_settings(self, options: ProbeOptions) -> dict[str, Any]:
        """What decides the numbers of a probe besides images, as asked for: nothing here loads torch."""
        weights = self.checkpoint.tensor_digest
        loading = self._loading | ({} if options.device_map is None else {"device_map": options.device_map})
        asked = {"device": options.device, "dtype": options.dtype, **{key: value and str(value) for key, value in loading.items()}}
        asked |= {"max_pixels": options.max_pixels, **({"processor": self.checkpoint.lender} if self.checkpoint.borrowed else {})}
        return {"weights": weights, "asked": asked, "torch": version("torch"), "transformers": version("transformers")}

    @cached_property
    def _source_model(self) -> SourceModel:
        return self._source()

    def _source(self, **changes: Any) -> SourceModel:
        from hf_layerprune.models.loading import SourceModel

        return SourceModel(self.checkpoint.path, **{**self._loading, **changes})

    def _with_defaults(self, asked: Asked, **own: Any) -> Asked:
        """The arguments, with the pruner's own value where they leave one open."""
        left = {field.name for field in fields(asked) if getattr(asked, field.name) == field.default}
        return replace(asked, **{name: value for name, value in own.items() if name in left})

    def _subject(self, source: bool) -> Checkpoint:
        """What is fine-tuned or evaluated: the pruned checkpoint saved last, the source if it is asked for or nothing was pruned."""
        if source or self.plan is None:
            return self.checkpoint
        if self._saved is None or self._saved[0] is not self.plan:
            raise LayerPruneError("the last plan was not saved: call save_pretrained(folder) first, or pass source=True for the source.")
        return Checkpoint.open(self._saved[1], self._saved[1].name)

    def _planned(self) -> PruningPlan:
        if self.plan is None:
            raise LayerPruneError("no layers were chosen yet: call prune() first, such as prune(method='mixed', budget=0.25).")
        return self.plan
