"""What the options of a healing mean for one checkpoint, found out once."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from hf_layerprune.artifacts.folder import HEALING, MANIFEST, PLAN, RECORDS
from hf_layerprune.artifacts.healing_record import HEALING_FORMAT, HealingRecord
from hf_layerprune.artifacts.jsonfile import digest_of
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.output_place import check_output
from hf_layerprune.checkpoint.shards import tensor_digest
from hf_layerprune.checkpoint.staging import hidden_beside
from hf_layerprune.data.records import Tolerance
from hf_layerprune.data.tables import DataSpec
from hf_layerprune.errors import ArtifactError, LayerPruneError, UsageError
from hf_layerprune.healing.conversations import INTERLACE_FILTERS, NO_FILTERS, Filters
from hf_layerprune.healing.options import HealOptions
from hf_layerprune.healing.recipes import Recipe, recipe_named
from hf_layerprune.healing.trained_layers import TrainedLayers, layers_to_train
from hf_layerprune.mini import comes_from_mini
from hf_layerprune.models.remote_code import refuse_remote_code

MINI_DATA = "mini,count=4096"


@dataclass(frozen=True)
class DataRequest:
    """The records to train on, as resolved."""

    sources: tuple[DataSpec, ...]  # to be mixed
    max_length: int  # tokens of a sample
    seed: int = 0
    max_bad: Decimal = Decimal("0.01")  # share of a source's records that may be unusable
    filters: Filters = NO_FILTERS
    render_math: bool = False
    exclude: tuple[DataSpec, ...] = ()
    cache: Path | None = None
    local_files_only: bool = False
    workers: int | None = None  # processes that look at records, None: chosen automatically


@dataclass(frozen=True)
class Healing:
    """One healing as resolved: everything that decides its result but the content of the dataset."""

    checkpoint: Checkpoint
    output: Path
    options: HealOptions
    recipe: Recipe  # with the settings in it
    trained: TrainedLayers  # no layers for adapters on all
    data: DataRequest

    @property
    def work(self) -> Path:
        """The hidden folder beside the output in which an unfinished run lies."""
        return hidden_beside(self.output, "healing")

    @property
    def curves(self) -> Path:
        """Where tensorboard finds the curve: beside the output, in the folder that it looks in by itself."""
        return self.output.parent / "runs" / self.output.name

    def key(self, data: str) -> str:
        """sha256 of everything that decides the result, of which `data` is the dataset's digest."""
        content = {
            "format": HEALING_FORMAT,
            "checkpoint": [self.checkpoint.source.fingerprint, tensor_digest(self.checkpoint.tensors)],
            "recipe": self.recipe.to_dict(),
            "layers": self.trained.layers or None,
            "data": data,
            "seed": self.options.seed,
            "adapter": self.options.keep_adapter,
        }
        return digest_of(content)


def resolve(checkpoint: Checkpoint, output: Path, options: HealOptions, cache: Path | None) -> Healing:
    """What the options mean for a checkpoint. cache: where what is found out about records is kept, None for nowhere.

    UsageError, ArtifactError, CheckpointError or ModelError for what cannot be done, before anything is loaded.
    """
    recipe = recipe_named(options.recipe).changed(options.settings)
    data = _data_request(checkpoint, recipe, options, cache)
    healing = Healing(checkpoint, output, options, recipe, _trained(checkpoint, recipe, options), data)
    if not 0 <= options.seed < 1 << 32:
        raise UsageError(f"--seed {options.seed}: expected a number from 0 to {(1 << 32) - 1}.")
    if options.save_steps < 1:
        raise UsageError(f"--save-steps {options.save_steps}: expected at least 1.")
    if options.report_to == "tensorboard" and output in healing.curves.parents:
        raise UsageError(f"--report-to tensorboard writes to {healing.curves}, within the output {output}: choose another output.")
    refuse_remote_code(checkpoint.path)
    if finished_record(output) is None:
        check_output(output, overwrite=options.overwrite, source=checkpoint.path)
    return healing


def finished_record(output: Path) -> HealingRecord | None:
    """The record of a healed output, None if there is none that can be read, or files of the output are missing or truncated."""
    try:
        record = HealingRecord.load(output / RECORDS / HEALING)
        files = Manifest.load(output / RECORDS / MANIFEST).files
        whole = all((output / name).stat().st_size == file.bytes for name, file in files.items())
    except (LayerPruneError, OSError):
        return None
    return record if whole and not output.is_symlink() else None


def _trained(checkpoint: Checkpoint, recipe: Recipe, options: HealOptions) -> TrainedLayers:
    """The layers that are trained in full. UsageError if nothing says which."""
    if recipe.method == "lora":
        if options.tune_last is not None:
            raise UsageError(f"recipe {recipe.name!r} trains adapters on every layer: leave --tune-last out.")
        return TrainedLayers((), recipe.paper)
    if options.keep_adapter:
        raise UsageError(f"recipe {recipe.name!r} trains whole layers and makes no adapter: leave --keep-adapter out.")
    path, layers = checkpoint.path / RECORDS / PLAN, checkpoint.facts.layers
    plan = PruningPlan.load(path) if path.is_file() else None
    if plan is not None and len(plan.keep) != layers:
        raise ArtifactError(f"{path}: keeps {len(plan.keep)} layers, but the checkpoint has {layers}.")
    return layers_to_train(plan, layers, options.tune_last)


def _data_request(checkpoint: Checkpoint, recipe: Recipe, options: HealOptions, cache: Path | None) -> DataRequest:
    texts = [options.data] if isinstance(options.data, str) else options.data
    if not texts and not comes_from_mini(checkpoint.path):
        raise UsageError(
            f"--data is missing. Recipe {recipe.name!r} was published with {recipe.data}. Give a dataset's id or a file of "
            "conversations, such as --data samples.jsonl,count=100000; it can be repeated."
        )
    if options.exclude and not options.render_math:
        raise UsageError("--exclude names problems that --render-math leaves out: add --render-math, or leave it out.")
    return DataRequest(
        sources=tuple(map(DataSpec.parse, texts or [MINI_DATA])),
        max_length=recipe.max_length,
        seed=options.seed,
        max_bad=Tolerance.parse(options.max_bad).share,
        filters=INTERLACE_FILTERS if options.interlace_filter else NO_FILTERS,
        render_math=options.render_math,
        exclude=tuple(map(DataSpec.parse, options.exclude)),
        cache=cache,
        local_files_only=options.local_files_only,
    )
