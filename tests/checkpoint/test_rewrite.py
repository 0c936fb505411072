"""What a rewrite writes, checked by readers that share no code with it."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.rewrite import WRITER
from hf_layerprune.errors import CheckpointError, FamilyError
from tests.checkpoint.independent import alignment_faults, pruned, read_file, read_model, snapshot
from tests.rewriting import rewrite
from tests.tiny_checkpoint import SIDE_FILES, make_checkpoint, make_config, make_plan, make_tensors, write_safetensors

DROPS = [(2,), (0,), (5,), (1, 3, 4), (0, 1, 5)]


def run(source: Path, output: Path, drop: tuple[int, ...], **options: Any) -> Manifest:
    checkpoint = Checkpoint.open(source, "owner/tiny", "c" * 40)
    return rewrite(checkpoint, make_plan(checkpoint, drop), output, **options)


@pytest.mark.parametrize("drop", DROPS)
@pytest.mark.parametrize(("shards", "limit"), [(1, None), (3, None), (1, 40_000), (3, 10**9)])
def test_tensors_are_those_of_the_source(tmp_path: Path, drop: tuple[int, ...], shards: int, limit: int | None) -> None:
    source, output = make_checkpoint(tmp_path / "source", shards=shards), tmp_path / "output"
    before = snapshot(source)
    run(source, output, drop, max_shard_size=limit)
    keep = [layer for layer in range(6) if layer not in drop]
    assert read_model(output) == pruned(read_model(source), keep)
    assert not any(alignment_faults(path) for path in output.glob("*.safetensors"))
    assert snapshot(source) == before


def test_layout(sharded: Path, tmp_path: Path) -> None:
    run(sharded, tmp_path / "same", (3,))
    run(sharded, tmp_path / "one", (3,), max_shard_size=10**9)
    run(sharded, tmp_path / "many", (3,), max_shard_size=20_000)
    names = {folder: sorted(path.name for path in (tmp_path / folder).glob("model*")) for folder in ("same", "one", "many")}
    assert names["same"] == [*(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)), "model.safetensors.index.json"]
    assert names["one"] == ["model.safetensors"]
    assert len(names["many"]) > 5
    for name in names["many"][:-1]:
        tensors, metadata = read_file(tmp_path / "many" / name)
        assert metadata == {"format": "pt"} and (len(tensors) == 1 or sum(len(data) for _, _, data in tensors.values()) <= 20_000)
    assert json.loads((tmp_path / "same/layerprune/manifest.json").read_text())["shard_policy"] == "source"
    assert json.loads((tmp_path / "many/layerprune/manifest.json").read_text())["shard_policy"] == 20_000


WRITTEN = {  # by a version of the writer, what it makes of one source and one plan; another layout is another version
    ("hf-layerprune rewrite 2", None): "eabf1edd190781d063fafdb6e06ab21557206b13148be4951cf3aa9494c390a1",
    ("hf-layerprune rewrite 2", 50_000): "c1c3ff1d4a7f045218affeff63316c02f1fef1d6147b24475de1a4c0a1e6c369",
}


@pytest.mark.parametrize("limit", [None, 50_000])
def test_bytes_belong_to_the_version_of_the_writer(source: Path, tmp_path: Path, limit: int | None) -> None:
    tensors = {name: np.arange(tensor.size, dtype=np.uint16).reshape(tensor.shape) for name, tensor in make_tensors(make_config()).items()}
    write_safetensors(source / "model.safetensors", tensors)
    run(source, tmp_path / "output", (3,), max_shard_size=limit)
    weights = b"".join(path.read_bytes() for path in sorted((tmp_path / "output").glob("model*")))
    assert hashlib.sha256(weights).hexdigest() == WRITTEN[WRITER, limit]


def test_source_boundaries_are_kept(sharded: Path, tmp_path: Path) -> None:
    run(sharded, tmp_path / "output", (3,))
    for name in sorted(path.name for path in sharded.glob("model-*")):
        assert read_file(tmp_path / "output" / name)[0] == pruned(read_file(sharded / name)[0], [0, 1, 2, 4, 5])


def test_the_order_of_the_source_is_kept(source: Path, tmp_path: Path) -> None:
    """All sizes of a shuffled source that are whole cache lines stay in its order: one sweep over the disk reads them."""
    tensors = make_tensors(make_config())
    order = sorted(tensors, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    write_safetensors(source / "model.safetensors", {name: tensors[name] for name in order})
    manifest = run(source, tmp_path / "output", (3,))
    written = [manifest.tensors[name] for name in read_file(tmp_path / "output" / "model.safetensors")[0]]
    kept = set(written)
    lines = [name for name in order if name in kept and tensors[name].nbytes % 64 == 0]
    assert written == [*lines, *(name for name in order if name in kept and tensors[name].nbytes % 64)]
    assert lines and lines != written


def test_a_shard_that_loses_everything_is_left_out(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source")
    tensors = make_tensors(make_config())
    third = {name for name in tensors if name.startswith("model.language_model.layers.3.")}
    (source / "model.safetensors").unlink()
    write_safetensors(source / "a.safetensors", {name: tensors[name] for name in tensors if name not in third})
    write_safetensors(source / "b.safetensors", {name: tensors[name] for name in third})
    places = {name: "b.safetensors" if name in third else "a.safetensors" for name in tensors}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    run(source, tmp_path / "output", (3,))
    assert sorted(path.name for path in (tmp_path / "output").glob("*.safetensors*")) == ["model.safetensors"]
    assert len(read_model(tmp_path / "output")) == len(tensors) - len(third)


def test_header_is_aligned_and_metadata_kept(source: Path, tmp_path: Path) -> None:
    content = (source / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    for name, metadata in (("kept", {"format": "pt", "über": "ß"}), ("absent", None)):
        changed = {**header, "__metadata__": metadata}
        if metadata is None:
            del changed["__metadata__"]
        raw = json.dumps(changed).encode()
        (source / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + length :])
        run(source, tmp_path / name, (3,))
        written = (tmp_path / name / "model.safetensors").read_bytes()
        assert (8 + struct.unpack("<Q", written[:8])[0]) % 64 == 0 and not alignment_faults(tmp_path / name / "model.safetensors")
        assert read_file(tmp_path / name / "model.safetensors")[1] == (metadata or {"format": "pt"})


def test_metadata_that_differs_between_shards(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", shards=2)
    path = source / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes().replace(b'{"format": "pt"}', b'{"format": "np"}'))
    run(source, tmp_path / "same", (3,))
    assert read_file(tmp_path / "same" / path.name)[1] == {"format": "np"}
    with pytest.raises(CheckpointError, match=r"differs from the other shards' in 'format'. Leave out --max-shard-size"):
        run(source, tmp_path / "other", (3,), max_shard_size=10**9)


def test_mixed_types_stay_aligned(source: Path, tmp_path: Path) -> None:
    """A tensor of odd length between wider ones would leave them unaligned if the source's order were kept."""
    content = (source / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    end = len(content) - 8 - length
    header["mtp.odd"] = {"dtype": "U8", "shape": [3], "data_offsets": [end, end + 3]}
    header["mtp.wide"] = {"dtype": "F64", "shape": [1], "data_offsets": [end + 3, end + 11]}
    header["mtp.line"] = {"dtype": "U8", "shape": [64], "data_offsets": [end + 11, end + 75]}
    raw = json.dumps(header).encode()
    data = content[8 + length :] + b"odd12345678" + b"x" * 64
    (source / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    run(source, tmp_path / "output", (3,))
    written = (tmp_path / "output" / "model.safetensors").read_bytes()
    entries = json.loads(written[8 : 8 + struct.unpack("<Q", written[:8])[0]])
    order = list(entries)
    assert order.index("mtp.line") < order.index("mtp.wide") < order.index("mtp.odd") == len(order) - 1
    assert not alignment_faults(tmp_path / "output" / "model.safetensors") and alignment_faults(source / "model.safetensors")
    assert read_model(tmp_path / "output")["mtp.odd"] == ("U8", (3,), b"odd")


def test_bytes_are_the_same_on_every_run(sharded: Path, tmp_path: Path) -> None:
    run(sharded, tmp_path / "one", (1, 3), records={"note.json": b"{}"})
    run(sharded, tmp_path / "two", (1, 3), records={"note.json": b"{}"}, verify=False)
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert contents[0] == contents[1]


def test_config_is_patched_and_nothing_else(tmp_path: Path) -> None:
    source = make_checkpoint(
        tmp_path / "source",
        text_config__layer_types=[f"kind{layer}" for layer in range(6)],
        text_config__mlp_only_layers=[0, 2, 4],
        zz_last={"a": [1, 2]},
        auto_map={"AutoModel": "modeling.Evil"},
    )
    before = json.loads((source / "config.json").read_text())
    run(source, tmp_path / "output", (1, 2))
    text = (tmp_path / "output" / "config.json").read_text()
    after = json.loads(text)
    fingerprint = Checkpoint.open(source, "x").source.fingerprint
    expected = json.loads(json.dumps(before))
    expected["text_config"]["num_hidden_layers"] = 4
    expected["text_config"]["layer_types"] = ["kind0", "kind3", "kind4", "kind5"]
    expected["text_config"]["mlp_only_layers"] = [0, 2]
    expected["layer_pruning"] = {
        "format": 1,
        "source": {"id": "owner/tiny", "commit": "c" * 40, "fingerprint": fingerprint},
        "strategy": "manual",
        "kept_layers": [0, 3, 4, 5],
        "original_layers": [0, 3, 4, 5],
        "original_depth": 6,
    }
    assert after == expected
    assert text == json.dumps(expected, indent=2) + "\n"  # the order of the keys, too
    assert after["vision_config"] == before["vision_config"]


def test_side_files_are_copied_byte_for_byte(source: Path, tmp_path: Path) -> None:
    (source / "run.sh").write_bytes(b"#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "optimizer.pt").write_bytes(b"stale")
    (source / "linked.txt").symlink_to("LICENSE")
    run(source, tmp_path / "output", (3,))
    found = {path.relative_to(tmp_path / "output").as_posix(): path for path in (tmp_path / "output").rglob("*") if path.is_file()}
    expected = {name: content for name, content in SIDE_FILES.items() if name not in ("README.md", ".gitattributes")}
    expected |= {"run.sh": b"#!/bin/sh\n", "linked.txt": SIDE_FILES["LICENSE"]}
    ours = {"config.json", "model.safetensors", *(f"layerprune/{name}.json" for name in ("plan", "manifest", "source"))}
    assert found.keys() == expected.keys() | ours
    assert all(found[name].read_bytes() == content and not found[name].is_symlink() for name, content in expected.items())
    assert found["run.sh"].stat().st_mode & 0o111 == 0


def test_manifest(sharded: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    manifest = run(sharded, output, (3,), records={"statistics.safetensors": b"numbers"})
    assert Manifest.load(output / "layerprune/manifest.json") == manifest
    on_disk = {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert on_disk.pop("layerprune/statistics.safetensors") == b"numbers"
    assert set(manifest.files) == {name for name in on_disk if not name.startswith("layerprune/")}
    for name, record in manifest.files.items():
        assert (record.bytes, record.sha256) == (len(on_disk[name]), hashlib.sha256(on_disk[name]).hexdigest())
    source, written = read_model(sharded), read_model(output)
    assert manifest.tensors.keys() == written.keys() and all(written[new] == source[old] for new, old in manifest.tensors.items())


def test_plan_and_provenance_are_recorded(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "output", (3,))
    assert PruningPlan.load(tmp_path / "output/layerprune/plan.json").drop == (3,)
    record = json.loads((tmp_path / "output/layerprune/source.json").read_text())
    assert record.pop("fingerprint") == Checkpoint.open(source, "x").source.fingerprint
    assert record == {
        "format": 1,
        "id": "owner/tiny",
        "commit": "c" * 40,
        "license": "apache-2.0",
        "language": ["en", "no"],
        "pipeline_tag": "image-text-to-text",
    }


def test_pruned_again(source: Path, tmp_path: Path) -> None:
    """Indices compose: 0 2 3 5 of the first ancestor, then 0 1 3 of those."""
    run(source, tmp_path / "once", (1, 4))
    checkpoint = Checkpoint.open(tmp_path / "once", "once")
    assert checkpoint.facts.original_layers == (0, 2, 3, 5)
    rewrite(checkpoint, make_plan(checkpoint, (2,)), tmp_path / "twice")
    assert read_model(tmp_path / "twice") == pruned(read_model(source), [0, 2, 5])
    lineage = json.loads((tmp_path / "twice/config.json").read_text())["layer_pruning"]
    assert (lineage["kept_layers"], lineage["original_layers"], lineage["original_depth"]) == ([0, 1, 3], [0, 2, 5], 6)
    assert json.loads((tmp_path / "twice/layerprune/source.json").read_text())["license"] == "apache-2.0"
    assert not (tmp_path / "twice/layerprune/once").exists()


def test_progress_counts_the_tensor_bytes(source: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    run(source, tmp_path / "output", (3,), progress=seen.append)
    assert sum(seen) == sum(len(data) for _, _, data in read_model(tmp_path / "output").values())


@pytest.mark.parametrize(("shards", "tied"), [(1, True), (3, False)])
def test_transformers_loads_what_was_planned(tmp_path: Path, shards: int, tied: bool) -> None:
    """No key missing, unexpected or mismatched, and logits equal, bit for bit, to the source with the same layers bypassed."""
    source = make_checkpoint(tmp_path / "source", shards=shards, tied=tied)
    run(source, tmp_path / "output", (2, 4))
    whole, _ = AutoModelForImageTextToText.from_pretrained(source, output_loading_info=True)
    short, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "output", output_loading_info=True)
    assert not any(info.values()) and short.dtype == torch.bfloat16
    layers = whole.model.language_model.layers
    whole.model.language_model.layers = torch.nn.ModuleList(layers[index] for index in (0, 1, 3, 5))
    tokens = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        assert torch.equal(whole(input_ids=tokens, use_cache=False).logits, short(input_ids=tokens, use_cache=False).logits)
    assert short.generate(tokens, max_new_tokens=3, do_sample=False).shape == (2, 13)


def test_what_is_refused_in_the_output_is_named_as_the_output(tmp_path: Path) -> None:
    """A list that nobody declared fits the new depth by chance."""
    source = make_checkpoint(tmp_path / "source", text_config__odd=[1, 2, 3, 4, 5])
    with pytest.raises(FamilyError, match=f"^{tmp_path}/output/config.json: 'text_config.odd' has 5 entries, as many as there are layers"):
        run(source, tmp_path / "output", (3,))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


CONVERSION = """
import sys
from pathlib import Path
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.rewrite import WRITER
from tests.rewriting import rewrite
from hf_layerprune.checkpoint.source import resolve
from hf_layerprune.checkpoint.verify import verify
source = Checkpoint.open(resolve(sys.argv[1]).path, "tiny")
rewrite(source, PruningPlan.load(sys.argv[2]), Path(sys.argv[3]))
assert verify(Path(sys.argv[3]), source).ok
"""


def test_conversion_imports_neither_torch_nor_transformers(source: Path, tmp_path: Path) -> None:
    code = CONVERSION + "print({'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules))"
    make_plan(Checkpoint.open(source, "tiny"), (3,)).save(tmp_path / "plan.json")
    arguments = [sys.executable, "-c", code, str(source), str(tmp_path / "plan.json"), str(tmp_path / "output")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    small, large = (peak_of_conversion(tmp_path / name, vocabulary) for name, vocabulary in (("small", 400_000), ("large", 1_000_000)))
    assert max(small, large) < 60 * 10**6  # of which a part is shared with other programs
    assert large - small < 4 << 20  # of 38 MB that the large model has more


def peak_of_conversion(place: Path, vocabulary: int) -> int:
    """Most bytes of memory that rewriting and verifying a model of 64 bytes a token take, both with full buffers."""
    source = make_checkpoint(place / "source", text_config__vocab_size=vocabulary)
    assert (source / "model.safetensors").stat().st_size > 64 * vocabulary
    make_plan(Checkpoint.open(source, "tiny"), (3,)).save(place / "plan.json")
    # Not getrusage: its peak is inherited from the process that started this one.
    code = CONVERSION + "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    arguments = [sys.executable, "-c", code, str(source), str(place / "plan.json"), str(place / "output")]
    return 1024 * int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
