"""What the options of a healing mean for one checkpoint, found out once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from hf_layerprune.artifacts.folder import HEALING, MANIFEST, PLAN, RECORDS
from hf_layerprune.artifacts.healing_record import HEALING_FORMAT, HealingRecord, Recipe
from hf_layerprune.artifacts.jsonfile import digest_of
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.output_place import check_output
from hf_layerprune.checkpoint.processor_files import check_processor
from hf_layerprune.checkpoint.shards import tensor_digest
from hf_layerprune.checkpoint.staging import hidden_beside
from hf_layerprune.data.conversations import Conversation
from hf_layerprune.data.records import LeftOut, Tolerance
from hf_layerprune.data.tables import DataSpec, check_source
from hf_layerprune.errors import ArtifactError, LayerPruneError, UsageError
from hf_layerprune.healing.options import HealOptions, parse_specs
from hf_layerprune.healing.recipes import changed, recipe_named
from hf_layerprune.mini import comes_from_mini
from hf_layerprune.models.remote_code import refuse_remote_code

MINI_DATA = "mini,count=4096"
ONE_PERCENT = Tolerance()


@dataclass(frozen=True)
class TrainedLayers:
    """The layers that are trained in full."""

    layers: tuple[int, ...]  # of the checkpoint that is healed, ascending; empty where adapters are trained
    chosen_by: str


@dataclass(frozen=True)
class Filters:
    """What to leave out on purpose, as against what cannot be used. None: no limit."""

    max_images: int | None = None
    max_turns: int | None = None  # answers of the assistant
    share: Decimal | None = None  # of each file or subset that part is taken, drawn uniformly

    def check(self, conversation: Conversation) -> None:
        """LeftOut for a conversation beyond a limit."""
        answers = sum(turn.role == "assistant" for turn in conversation.turns)
        for count, what, most in ((len(conversation.images), "images", self.max_images), (answers, "turns", self.max_turns)):
            if most is not None and count > most:
                raise LeftOut(f"{conversation.label}: {count} {what}, more than {most}")


NO_FILTERS = Filters()
INTERLACE_FILTERS = Filters(max_images=3, max_turns=5, share=Decimal("0.01"))  # arXiv 2511.19676, section 3.4


@dataclass(frozen=True)
class DataRequest:
    """The records to train on, as resolved."""

    sources: tuple[DataSpec, ...]  # to be mixed
    max_length: int  # tokens of a sample
    seed: int = 0
    tolerance: Tolerance = ONE_PERCENT
    filters: Filters = NO_FILTERS
    render_math: bool = False
    exclude: tuple[DataSpec, ...] = ()
    cache: Path | None = None  # where what is found out about records is kept, None for nowhere
    local_files_only: bool = False
    workers: int | None = None  # processes that look at records, None: chosen automatically


@dataclass(frozen=True)
class Healing:
    """One healing as resolved: everything that decides its result but the content of the dataset."""

    checkpoint: Checkpoint
    output: Path
    options: HealOptions
    recipe: Recipe  # with the settings in it
    trained: TrainedLayers
    data: DataRequest

    @property
    def work(self) -> Path:
        """The hidden folder beside the output in which an unfinished run lies."""
        return hidden_beside(self.output, "healing")

    @property
    def lock(self) -> Path:
        """The file that a run into this output holds."""
        return hidden_beside(self.output, "healing.lock")

    @property
    def curves(self) -> Path:
        """Where tensorboard finds the curve: beside the output, in the folder that it looks in by itself."""
        return self.output.parent / "runs" / self.output.name

    def key(self, data: str) -> str:
        """sha256 of everything that decides the result, of which `data` is the dataset's digest."""
        content = {
            "format": HEALING_FORMAT,
            "checkpoint": [self.checkpoint.source.fingerprint, tensor_digest(self.checkpoint.tensors)],
            "recipe": asdict(self.recipe),
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
    recipe = changed(recipe_named(options.recipe), options.settings)
    trained, data = _trained(checkpoint, recipe, options), _data_request(checkpoint, recipe, options, cache)
    healing = Healing(checkpoint, output, options, recipe, trained, data)
    if options.report_to == "tensorboard" and output in healing.curves.parents:
        raise UsageError(f"--report-to tensorboard writes to {healing.curves}, within the output {output}: choose another output.")
    refuse_remote_code(checkpoint.path)
    checkpoint.refuse_headless("fine-tuned")
    check_processor(checkpoint)
    if finished_record(output) is None:
        check_output(output, overwrite=options.overwrite, source=checkpoint.path)
    return healing


def finished_record(output: Path) -> HealingRecord | None:
    """The record of a healed output; None if it is missing or invalid, or files of the output are missing or truncated."""
    try:
        record = HealingRecord.load(output / RECORDS / HEALING)
        files = Manifest.load(output / RECORDS / MANIFEST).files
        whole = all((output / name).stat().st_size == file.bytes for name, file in files.items())
    except (LayerPruneError, OSError):
        return None
    return record if whole and not output.is_symlink() else None


def _data_request(checkpoint: Checkpoint, recipe: Recipe, options: HealOptions, cache: Path | None) -> DataRequest:
    if not options.data and not comes_from_mini(checkpoint.path):
        raise UsageError(
            f"--data is missing. Recipe {recipe.name!r} was published with {recipe.data}. Give a dataset's id or a file of "
            "conversations, such as --data samples.jsonl,count=100000; it can be repeated."
        )
    sources, exclude = parse_specs(options.data or MINI_DATA), parse_specs(options.exclude)
    for spec in (*sources, *exclude):
        check_source(spec)
    return DataRequest(
        sources=sources,
        max_length=recipe.max_length,
        seed=options.seed,
        tolerance=Tolerance.parse(options.max_bad),
        filters=INTERLACE_FILTERS if options.interlace_filter else NO_FILTERS,
        render_math=options.render_math,
        exclude=exclude,
        cache=cache,
        local_files_only=options.local_files_only,
    )


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


def layers_to_train(plan: PruningPlan | None, depth: int, tune_last: int | str | None) -> TrainedLayers:
    """The layers of a checkpoint of `depth` layers that a recipe with method "layers" trains.

    plan: what it was pruned by, None for a dense one; tune_last: a count or a share of the layers, taken from the end.
    UsageError if neither says.
    """
    if tune_last is not None:
        count = parse_tune_last(str(tune_last), depth)
        return TrainedLayers(tuple(range(depth - count, depth)), f"the last {tune_last} (INTERLACE's dense control)")
    if plan is None:
        raise UsageError("the checkpoint was not pruned, so no plan says which layers to tune: add --tune-last, such as --tune-last 25%.")
    chosen_by = f"the plan ({plan.strategy})" if plan.tune else "train-next (INTERLACE's ablation; our choice here)"
    chosen = plan.tune or train_next(plan.keep, plan.drop)
    return TrainedLayers(tuple(plan.keep.index(layer) for layer in chosen), chosen_by)


def train_next(keep: Sequence[int], drop: Sequence[int]) -> tuple[int, ...]:
    """For each dropped layer, ascending, the next kept layer that is not taken yet, or the nearest before it; source indices.

    As many as were dropped, or all kept ones. INTERLACE's ablation (section 4.5) names "the layer immediately after"; which
    one a run of dropped layers then takes is ours.
    """
    free = set(keep)
    for layer in sorted(drop):
        if free:
            free.remove(min(free, key=lambda kept: (kept < layer, abs(kept - layer))))
    return tuple(sorted({*keep} - free))


def parse_tune_last(text: str, depth: int) -> int:
    """`9`, or `25%` of the layers rounded down (INTERLACE's floor(0.25 L)); UsageError unless it is at least one and at most all."""
    try:
        share = Decimal(text.removesuffix("%")) / 100 if text.endswith("%") else None
        count = int(text) if share is None else int(share * depth) if share <= 1 else 0
    except (InvalidOperation, ValueError, OverflowError):
        count = 0
    if not 1 <= count <= depth:
        raise UsageError(f"--tune-last {text!r}: expected a number of layers from 1 to {depth}, or a share such as 25%.")
    return count
