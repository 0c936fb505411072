"""The probe: run every image and question through the model, and sum up what each decoder layer did."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.prompts import Domain, prompts, subtasks
from hf_layerprune.artifacts.statistics import LayerStatistics, ProbeRecord
from hf_layerprune.data.records import LISTED, Tolerance, UnusableRecord
from hf_layerprune.data.store import Entry
from hf_layerprune.errors import ProbeError
from hf_layerprune.models.batches import encode_questions
from hf_layerprune.probing.capture import Accumulator, SampleSums, recording
from hf_layerprune.probing.probe_set import ProbeSet, read_statistics

SAVING_SHARE = 0.05  # of the time, at most, goes into keeping what was measured


@dataclass(frozen=True)
class ProbedModel:
    """A loaded model with its processor and decoder layers, and the settings that decide its numbers."""

    model: PreTrainedModel
    processor: ProcessorMixin
    layers: nn.ModuleList
    settings: Mapping[str, Any]


def probe(
    facts: ModelFacts,
    probe_set: ProbeSet,
    load: Callable[[], ProbedModel],
    tolerance: Tolerance,
    *,
    store: Entry | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> LayerStatistics:
    """Measure a model over a probe set, resuming an interrupted probe that `store` keeps.

    load: called once the probe set is known to be usable
    tolerance: for the unusable images of each domain
    store: where its statistics are kept; those of an interrupted probe say in `probe_set` under "done" how many images that are
    progress: told of images done and in all
    say: given lines for people, such as that a batch was halved

    Raises DataError if too many images are unusable, ProbeError if a single question takes more memory than there is.
    """
    run = _Run(facts, probe_set, tolerance, say, read_statistics(store.partial) if store else None)
    total = sum(len(source) for source in probe_set.sources.values())
    if run.done:
        say(f"resuming an interrupted probe: {run.done} of {total} images are done")
    loaded, saved, cost = load(), time.monotonic(), 0.0
    for index, (domain, number) in enumerate(_images(probe_set)):
        progress(index, total)
        if index < run.done:
            continue
        run.measure(loaded, domain, number)
        if store and time.monotonic() - saved > cost / SAVING_SHARE:
            before = time.monotonic()
            store.write(run.statistics(loaded, done=run.done).content, partial=True)
            saved = time.monotonic()
            cost = saved - before
    progress(total, total)
    statistics = run.statistics(loaded)
    if store:
        store.write(statistics.content)
    return statistics


def _images(probe_set: ProbeSet) -> Iterator[tuple[Domain, int]]:
    for domain, source in probe_set.sources.items():
        for number in range(len(source)):
            yield domain, number


class _Run:
    """The state of one probe: the sums, how many images are done, and which could not be used."""

    def __init__(
        self, facts: ModelFacts, probe_set: ProbeSet, tolerance: Tolerance, say: Callable[[str], None], begun: LayerStatistics | None
    ) -> None:
        self._probe_set, self._tolerance, self._say = probe_set, tolerance, say
        names = tuple(name for domain in probe_set.domains for name in subtasks(domain))
        self._sums = Accumulator(facts, names, begun)
        self._parts = 1
        self.done: int = begun.record.probe_set["done"] if begun else 0
        self._skipped: list[str] = list(begun.record.skipped) if begun else []
        self._counts: dict[str, int] = dict(begun.record.skipped_count) if begun else dict.fromkeys(probe_set.domains, 0)
        probe_set.check_unusable(self._counts, self._skipped, tolerance)

    def measure(self, loaded: ProbedModel, domain: Domain, number: int) -> None:
        """Ask all the questions of an image's domain; all of its samples count, or none."""
        try:
            image = self._probe_set.sources[domain].image(number)
            for names, sums in self._measured(loaded, domain, number, image):
                self._sums.add(names, sums)
        except UnusableRecord as problem:
            self._skip(domain, str(problem))
        self.done += 1

    def statistics(self, loaded: ProbedModel, done: int | None = None) -> LayerStatistics:
        """The sums so far; with `done`, as a part that a later run can resume."""
        described = self._probe_set.describe() | ({} if done is None else {"done": done})
        return self._sums.statistics(ProbeRecord(described, loaded.settings, tuple(self._skipped), dict(self._counts)))

    def _measured(self, loaded: ProbedModel, domain: Domain, number: int, image: Image.Image) -> list[tuple[tuple[str, ...], SampleSums]]:
        label, names = self._probe_set.sources[domain].label(number), subtasks(domain)
        while True:
            chunks = [tuple(part.tolist()) for part in np.array_split(np.array(names), min(self._parts, len(names)))]
            try:
                return [(chunk, _forward(loaded, domain, chunk, image, label)) for chunk in chunks]
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._halve(label, len(names))

    def _halve(self, label: str, most: int) -> None:
        if self._parts >= most:
            raise ProbeError(f"{label}: out of memory with a single question. Use smaller images, --dtype bfloat16 or another --device.")
        self._parts *= 2
        self._say(f"out of memory: continuing with batches of {-(-most // self._parts)}")

    def _skip(self, domain: Domain, reason: str) -> None:
        self._counts[domain] += 1
        if len(self._skipped) < LISTED:
            self._skipped.append(reason)
        self._probe_set.check_unusable(self._counts, [reason], self._tolerance)


def _forward(loaded: ProbedModel, domain: Domain, names: tuple[str, ...], image: Image.Image, label: str) -> SampleSums:
    """One forward pass of an image with some of its domain's questions. UnusableRecord if its activations are not finite."""
    device = next(loaded.model.parameters()).device
    try:
        batch = encode_questions(loaded.processor, image, [prompts()[domain][name] for name in names], device)
    except ValueError as error:  # the image processor's own limits, such as on the aspect ratio
        raise UnusableRecord(f"{label}: the model's image processor refuses it ({error})") from error
    with torch.inference_mode(), recording(loaded.layers, batch) as recorder:
        loaded.model(**batch.inputs, use_cache=False, logits_to_keep=1)
    sums = recorder.sums()
    if problem := sums.problem():
        sample, layer, kind = problem
        raise UnusableRecord(f"{label}: {kind} at decoder layer {layer}, asked {names[sample]}")
    return sums


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
