"""Write the pruned checkpoint: the kept tensors' bytes, a shortened config, every side file, and the records of how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_layerprune.artifacts.folder import CONFIG, MANIFEST, PLAN, PROVENANCE, RECORDS, safe_name
from hf_layerprune.artifacts.jsonfile import dump_json
from hf_layerprune.artifacts.manifest import FileRecord, Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.config import dump_config, shorten_config
from hf_layerprune.checkpoint.copying import Progress, copy_file, write_file, write_shard
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.layout import NewShard, kept_names, plan_shards
from hf_layerprune.checkpoint.options import WriteOptions
from hf_layerprune.checkpoint.provenance import source_record
from hf_layerprune.checkpoint.shards import INDEX
from hf_layerprune.checkpoint.staging import staged_folder
from hf_layerprune.checkpoint.stream import ShardStream
from hf_layerprune.checkpoint.verify import compare
from hf_layerprune.errors import ArtifactError, CheckpointError, shown
from hf_layerprune.families.facts import MIN_LAYERS

# To be raised whenever the same source, plan and policy give other bytes. 2: data begins at 64 bytes, the source's order of tensors.
WRITER = "hf-layerprune rewrite 2"

WEIGHTS = (".safetensors", INDEX)


def rewrite(
    checkpoint: Checkpoint,
    plan: PruningPlan,
    output: Path,
    options: WriteOptions = WriteOptions(),
    *,
    records: Mapping[str, bytes] = {},
    progress: Progress | None = None,
    expected: Manifest | None = None,
) -> Manifest:
    """Write `checkpoint` without the layers that `plan` drops to the folder `output`, which appears whole or not at all.

    records: more files for `layerprune/`, by name; progress: called with the number of tensor bytes just written; expected: the
    manifest of the same rewrite by somebody else. A checkpoint that was opened to be streamed is fetched shard by shard, and an
    interrupted run with the same source, plan and writer is gone on with. Memory does not grow with the model.

    Raises ArtifactError if the plan is for another checkpoint, CheckpointError if the output may not be written, the disk
    fails or is too small, or what was written is not what was planned or expected. Then nothing is left behind, of a stream
    only what the next run goes on from.
    """
    plan = _checked(plan, checkpoint)
    _check_records(records)
    stream = ShardStream(checkpoint.repo, checkpoint.shards, verify=options.verify) if checkpoint.repo else None
    shards = plan_shards(checkpoint, plan.keep, options.shard_bytes)
    config = dump_config(shorten_config(checkpoint.config, plan, checkpoint.family))
    names = kept_names(checkpoint.family, plan.keep, checkpoint.tensors)
    needed = bytes_needed(checkpoint, shards, [config, *records.values()]) + (stream.room(shards) if stream else 0)
    identity = stream.identity(plan, WRITER) if stream else None
    with staged_folder(output, overwrite=options.overwrite, source=checkpoint.path, needed=needed, identity=identity) as staging:
        if stream:
            stream.begin(staging, shards)
        write = stream.write if stream else write_shard
        files = {shard.name: write(staging / shard.name, shard, progress) for shard in shards}
        if len(shards) > 1:
            files[INDEX] = write_file(staging / INDEX, index_of(shards))
        files[CONFIG] = write_file(staging / CONFIG, config)
        if expected and (difference := _difference(files, expected)):
            if stream:
                stream.begin(staging, ())  # nothing of it is worth going on with
            raise CheckpointError(difference)
        files.update(copy_side_files(checkpoint, staging))
        policy = "source" if options.shard_bytes is None else options.shard_bytes
        manifest = Manifest(checkpoint.source, WRITER, policy, dict(sorted(files.items())), dict(sorted(names.items())))
        _write_records(staging / RECORDS, checkpoint, plan, manifest, records)
        if options.verify:
            _check(staging, checkpoint, plan, output, weights=stream is None)
        if stream:
            stream.end(staging)
    return manifest


def _checked(plan: PruningPlan, checkpoint: Checkpoint) -> PruningPlan:
    """The plan under the source's present name, if it fits; ArtifactError if it was made for, or edited into, another model."""
    plan = plan.for_source(checkpoint.source)
    facts = checkpoint.facts
    for what, planned, found in (
        ("family", plan.family, facts.family),
        ("number of layers", plan.layers, facts.layers),
        ("original_layers", plan.original_layers, facts.original_layers),
    ):
        if planned != found:
            raise ArtifactError(f"the plan's {what} is {shown(planned)}, but {checkpoint.id} has {shown(found)}. Make a new plan for it.")
    if len(plan.keep) < MIN_LAYERS:
        raise ArtifactError(f"the plan keeps {len(plan.keep)} of {plan.layers} layers; at least {MIN_LAYERS} must stay. Drop fewer.")
    return plan


def _check_records(records: Mapping[str, bytes]) -> None:
    for name in records:
        if not safe_name(name) or "/" in name or name in (PLAN, MANIFEST, PROVENANCE):
            raise CheckpointError(f"{RECORDS}: a record cannot be called {shown(name)}. Choose a plain file name of its own.")


def bytes_needed(checkpoint: Checkpoint, shards: Sequence[NewShard], contents: Sequence[bytes]) -> int:
    """Bytes on disk, with a reserve for the index, the records and the file system's own tables."""
    sides = sum((checkpoint.path / path).stat().st_size for path in checkpoint.side_files)
    return sum(shard.nbytes for shard in shards) + sides + sum(map(len, contents)) + (4 << 20)


def index_of(shards: Sequence[NewShard]) -> bytes:
    places = {name: shard.name for shard in shards for name in shard.tensors}
    size = sum(span.nbytes for shard in shards for span in shard.tensors.values())
    return dump_json({"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))})


def copy_side_files(checkpoint: Checkpoint, staging: Path) -> dict[str, FileRecord]:
    files = {}
    for path in checkpoint.side_files:
        (staging / path).parent.mkdir(parents=True, exist_ok=True)
        files[path.as_posix()] = copy_file(checkpoint.path / path, staging / path)
    return files


def _write_records(folder: Path, checkpoint: Checkpoint, plan: PruningPlan, manifest: Manifest, records: Mapping[str, bytes]) -> None:
    folder.mkdir()
    write_file(folder / PLAN, dump_json(plan.to_dict()))
    write_file(folder / MANIFEST, manifest.dump())
    write_file(folder / PROVENANCE, source_record(checkpoint.path, checkpoint.source))
    for name, content in records.items():
        write_file(folder / name, content)


def _difference(files: Mapping[str, FileRecord], expected: Manifest) -> str | None:
    """The first weight file that is not as another rewrite recorded it; the other files name their source, which may have moved."""
    for name in sorted({name for name in {*files, *expected.files} if name.endswith(WEIGHTS)}):
        if files.get(name) != expected.files.get(name):
            found, asked = (record.sha256[:12] if record else "none" for record in (files.get(name), expected.files.get(name)))
            writers = f"; that was written by {shown(expected.writer)}, this by {shown(WRITER)}" if expected.writer != WRITER else ""
            return (
                f"{name}: rebuilt with sha256 {found}, expected {asked} as published{writers}. Nothing was written: "
                "the published weights are not what this version makes of the source by the plan."
            )
    return None


def _check(staging: Path, checkpoint: Checkpoint, plan: PruningPlan, output: Path, *, weights: bool) -> None:
    """Prove what was written before anybody can see it: complete by its own config, and every tensor as in its source."""
    differences = compare(Checkpoint.open(staging, output.name), checkpoint, plan, weights=weights)
    if differences:
        raise CheckpointError(f"{output}: not written as planned: {differences[0]}. Nothing was left there; check disk and memory.")
