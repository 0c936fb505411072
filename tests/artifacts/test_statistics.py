"""statistics.safetensors: the means of equations 6 and 7, exact merging, and files that are not what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
from hf_layerprune.artifacts.prompts import DOMAINS, subtasks
from hf_layerprune.artifacts.statistics import LayerStatistics, ProbeRecord, array_shapes
from hf_layerprune.errors import ArtifactError

ALL_TASKS = tuple(task for domain in DOMAINS for task in subtasks(domain))
FACTS = ModelFacts(SourceRef("mini", None, "ab" * 32), "qwen3_vl", layers=5, hidden_size=3, deepstack_layers=1)
ARRAYS = tuple(array_shapes(1, 3, 1))


def make_statistics(seed: int = 0, tasks: tuple[str, ...] = ALL_TASKS, record: ProbeRecord | None = None, **given: Any) -> LayerStatistics:
    """Statistics drawn from a seed; arrays given by name replace drawn ones."""
    draw = np.random.default_rng(seed)
    shapes = array_shapes(len(tasks), FACTS.layers, FACTS.hidden_size)
    arrays: dict[str, Any] = {name: draw.random(shape) for name, shape in shapes.items()}
    arrays["samples"] = draw.integers(1, 5, shapes["samples"])
    arrays["tokens"] = 10 * arrays["samples"][:, None] + draw.integers(0, 9, shapes["tokens"])
    arrays |= {name: value if name == "other_domains" else np.asarray(value) for name, value in given.items()}
    return LayerStatistics(FACTS, record or ProbeRecord({"name": "synthetic", "seed": 0}, {"dtype": "float32"}), tasks, **arrays)


def test_a_domain_mean_weighs_samples_and_not_subtasks() -> None:
    # Math: three samples of the first subtask at 0.9 and 0.6 and 0.3, one of the second at 0.2, none of the others' concern.
    cosines = {0: [0.9, 0.6, 0.3], 1: [0.2], 2: [0.5], 3: [0.5], 4: [0.5]}
    statistics = make_statistics()
    samples, sums, squares = statistics.samples.copy(), statistics.cosine_sum.copy(), statistics.cosine_square_sum.copy()
    for row, values in cosines.items():
        samples[row], sums[row, 0, 2], squares[row, 0, 2] = len(values), sum(values), sum(value**2 for value in values)
    changed = replace(statistics, samples=samples, cosine_sum=sums, cosine_square_sum=squares)
    everything = [value for values in cosines.values() for value in values]
    assert changed.cosine("math")[2] == pytest.approx(fmean(everything))  # eq. 7
    assert changed.cosine_error("math")[2] == pytest.approx(pstdev(everything) / len(everything) ** 0.5)


def test_means_over_tokens_and_samples() -> None:
    """Kinds of tokens apart; INTERLACE weighs every token of both domains the same; pooled and last-token values are over samples."""
    found = make_statistics()
    assert found.pooled("input")[4] == pytest.approx(found.input_pool_sum[4] / found.samples[4])
    assert found.pooled("output")[8] == pytest.approx(found.output_pool_sum[8] / found.samples[8])
    assert found.last_token_cosine("math") == pytest.approx(found.last_token_cosine_sum[:5].sum(0) / found.samples[:5].sum())
    tokens = sum(int(row[0]) for row in found.tokens)
    assert found.token_cosine() == pytest.approx(sum(found.token_cosine_sum[row, 0] for row in range(9)) / tokens)
    assert found.triplet_cosine() == pytest.approx(sum(found.triplet_cosine_sum) / tokens) and found.triplet_cosine().shape == (3,)  # L - 2
    single = make_statistics(samples=np.ones(9, dtype=np.int64))
    for kind, name in enumerate(("all", "visual", "text")):
        assert single.cosine("nonmath", name) == pytest.approx(single.cosine_sum[5:, kind].mean(0))


def test_a_domain_counts_once_all_its_subtasks_were_probed() -> None:
    assert make_statistics().domains == DOMAINS
    assert make_statistics(tasks=subtasks("nonmath")).domains == ("nonmath",)
    samples = np.ones(9, dtype=np.int64)
    samples[2] = 0
    assert make_statistics(samples=samples).domains == ("nonmath",)
    with pytest.raises(ArtifactError, match="no samples of the math domain"):
        make_statistics(tasks=subtasks("nonmath")).cosine("math")


CHARTS = {"read a bar": "charts", "read a pie": "charts"}


def test_other_domains_are_kept_in_the_file(tmp_path: Path) -> None:
    built_in = make_statistics()
    three = make_statistics(tasks=(*ALL_TASKS, *CHARTS), other_domains=CHARTS)
    three.save(tmp_path / "three.safetensors")
    loaded = LayerStatistics.load(tmp_path / "three.safetensors")
    assert three.domains == loaded.domains == ("math", "nonmath", "charts")
    assert (loaded.other_domains, loaded.fingerprint) == (CHARTS, three.fingerprint)
    assert b'"domains"' not in built_in.content.partition(b"cosine_sum")[0]
    samples = three.samples.copy()
    samples[-1] = 0
    assert replace(three, samples=samples).domains == DOMAINS
    for others, message in (
        ({"read a bar": "charts"}, "the subtask 'read a pie', which has no domain"),
        ({**CHARTS, "read a map": "maps"}, "'read a map' a domain, but it is built in or was not probed"),
        ({**CHARTS, "captioning": "charts"}, "'captioning' a domain, but it is built in or was not probed"),
    ):
        with pytest.raises(ArtifactError, match=message):
            replace(three, other_domains=others)


def test_a_file_is_read_back_and_always_the_same_bytes(tmp_path: Path) -> None:
    record = ProbeRecord({"b": 1, "a": [2]}, {"dtype": "float32"}, ("é.png: truncated",), {"math": 1})
    statistics = make_statistics(record=record)
    statistics.save(tmp_path / "one.safetensors")
    read = LayerStatistics.load(tmp_path / "one.safetensors")
    assert (read.model, read.subtasks, read.record) == (statistics.model, statistics.subtasks, record)
    assert all(np.array_equal(getattr(read, name), getattr(statistics, name)) for name in ARRAYS)
    read.save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes() == statistics.content
    reordered = make_statistics(record=replace(record, probe_set={"a": [2], "b": 1}))
    assert reordered.content == statistics.content
    assert read.fingerprint == statistics.fingerprint != make_statistics(seed=1).fingerprint


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cosine_sum", np.zeros((9, 3, 4)), "'cosine_sum' is float64 (9, 3, 4), expected float64 (9, 3, 5)."),
        ("cosine_sum", np.zeros((9, 3, 5), np.float32), "'cosine_sum' is float32 (9, 3, 5), expected float64 (9, 3, 5)."),
        ("samples", np.ones(9), "'samples' is float64 (9,), expected int64 (9,)."),
        ("input_pool_sum", np.full((9, 5, 3), np.nan), "'input_pool_sum' holds NaN or infinity."),
        ("triplet_cosine_sum", np.full((9, 3), np.inf), "'triplet_cosine_sum' holds NaN or infinity."),
        ("samples", np.full(9, -1), "count fewer tokens than samples, or fewer than none."),
        ("tokens", np.zeros((9, 3), np.int64), "count fewer tokens than samples, or fewer than none."),
    ],
)
def test_arrays_that_cannot_be_are_refused(name: str, value: np.ndarray, message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        make_statistics(**{name: value})
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize("tasks", [("math-cot", "poetry"), ("math-cot", "math-cot")])
def test_subtasks_are_some_of_the_nine_once_each(tasks: tuple[str, ...]) -> None:
    with pytest.raises(ArtifactError, match="which has no domain or is a duplicate"):
        make_statistics(tasks=tasks)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    content = make_statistics().content
    path = tmp_path / "statistics.safetensors"
    for length in (0, 1, 7, 8, 9, 100, 500, len(content) // 2, len(content) - 8, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"not a whole statistics file .* Probe again, or pass the right file"):
            LayerStatistics.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ArtifactError, match="not a whole statistics file"):
        LayerStatistics.load(path)


def tampered(statistics: LayerStatistics, **changes: Any) -> bytes:
    """The file with other provenance, as another program or version may have written it."""
    content = statistics.content
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    provenance = json.loads(header["__metadata__"]["layerprune"]) | changes
    return save(load(content), {"layerprune": json.dumps(provenance)})


MODEL = {"source": {"id": "m", "commit": None, "fingerprint": "f"}, "family": "q", "layers": 5, "hidden_size": 3, "deepstack_layers": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({"format": value}, f"statistics format {value}; this version reads 1. Update hf-layerprune.") for value in (2, None)),
        *(({"subtasks": value}, "subtasks is ") for value in (5, [["math-cot"]] * 9)),
        ({"subtasks": ["math-cot"]}, "the statistics' 'samples' is int64 (9,), expected int64 (1,)."),
        ({"probe_set": 5}, "probe_set is 5, expected an object"),
        ({"settings": "abc"}, "settings is 'abc', expected an object"),
        ({"skipped": 5}, "skipped is 5, expected a list"),
        ({"model": []}, "model is [], expected an object"),
        ({"model": {**MODEL, "layer": 5}}, "model has an unexpected key 'layer'"),
        ({"model": {**MODEL, "original_layers": [0]}}, "5 layers, but 1 original ones"),
        ({"model": {**MODEL, "layers": 0}}, "a number of layers or a width is negative, or there is no layer"),
        ({"model": {**MODEL, "deepstack_layers": -1}}, "a number of layers or a width is negative, or there is no layer"),
        ({"model": {**MODEL, "layers": "5"}}, "model.layers is '5', expected int"),
        ({"model": {**MODEL, "layers": 10**30}}, "the statistics' 'cosine_sum' is float64 (9, 3, 5)"),
        ({"model": {**MODEL, "source": {"id": 1, "commit": 2, "fingerprint": 3}}}, "model.source.id is 1, expected str"),
    ],
)
def test_foreign_and_newer_files_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        LayerStatistics.from_bytes(tampered(make_statistics(), **changes), "f.safetensors")
    assert str(caught.value).startswith("f.safetensors: ") and message in str(caught.value) and "\n" not in str(caught.value)


def test_other_safetensors_files_are_refused() -> None:
    """A checkpoint, a type that numpy does not know, a missing array."""
    content = make_statistics().content
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    strange = json.dumps({"x": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    files = [
        save({"weight": np.zeros(3)}),
        *(save(load(content), {"layerprune": text}) for text in ("[]", "{", '{"format": NaN}')),
        save(load(content), {"format": "pt"}),
        len(strange).to_bytes(8, "little") + strange + b"\0\0",
        save({name: array for name, array in load(content).items() if name != "tokens"}, header["__metadata__"]),
    ]
    for file in files:
        with pytest.raises(ArtifactError, match=r"f\.safetensors: not a (whole|valid) statistics file"):
            LayerStatistics.from_bytes(file, "f.safetensors")


def test_a_file_that_is_missing_or_too_large_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot read the statistics file: No such file or directory"):
        LayerStatistics.load(tmp_path / "none")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate((2 << 30) + 1)  # sparse
    with pytest.raises(ArtifactError, match="2,147,483,649 bytes is too large for a statistics file; at most 2,147,483,648 are read"):
        LayerStatistics.load(tmp_path / "huge")
