"""The probe: run every image and question through the model, and sum up what each decoder layer did."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.prompts import Domain, prompts, subtasks
from hf_layerprune.artifacts.statistics import LayerStatistics, ProbeRecord, array_shapes
from hf_layerprune.data.records import LISTED, Tolerance, UnusableRecord
from hf_layerprune.data.store import Entry
from hf_layerprune.errors import ProbeError
from hf_layerprune.families import Family
from hf_layerprune.models.batches import encode_questions
from hf_layerprune.models.decoder import decoder_layers
from hf_layerprune.models.loading import input_device
from hf_layerprune.probing.capture import SampleSums, recording
from hf_layerprune.probing.passes import run_shared, run_whole, shared_length
from hf_layerprune.probing.probe_set import ProbeSet, read_statistics

SAVING_SHARE = 0.05  # of the time, at most, goes into keeping what was measured
SUMMED = ("cosine", "token_cosine", "triplet_cosine", "last_token_cosine", "input_pool", "output_pool")  # each in an array `..._sum`


@dataclass(frozen=True)
class ProbedModel:
    """A loaded model with its processor and decoder layers, and the settings that decide its numbers."""

    model: PreTrainedModel
    processor: ProcessorMixin
    layers: nn.ModuleList
    settings: Mapping[str, Any]
    causal_prefix: bool = True  # whether the tokens that questions share can be computed once
    max_pixels: int | None = None  # of an image; larger ones are scaled down

    @classmethod
    def of(
        cls, model: PreTrainedModel, processor: ProcessorMixin, family: Family, settings: Mapping[str, Any], max_pixels: int | None = None
    ) -> ProbedModel:
        """With the settings as asked for, and what they came to."""
        found = {
            "device": model.device.type,
            "dtype": str(model.dtype).removeprefix("torch."),
            "attention": model.config._attn_implementation,
        }
        return cls(model, processor, decoder_layers(model, family), {**settings, **found}, family.causal_prefix, max_pixels)


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
    images = [(domain, number) for domain, source in probe_set.sources.items() for number in range(len(source))]
    if run.done:
        say(f"resuming an interrupted probe: {run.done} of {len(images)} images are done")
    loaded, saved, cost = load(), time.monotonic(), 0.0
    for index, (domain, number) in enumerate(images):
        progress(index, len(images))
        if index < run.done:
            continue
        run.measure(loaded, domain, number)
        if store and time.monotonic() - saved > cost / SAVING_SHARE:
            before = time.monotonic()
            store.write(run.statistics(loaded, {"done": run.done}).content, partial=True)
            saved = time.monotonic()
            cost = saved - before
    progress(len(images), len(images))
    statistics = run.statistics(loaded)
    if store:
        store.write(statistics.content)
    return statistics


class _Run:
    """The state of one probe: the sums, how many images are done, and which were unusable. Memory does not grow with the images."""

    def __init__(
        self, facts: ModelFacts, probe_set: ProbeSet, tolerance: Tolerance, say: Callable[[str], None], begun: LayerStatistics | None
    ) -> None:
        self._facts, self._probe_set, self._tolerance, self._say = facts, probe_set, tolerance, say
        self._subtasks = tuple(name for domain in probe_set.domains for name in subtasks(domain))
        shapes = array_shapes(len(self._subtasks), facts.layers, facts.hidden_size)
        kinds = {"samples": np.int64, "tokens": np.int64}
        self._arrays: dict[str, Any] = {
            name: getattr(begun, name).copy() if begun else np.zeros(shape, kinds.get(name, np.float64)) for name, shape in shapes.items()
        }
        self._scaled = False  # whether it was said that images are scaled down
        self._parts = 1  # forward passes that the questions of an image are split into
        self.done: int = begun.record.probe_set["done"] if begun else 0
        self._skipped: list[str] = list(begun.record.skipped) if begun else []
        self._counts = dict(begun.record.skipped_count) if begun else dict.fromkeys(probe_set.domains, 0)
        probe_set.check_unusable(self._counts, self._skipped, tolerance)

    def measure(self, loaded: ProbedModel, domain: Domain, number: int) -> None:
        """Ask all the questions of an image's domain; all of its samples count, or none."""
        source = self._probe_set.sources[domain]
        try:
            image, most = source.image(number), loaded.max_pixels
            if most and not self._scaled and image.width * image.height > most:
                self._say(f"note: images of more than {most:,} pixels are scaled down to that; --max-pixels changes it")
                self._scaled = True
            for names, sums in list(self._measured(loaded, domain, image, source.labels[number])):
                self._add(names, sums)
        except UnusableRecord as problem:
            self._counts[domain] += 1
            self._skipped += [str(problem)] * (len(self._skipped) < LISTED)
            self._probe_set.check_unusable(self._counts, [str(problem)], self._tolerance)
        self.done += 1

    def statistics(self, loaded: ProbedModel, more: Mapping[str, Any] = {}) -> LayerStatistics:
        """The sums so far. more: keys for the record of a part that a later run can resume."""
        record = ProbeRecord({**self._probe_set.describe(), **more}, loaded.settings, tuple(self._skipped), dict(self._counts))
        return LayerStatistics(self._facts, record, self._subtasks, **{name: array.copy() for name, array in self._arrays.items()})

    def _add(self, names: Sequence[str], sums: SampleSums) -> None:
        """Add one sample of each of the subtasks `names`, in the order of the batch."""
        for sample, name in enumerate(names):
            row = self._subtasks.index(name)
            self._arrays["samples"][row] += 1
            self._arrays["tokens"][row] += sums.tokens[sample].astype(np.int64)
            self._arrays["cosine_square_sum"][row] += sums.cosine[sample] ** 2
            for summed in SUMMED:
                self._arrays[f"{summed}_sum"][row] += getattr(sums, summed)[sample]

    def _measured(self, loaded: ProbedModel, domain: Domain, image: Image.Image, label: str) -> Iterator[tuple[list[str], SampleSums]]:
        """The sums of all questions, in batches that are halved where memory does not suffice."""
        left = list(subtasks(domain))
        most = len(left)
        while left:
            names = left[: -(-most // self._parts)]
            try:
                sums = _forward(loaded, domain, names, image, label)
            except RuntimeError as error:
                if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                    raise
                if self._parts >= most:
                    remedy = "Use smaller images, --dtype bfloat16 or another --device."
                    raise ProbeError(f"{label}: out of memory with a single question. {remedy}") from error
                self._parts *= 2
                self._say(f"out of memory: continuing with batches of {-(-most // self._parts)}")
                continue
            yield names, sums
            left = left[len(names) :]


def _forward(loaded: ProbedModel, domain: Domain, names: Sequence[str], image: Image.Image, label: str) -> SampleSums:
    """One forward pass of an image with some of its domain's questions. UnusableRecord if its activations are not finite."""
    try:
        asked = [prompts()[domain][name] for name in names]
        batch = encode_questions(loaded.processor, image, asked, input_device(loaded.model), loaded.max_pixels)
    except ValueError as error:  # the image processor's own limits, such as on the aspect ratio
        raise UnusableRecord(f"{label}: the model's image processor refuses it ({error})") from error
    length = shared_length(batch) if loaded.causal_prefix else 0
    with torch.inference_mode(), recording(loaded.layers) as recorder:
        if length:
            run_shared(loaded.model, batch, recorder, length)
        else:
            run_whole(loaded.model, batch, recorder)
    sums = recorder.sums()
    if problem := sums.problem():
        sample, layer, kind = problem
        raise UnusableRecord(f"{label}: {kind} at decoder layer {layer}, asked {names[sample]}")
    return sums
