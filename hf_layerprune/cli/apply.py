"""`hf-layerprune apply`: carry a plan out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hf_layerprune.checkpoint.options import WriteOptions
from hf_layerprune.cli import options
from hf_layerprune.cli.console import Console, reporting
from hf_layerprune.errors import ArtifactError, CheckpointError, SourceError, UsageError

if TYPE_CHECKING:
    from hf_layerprune.artifacts.manifest import FileRecord, Manifest
    from hf_layerprune.artifacts.plan import PruningPlan
    from hf_layerprune.checkpoint.index import Checkpoint
    from hf_layerprune.checkpoint.source import ResolvedSource

PLAN_ALONE = "Do not use it; to build from its plan without a proof, pass its layerprune/plan.json as a file."


@click.command(
    short_help="Write the pruned model that a plan describes.",
    epilog=options.examples(
        "hf-layerprune apply mini plan.json --statistics statistics.safetensors -o ./mini-13L",
        "hf-layerprune apply Qwen/Qwen3-VL-8B-Instruct plan.json -o ./qwen --stream",
    ),
)
@click.argument("source")
@click.argument("plan")
@click.option("--statistics", type=options.PATH, metavar="FILE", help="Copy the statistics the plan was made from into the output.")
@options.output("the pruned model", "DIR")
@options.from_fields(WriteOptions, "writing")
@options.processor
@options.lookup
@reporting
def apply(
    console: Console,
    source: str,
    plan: str,
    statistics: Path | None,
    output: Path,
    writing: WriteOptions,
    processor: str | None,
    lookup: options.Lookup,
) -> None:
    """Write SOURCE without the layers that PLAN drops. SOURCE must be the checkpoint the plan was made for.

    PLAN is a plan file, or a pruned model: its folder, its Hub id or ID@REVISION. That is then rebuilt from SOURCE, and its
    weights are proved to be the same, byte for byte; of a healed model its pruned stage.
    """
    from hf_layerprune.checkpoint.output_place import check_output
    from hf_layerprune.cli.report import model_line
    from hf_layerprune.cli.source import open_source
    from hf_layerprune.strategies.planning import deepstack_warning

    given = _given(console, plan, lookup.local_files_only)
    if given.manifest and writing.max_shard_size:
        raise UsageError(f"--max-shard-size: the shards are those of {given.name}, to be compared with them. Leave it out.")
    if given.manifest and given.manifest.shard_policy != "source":
        writing = replace(writing, max_shard_size=given.manifest.shard_policy)
    records = _statistics_record(given.plan, statistics) if statistics else given.records
    checkpoint = open_source(console, source, lookup, stream=writing.stream, processor=processor)
    console.say(model_line(checkpoint))
    made = given.plan.for_source(checkpoint.source)
    check_output(output, overwrite=writing.overwrite, source=checkpoint.path)
    if caution := deepstack_warning(made, checkpoint.facts):
        console.note(f"warning: {caution}")
    report = write_pruned(console, checkpoint, made, output, writing, records, given.manifest)
    proved = _proved(console, given, output)
    show_next(console, output, source, checkpoint, made)
    console.result({**report, "rebuilt": given.name if proved else None})


def write_pruned(
    console: Console,
    checkpoint: Checkpoint,
    plan: PruningPlan,
    target: Path,
    writing: WriteOptions,
    records: Mapping[str, bytes],
    expected: Manifest | None = None,
) -> dict[str, Any]:
    """Write and prove the pruned checkpoint, say what that came to, and return it for `--json`.

    expected: the manifest whose weight files must come out.
    """
    from hf_layerprune.checkpoint.processor_files import lacking
    from hf_layerprune.checkpoint.rewrite import rewrite
    from hf_layerprune.cli.report import size

    written = checkpoint.size(plan.drop)[1]  # of tensors, as `total_bytes` is
    with console.progress("writing", unit="B", unit_scale=True, total=written) as (_, bar):
        manifest = rewrite(checkpoint, plan, target, writing, records=records, progress=bar.update, expected=expected)
    proof = f"verified: {len(manifest.tensors)} tensors identical to their source" if writing.verify else "not verified"
    console.say(f"wrote   {options.quoted(target)}   {size(checkpoint.total_bytes)} -> {size(written)}, {proof}")
    if sentence := lacking(checkpoint):
        console.note(f"note: the output has no more than its source: {sentence}")
    return {
        "output": str(target),
        "bytes": written,
        "source_bytes": checkpoint.total_bytes,
        "tensors": len(manifest.tensors),
        "verified": writing.verify,
    }


def show_next(console: Console, target: Path, source: str, checkpoint: Checkpoint, plan: PruningPlan) -> None:
    """The commands that make sense now; a streamed source is not on this disk to compare with."""
    from hf_layerprune.cli.source import named_again

    against = "" if checkpoint.repo else f" --against {named_again(source, checkpoint.source)}"
    console.say(f"next    hf-layerprune evaluate {options.quoted(target)}{against}")
    console.say(f"        hf-layerprune heal {options.quoted(target)} --recipe {'interlace' if plan.tune else 'domain-aware'}")


@dataclass(frozen=True)
class _GivenPlan:
    """The plan that is carried out, and what it was taken from."""

    plan: PruningPlan
    records: Mapping[str, bytes]  # what lies beside it
    manifest: Manifest | None  # of the model that is rebuilt, None for a plan alone and for a healed model
    compared: bool  # whether the weights themselves were found to be what the manifest says
    healed: str | None  # the fingerprint of the pruned stage of a healed model
    name: str


def _given(console: Console, named: str, local_files_only: bool) -> _GivenPlan:
    """Read a plan file, or the records of a pruned model in a folder or on the Hub, there also OWNER/REPO@REVISION.

    Raises ArtifactError or SourceError, and CheckpointError naming the first weight file that is not what its manifest says.
    """
    from hf_layerprune.artifacts.folder import CONFIG, HEALING, MANIFEST, PLAN, PROVENANCE, RECORDS, STATISTICS
    from hf_layerprune.artifacts.healing_record import HealingRecord
    from hf_layerprune.artifacts.manifest import Manifest
    from hf_layerprune.artifacts.model_facts import PRUNED
    from hf_layerprune.artifacts.plan import PruningPlan
    from hf_layerprune.artifacts.statistics import MAX_STATISTICS_BYTES
    from hf_layerprune.checkpoint.provenance import ancestors_of
    from hf_layerprune.checkpoint.source import Place, published_record, resolve
    from hf_layerprune.cli.source import at_revision, on_the_hub

    repo, at = at_revision(named)
    if not os.path.isdir(named) and not on_the_hub(named):
        return _GivenPlan(PruningPlan.load(named), {}, None, False, None, named)
    wanted = (CONFIG, *(f"{RECORDS}/{name}" for name in (PLAN, MANIFEST, HEALING, PROVENANCE)))
    found = resolve(repo, Place(revision=at.revision, local_files_only=local_files_only), weights=False, small=wanted)
    folder, name = found.path / RECORDS, repo + (f" @ {found.commit[:7]}" if found.commit else "")
    if not (folder / PLAN).is_file():
        raise ArtifactError(f"{named}: has no {RECORDS}/{PLAN}, so hf-layerprune did not prune it. Pass a plan, or a model that has one.")
    plan, manifest = PruningPlan.load(folder / PLAN), Manifest.load(folder / MANIFEST)
    published = published_record(found, STATISTICS, MAX_STATISTICS_BYTES, local_files_only=local_files_only) if plan.statistics else None
    records = _statistics_record(plan, published) if published else {}  # the weights are the same without
    if (folder / HEALING).is_file():
        console.note(f"note: {named} was healed after pruning: its pruned stage is rebuilt; healing.json says the rest")
        stages = [step.source.fingerprint for step in ancestors_of(folder, manifest) if step.how == PRUNED]
        healed = (stages or [HealingRecord.load(folder / HEALING).checkpoint.fingerprint])[-1]
        return _GivenPlan(plan, records, None, False, healed, name)
    return _GivenPlan(plan, records, manifest, _compare(found, manifest, name, local_files_only), None, name)


def _statistics_record(plan: PruningPlan, path: Path) -> dict[str, bytes]:
    """A statistics file as a record of a pruned folder; ArtifactError if the plan was made from others."""
    from hf_layerprune.artifacts.folder import STATISTICS
    from hf_layerprune.artifacts.statistics import LayerStatistics

    statistics = LayerStatistics.load(path)
    if statistics.fingerprint != plan.statistics:
        raise ArtifactError(f"{path}: the plan was not made from these statistics. Pass those, or leave out --statistics.")
    return {STATISTICS: statistics.content}


def _compare(found: ResolvedSource, manifest: Manifest, name: str, local_files_only: bool) -> bool:
    """CheckpointError naming the first weight file that is not what the manifest beside it says; False where the Hub cannot be asked."""
    from huggingface_hub import constants

    from hf_layerprune.checkpoint.files import regular_file
    from hf_layerprune.checkpoint.shards import MAX_INDEX_BYTES
    from hf_layerprune.checkpoint.side_files import is_of_the_model, is_weights, list_side_files
    from hf_layerprune.hub.listing import RemoteRepo, differences, file_record

    def is_loaded(file: str) -> bool:  # an adapter's config makes transformers load other weights than those beside it
        return file == "adapter_config.json" or (is_weights(file) and is_of_the_model(file))

    repo = None if found.commit is None else RemoteRepo(found.id, found.commit)

    def record(file: str) -> FileRecord:
        return repo.record(file, MAX_INDEX_BYTES) if repo else file_record(regular_file(found.path, file, PLAN_ALONE))

    if repo is None:
        side_files, weights = list_side_files(found.path)
        there = {file: (found.path / file).stat().st_size for file in (*weights, *(path.as_posix() for path in side_files))}
    else:
        if local_files_only or constants.is_offline_mode():
            return False
        try:
            there = {file: listed.size for file, listed in repo.files.items()}
        except SourceError as error:
            if error.__cause__ is None or hasattr(error.__cause__, "response"):  # the Hub answered, and refused
                raise
            return False
    expected = {file: wanted for file, wanted in manifest.files.items() if is_loaded(file)}
    if difference := next(differences(expected, {file: size for file, size in there.items() if is_loaded(file)}, record), None):
        raise CheckpointError(f"{name}: {difference}, so it is not what its plan makes. {PLAN_ALONE}")
    return True


def _proved(console: Console, given: _GivenPlan, output: Path) -> bool:
    """Say whether the output is the model, or the stage of it, that the plan was taken from; a plan alone says nothing of that."""
    from hf_layerprune.checkpoint.index import Checkpoint

    if given.manifest and given.compared:  # both with the manifest, before the output appeared
        console.say(f"proved  its weight files have the sha256 of those of {given.name}")
        return True
    if given.manifest:
        console.note(
            f"note: not proved: its weight files have the sha256 of those of {given.name} as its manifest states; "
            "the Hub could not be asked what it holds"
        )
    if given.healed is None:
        return False
    found = Checkpoint.open(output, output.name).source.fingerprint
    if found == given.healed:
        console.say(f"proved  it has the fingerprint of what was healed into {given.name}")
        return True
    console.note(
        f"note: not proved: what was healed has the fingerprint {given.healed[:12]}, this {found[:12]}, as a source by another name gives"
    )
    return False
