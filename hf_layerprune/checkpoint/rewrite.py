"""Write the pruned checkpoint: the kept tensors' bytes, a shortened config, every side file, and the records of how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hf_layerprune.artifacts.folder import CONFIG, MANIFEST, PLAN, PROVENANCE, RECORDS, STATISTICS, safe_name
from hf_layerprune.artifacts.jsonfile import MAX_JSON_BYTES, dump_json, read_bounded
from hf_layerprune.artifacts.manifest import FileRecord, Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.config import dump_config, shorten_config
from hf_layerprune.checkpoint.copying import copy_file, write_file
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.layout import NewShard, Progress, kept_names, plan_shards, write_shard
from hf_layerprune.checkpoint.options import WriteOptions
from hf_layerprune.checkpoint.provenance import healed_record, source_record
from hf_layerprune.checkpoint.shards import INDEX
from hf_layerprune.checkpoint.staging import staged_folder
from hf_layerprune.checkpoint.stream import ShardStream
from hf_layerprune.checkpoint.verify import compare, same_tensors
from hf_layerprune.errors import ArtifactError, CheckpointError, shown
from hf_layerprune.families.facts import MIN_LAYERS

# To be raised whenever the same source, plan and policy give other bytes. 2: data begins at 64 bytes, the source's order of tensors.
WRITER = "hf-layerprune rewrite 2"

WEIGHTS = (".safetensors", INDEX)
MAX_RECORD_BYTES = 2 << 30  # as many as statistics may have, whose room would load numpy here
CARRIED = (PLAN, STATISTICS)  # records that stay true when weights are fine-tuned; evaluations of the old weights do not


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
    stream = ShardStream(checkpoint.repo, checkpoint.shards, verify=options.verify) if checkpoint.repo else None
    shards = plan_shards(checkpoint, plan.keep, options.shard_bytes)
    contents = _Contents(
        shards,
        config=dump_config(shorten_config(checkpoint.config, plan, checkpoint.family)),
        tensors=kept_names(checkpoint.family, plan.keep, checkpoint.tensors),
        records={
            PLAN: dump_json(plan.to_dict()),
            PROVENANCE: source_record(checkpoint.path, checkpoint.source),
            **_checked_records(records),
        },
        shard_policy="source" if options.shard_bytes is None else options.shard_bytes,
    )
    needed = contents.bytes_needed(checkpoint) + (stream.room(shards) if stream else 0)
    identity = stream.identity(plan, WRITER) if stream else None
    with staged_folder(output, overwrite=options.overwrite, source=checkpoint.path, needed=needed, identity=identity) as staging:
        if stream:
            stream.begin(staging, shards)
        write = stream.write if stream else write_shard
        files = {shard.name: write(staging / shard.name, shard, progress) for shard in shards}
        manifest = _complete(staging, checkpoint, contents, files)
        if expected and (difference := _difference(manifest, expected)):
            if stream:
                stream.begin(staging, ())  # nothing of it is worth going on with
            raise CheckpointError(difference)
        if options.verify:  # complete by its own config, and every tensor as in its source, before anybody can see it
            differences = compare(Checkpoint.open(staging, output.name), checkpoint, plan, weights=stream is None)
            if differences:
                raise CheckpointError(f"{output}: not written as planned: {differences[0]}. Nothing was left there; check disk and memory.")
        if stream:
            stream.end(staging)
    return manifest


def write_healed(
    checkpoint: Checkpoint, trained: Mapping[str, TensorSpan], output: Path, *, overwrite: bool, records: Mapping[str, bytes]
) -> Manifest:
    """Write `checkpoint` with the bytes of `trained` in place of its own, in the same shards, whole or not at all, and read back.

    trained: by name, where the new bytes lie, of the same type and shape; records: files for `layerprune/`, by name.
    config.json and the side files are copied byte for byte. CheckpointError where `rewrite` raises it.
    """
    shards = tuple(
        replace(shard, tensors={name: trained.get(name, span) for name, span in shard.tensors.items()})
        for shard in plan_shards(checkpoint, tuple(range(checkpoint.facts.layers)), None)
    )
    place = checkpoint.path / RECORDS
    earlier = Manifest.load(place / MANIFEST) if (place / MANIFEST).is_file() else None
    # Every tensor's name in the first source; the tensors that are no longer that source's, an earlier fine-tuning's among them.
    names = {name: earlier.tensors.get(name, name) if earlier else name for name in checkpoint.tensors}
    changed = tuple(sorted({*trained, *(earlier.changed if earlier else ())} & names.keys()))
    contents = _Contents(
        shards,
        config=read_bounded(checkpoint.path / CONFIG, "model config", MAX_JSON_BYTES),
        tensors=names,
        records={
            **{name: read_bounded(place / name, "record", MAX_RECORD_BYTES) for name in CARRIED if (place / name).is_file()},
            PROVENANCE: healed_record(checkpoint.path, checkpoint.source),
            **records,
        },
        changed=changed,
        trained=() if trained.keys() == set(changed) else tuple(sorted(trained)),
    )
    with staged_folder(output, overwrite=overwrite, source=checkpoint.path, needed=contents.bytes_needed(checkpoint)) as staging:
        files = {shard.name: write_shard(staging / shard.name, shard) for shard in shards}
        manifest = _complete(staging, checkpoint, contents, files)
        written, wanted = Checkpoint.open(staging, output.name), {**checkpoint.tensors, **trained}
        same = same_tensors([(written.tensors[name], span, True) for name, span in wanted.items()])
        if not all(same):
            name = list(wanted)[same.index(False)]
            raise CheckpointError(
                f"{output}: tensor {name!r} is not what was to be written. Nothing was left there; check disk and memory."
            )
    return manifest


@dataclass(frozen=True)
class _Contents:
    """What a checkpoint that is to be written holds besides its source's side files."""

    shards: tuple[NewShard, ...]
    config: bytes
    tensors: Mapping[str, str]  # the name of each in the source
    records: Mapping[str, bytes]  # in layerprune/, by name
    shard_policy: str | int = "source"
    changed: tuple[str, ...] = ()  # tensors with other bytes than the first source's
    trained: tuple[str, ...] = ()  # those of them that the last fine-tuning changed, where they are fewer

    def bytes_needed(self, checkpoint: Checkpoint) -> int:
        """Bytes on disk, with a reserve for the index and the file system's own tables."""
        sides = sum(checkpoint.file(path).stat().st_size for path in checkpoint.side_files)
        texts = len(self.config) + sum(map(len, self.records.values()))
        return sum(shard.nbytes for shard in self.shards) + sides + texts + (4 << 20)


def _complete(staging: Path, checkpoint: Checkpoint, contents: _Contents, files: dict[str, FileRecord]) -> Manifest:
    """Write everything but the weight files, whose records are `files`."""
    if len(contents.shards) > 1:
        places = {name: shard.name for shard in contents.shards for name in shard.tensors}
        size = sum(span.nbytes for shard in contents.shards for span in shard.tensors.values())
        index = dump_json({"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))})
        files[INDEX] = write_file(staging / INDEX, index)
    files[CONFIG] = write_file(staging / CONFIG, contents.config)
    for path in checkpoint.side_files:
        (staging / path).parent.mkdir(parents=True, exist_ok=True)
        files[path.as_posix()] = copy_file(checkpoint.file(path), staging / path)
    tensors = dict(sorted(contents.tensors.items()))
    policy, changed, trained = contents.shard_policy, contents.changed, contents.trained
    borrowed = {path.as_posix(): checkpoint.lender for path in checkpoint.borrowed}
    manifest = Manifest(checkpoint.source, WRITER, policy, dict(sorted(files.items())), tensors, changed, trained, borrowed)
    (staging / RECORDS).mkdir()
    for name, content in {**contents.records, MANIFEST: manifest.dump()}.items():
        write_file(staging / RECORDS / name, content)
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


def _checked_records(records: Mapping[str, bytes]) -> Mapping[str, bytes]:
    for name in records:
        if not safe_name(name) or "/" in name or name in (PLAN, MANIFEST, PROVENANCE):
            raise CheckpointError(f"{RECORDS}: a record cannot be called {shown(name)}. Choose a plain file name of its own.")
    return records


def _difference(written: Manifest, expected: Manifest) -> str | None:
    """The first weight file that is not as another rewrite recorded it; the other files name their source, which may have moved."""
    for name in sorted(name for name in {*written.files, *expected.files} if name.endswith(WEIGHTS)):
        pair = written.files.get(name), expected.files.get(name)
        if pair[0] != pair[1]:
            found, asked = (record.sha256[:12] if record else "none" for record in pair)
            writers = f"; that was written by {shown(expected.writer)}, this by {shown(WRITER)}" if expected.writer != WRITER else ""
            return (
                f"{name}: rebuilt with sha256 {found}, expected {asked} as published{writers}. Nothing was written: "
                "the published weights are not what this version makes of the source by the plan."
            )
    return None
