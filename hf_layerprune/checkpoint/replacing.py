"""Write a checkpoint again with some tensors' bytes taken from elsewhere, as a fine-tuning needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hf_layerprune.artifacts.folder import CONFIG, MANIFEST, PLAN, PROVENANCE, RECORDS, STATISTICS
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.copying import copy_file, write_file, write_shard
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.layout import plan_shards
from hf_layerprune.checkpoint.provenance import healed_record
from hf_layerprune.checkpoint.rewrite import WRITER, bytes_needed, copy_side_files, index_of
from hf_layerprune.checkpoint.shards import INDEX
from hf_layerprune.checkpoint.staging import staged_folder
from hf_layerprune.checkpoint.verify import same_tensors
from hf_layerprune.errors import CheckpointError

CARRIED = (PLAN, STATISTICS)  # records that stay true; evaluations of the old weights do not


def write_replaced(
    checkpoint: Checkpoint, replaced: Mapping[str, TensorSpan], output: Path, *, overwrite: bool, records: Mapping[str, bytes]
) -> Manifest:
    """The checkpoint with the bytes of `replaced` in place of its own, in the same shards, whole or not at all, read back and compared.

    replaced: by name, where the new bytes lie, of the same type and shape; records: files for `layerprune/`, by name.
    config.json and the side files are copied byte for byte. CheckpointError where `rewrite` raises it.
    """
    shards = plan_shards(checkpoint, tuple(range(checkpoint.facts.layers)), None)
    shards = tuple(
        replace(shard, tensors={**shard.tensors, **{n: replaced[n] for n in shard.tensors if n in replaced}}) for shard in shards
    )
    needed = bytes_needed(checkpoint, shards, list(records.values())) + sum(path.stat().st_size for path in _carried(checkpoint))
    with staged_folder(output, overwrite=overwrite, source=checkpoint.path, needed=needed) as staging:
        files = {shard.name: write_shard(staging / shard.name, shard) for shard in shards}
        if len(shards) > 1:
            files[INDEX] = write_file(staging / INDEX, index_of(shards))
        files[CONFIG] = copy_file(checkpoint.path / CONFIG, staging / CONFIG)
        files.update(copy_side_files(checkpoint, staging))
        names, changed = _origins(checkpoint, replaced)
        trained = () if replaced.keys() == set(changed) else tuple(sorted(replaced))
        manifest = Manifest(checkpoint.source, WRITER, "source", dict(sorted(files.items())), names, changed, trained)
        _write_records(staging / RECORDS, checkpoint, manifest, records)
        written = Checkpoint.open(staging, output.name)
        wanted = {**checkpoint.tensors, **replaced}
        same = same_tensors([(written.tensors[name], span, True) for name, span in wanted.items()])
        if not all(same):
            name = list(wanted)[same.index(False)]
            raise CheckpointError(
                f"{output}: tensor {name!r} is not what was to be written. Nothing was left there; check disk and memory."
            )
    return manifest


def _origins(checkpoint: Checkpoint, replaced: Mapping[str, TensorSpan]) -> tuple[dict[str, str], tuple[str, ...]]:
    """For every tensor its name in the first source: that of the pruned stage, or its own where nothing was pruned; and which are no
    longer that source's, an earlier fine-tuning's among them."""
    path = checkpoint.path / RECORDS / MANIFEST
    earlier = Manifest.load(path) if path.is_file() else None
    names = {name: earlier.tensors.get(name, name) if earlier else name for name in sorted(checkpoint.tensors)}
    return names, tuple(sorted({*replaced, *(earlier.changed if earlier else ())} & names.keys()))


def _write_records(folder: Path, checkpoint: Checkpoint, manifest: Manifest, records: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for path in _carried(checkpoint):
        copy_file(path, folder / path.name)
    write_file(folder / PROVENANCE, healed_record(checkpoint.path, checkpoint.source))
    write_file(folder / MANIFEST, manifest.dump())
    for name, content in records.items():
        write_file(folder / name, content)


def _carried(checkpoint: Checkpoint) -> list[Path]:
    return [path for name in CARRIED if (path := checkpoint.path / RECORDS / name).is_file()]
