"""What a probe measures: sums over samples and tokens from which every strategy's score follows.

Sums in fp64 rather than means, so that those of two parts of one probe set add up to those of the whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from hf_layerprune.artifacts.display import Readable, one_line
from hf_layerprune.artifacts.jsonfile import check_format, parse_json, read_bounded, record_of, write_atomic
from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.artifacts.prompts import DOMAINS, Domain, subtasks
from hf_layerprune.errors import ArtifactError, shown

STATISTICS_FORMAT = 1
TOKEN_KINDS = ("all", "visual", "text")  # the axis K of the arrays below
MAX_STATISTICS_BYTES = 2 << 30

Counts = Int[np.ndarray, "..."]
Sums = Float[np.ndarray, "..."]


def array_shapes(tasks: int, layers: int, width: int) -> dict[str, tuple[int, ...]]:
    """The shape of each array of the statistics of T = `tasks` subtasks, L = `layers` and d = `width`; K kinds of tokens."""
    kinds = len(TOKEN_KINDS)
    return {
        "samples": (tasks,),
        "tokens": (tasks, kinds),
        "cosine_sum": (tasks, kinds, layers),
        "cosine_square_sum": (tasks, kinds, layers),
        "token_cosine_sum": (tasks, kinds, layers),
        "triplet_cosine_sum": (tasks, max(layers - 2, 0)),
        "last_token_cosine_sum": (tasks, layers, layers),
        "input_pool_sum": (tasks, layers, width),
        "output_pool_sum": (tasks, layers, width),
    }


@dataclass(frozen=True, repr=False)
class ProbeRecord(Readable):
    """How the statistics came about: the probe set and the settings, as far as they decide the numbers."""

    probe_set: Mapping[str, Any]  # its name, content fingerprint and images per domain
    settings: Mapping[str, Any]  # device, dtype and library versions
    skipped: tuple[str, ...] = ()  # the records that could not be used and why, the first hundred
    skipped_count: Mapping[str, int] = field(default_factory=dict)  # how many per domain


@dataclass(frozen=True, kw_only=True)
class _Provenance:
    """What stands in the file's header: of `LayerStatistics` all but the arrays."""

    model: ModelFacts
    subtasks: tuple[str, ...]
    domains: Mapping[str, Domain] = field(default_factory=dict)
    probe_set: Mapping[str, Any]
    settings: Mapping[str, Any]
    skipped: tuple[str, ...]
    skipped_count: Mapping[str, int]


@dataclass(frozen=True, repr=False)
class LayerStatistics(Readable):
    """Sums per subtask (T of them), token kind (K: all, visual, text), layer (L) and width (d)."""

    model: ModelFacts
    record: ProbeRecord
    subtasks: tuple[str, ...]
    samples: Counts  # [T] forward passes
    tokens: Counts  # [T, K] tokens in them
    cosine_sum: Sums  # [T, K, L] over samples, of a sample's token mean of cos(layer input, layer output) (domain-aware paper, eq. 6)
    cosine_square_sum: Sums  # [T, K, L] over samples, of the squares of these means
    token_cosine_sum: Sums  # [T, K, L] the same cosine over tokens (INTERLACE, S_layer)
    triplet_cosine_sum: Sums  # [T, L - 2] over tokens, cos(input of layer i, output of layer i + 2) (INTERLACE, eq. 1)
    last_token_cosine_sum: Sums  # [T, L, L] over samples, of the last token, cos(input of layer i, output of layer j), 0 where j < i
    input_pool_sum: Sums  # [T, L, d] over samples, of a sample's token mean of a layer's input
    output_pool_sum: Sums  # [T, L, d] and of its output
    other_domains: Mapping[str, Domain] = field(default_factory=dict)  # of each subtask but the nine built-in ones

    def __post_init__(self) -> None:
        known = {*_BUILT_IN, *self.other_domains}
        if unknown := [name for name in self.subtasks if name not in known or self.subtasks.count(name) > 1]:
            raise ArtifactError(f"the statistics hold the subtask {unknown[0]!r}, which has no domain or is a duplicate.")
        if stray := sorted(_BUILT_IN.keys() & self.other_domains.keys() | self.other_domains.keys() - {*self.subtasks}):
            raise ArtifactError(f"the statistics give the subtask {stray[0]!r} a domain, but it is built in or was not probed.")
        for name, shape in array_shapes(len(self.subtasks), self.model.layers, self.model.hidden_size).items():
            array = getattr(self, name)
            kind = np.int64 if name in ("samples", "tokens") else np.float64
            if array.shape != shape or array.dtype != kind:
                raise ArtifactError(f"the statistics' {name!r} is {array.dtype} {array.shape}, expected {np.dtype(kind)} {shape}.")
            if not np.isfinite(array).all():
                raise ArtifactError(f"the statistics' {name!r} holds NaN or infinity.")
        if (self.samples < 0).any() or (self.tokens < 0).any() or (self.tokens[:, 0] < self.samples).any():
            raise ArtifactError("the statistics count fewer tokens than samples, or fewer than none.")

    def __repr__(self) -> str:
        passes = [f"{self.samples[self._rows(domain)].sum():,} passes over {domain} images" for domain in self.domains]
        return one_line(self, shown(self.model.source.id), f"{self.model.layers} decoder layers", *passes)

    def __str__(self) -> str:
        """What was measured, and which layers change each domain least, for `print(statistics)`."""
        lines = [f"{self.model.source.id}: {self.model.layers} decoder layers, {self.samples.sum():,} passes"]
        for domain in self.domains:
            cosine = self.cosine(domain)
            least = ", ".join(map(str, np.argsort(-cosine, kind="stable")[:5]))
            lines.append(f" {domain:<8} cosine of input and output {cosine.min():.3f} to {cosine.max():.3f}, highest at layers {least}")
        return "\n".join(lines)

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The domains of which every subtask was probed: the built-in ones first, then by name."""
        probed = {name for name, count in zip(self.subtasks, self.samples, strict=True) if count}
        missing = {domain for name, domain in {**_BUILT_IN, **self.other_domains}.items() if name not in probed}
        names = dict.fromkeys((*DOMAINS, *sorted(self.other_domains.values())))
        return tuple(name for name in names if name not in missing)

    def cosine(self, domain: Domain, kind: str = "all") -> Float[np.ndarray, "layer"]:
        """S_l of a domain: the mean over its samples of their token-mean cosine (domain-aware paper, eq. 6 and 7)."""
        rows = self._rows(domain)
        return np.asarray(self.cosine_sum[rows, TOKEN_KINDS.index(kind)].sum(0) / self.samples[rows].sum())

    def cosine_error(self, domain: Domain, kind: str = "all") -> Float[np.ndarray, "layer"]:
        """The standard error of `cosine` over samples (population standard deviation over the root of their number)."""
        rows, column = self._rows(domain), TOKEN_KINDS.index(kind)
        count = self.samples[rows].sum()
        spread = self.cosine_square_sum[rows, column].sum(0) / count - self.cosine(domain, kind) ** 2
        return np.asarray(np.sqrt(np.maximum(spread, 0) / count))

    def token_cosine(self) -> Float[np.ndarray, "layer"]:
        """S_layer of INTERLACE: the mean of the cosine over all tokens of all samples of all domains."""
        return np.asarray(self.token_cosine_sum[:, 0].sum(0) / self.tokens[:, 0].sum())

    def triplet_cosine(self) -> Float[np.ndarray, "triplet"]:
        """S_triplet of INTERLACE, eq. 1: entry i is that of the layers i, i + 1, i + 2, over all tokens of all domains."""
        return np.asarray(self.triplet_cosine_sum.sum(0) / self.tokens[:, 0].sum())

    def last_token_cosine(self, domain: Domain) -> Float[np.ndarray, "layer layer"]:
        """The mean over a domain's samples of cos(input of layer i, output of layer j) at the last token; 0 where j < i."""
        rows = self._rows(domain)
        return np.asarray(self.last_token_cosine_sum[rows].sum(0) / self.samples[rows].sum())

    def pooled(self, side: str) -> Float[np.ndarray, "subtask layer hidden"]:
        """Per subtask and layer the mean over samples of the token mean of a layer's `side`, "input" or "output"."""
        sums = {"input": self.input_pool_sum, "output": self.output_pool_sum}[side]
        return np.asarray(sums / self.samples[:, None, None])

    @cached_property
    def content(self) -> bytes:
        """The file: safetensors, with the provenance as JSON under one key of the header (one key keeps the bytes the same)."""
        provenance = {
            "format": STATISTICS_FORMAT,
            "model": self.model.to_dict(),
            "subtasks": list(self.subtasks),
            **({"domains": dict(self.other_domains)} if self.other_domains else {}),
            "probe_set": dict(self.record.probe_set),
            "settings": dict(self.record.settings),
            "skipped": list(self.record.skipped),
            "skipped_count": dict(self.record.skipped_count),
        }
        return save_safetensors({name: getattr(self, name) for name in _ARRAYS}, {"layerprune": json.dumps(provenance, sort_keys=True)})

    @property
    def fingerprint(self) -> str:
        """sha256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def save(self, path: Path | str) -> None:
        write_atomic(Path(path), self.content)

    @classmethod
    def load(cls, path: Path | str) -> LayerStatistics:
        """Read a statistics file; ArtifactError if it is truncated, damaged, of another kind or from a newer version."""
        return cls.from_bytes(read_bounded(Path(path), "statistics file", MAX_STATISTICS_BYTES), str(path))

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> LayerStatistics:
        try:
            found = load_safetensors(content)
            arrays = {name: found[name] for name in _ARRAYS}
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            provenance = header["__metadata__"]["layerprune"].encode()
        except (SafetensorError, ValueError, KeyError) as error:
            raise ArtifactError(f"{where}: not a whole statistics file ({error!r}). Probe again, or pass the right file.") from error
        value = parse_json(provenance, where, "statistics file")
        check_format(value.pop("format", None), STATISTICS_FORMAT, "statistics", where)
        of = record_of(_Provenance, value, "provenance of the statistics", where)
        record = ProbeRecord(of.probe_set, of.settings, of.skipped, of.skipped_count)
        try:
            return cls(of.model, record, of.subtasks, **arrays, other_domains=of.domains)
        except ArtifactError as error:
            raise ArtifactError(f"{where}: {error}") from error

    def _rows(self, domain: Domain) -> list[int]:
        of = {**_BUILT_IN, **self.other_domains}
        rows = [row for row, name in enumerate(self.subtasks) if of[name] == domain and self.samples[row]]
        if not rows:
            raise ArtifactError(f"the statistics hold no samples of the {domain} domain.")
        return rows


_BUILT_IN = {name: domain for domain in DOMAINS for name in subtasks(domain)}
_ARRAYS = tuple(array_shapes(1, 1, 1))
