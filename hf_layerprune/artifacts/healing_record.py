"""`healing.json`: how a checkpoint was fine-tuned, as resolved, and every step of its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from hf_layerprune.artifacts.display import Readable, one_line
from hf_layerprune.artifacts.jsonfile import dump_json, read_record
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.errors import shown

HEALING_FORMAT = 1
CURVES = ("loss", "learning_rate", "grad_norm", "tokens", "seconds", "memory")  # one number a step each


@dataclass(frozen=True, kw_only=True, repr=False)
class Recipe(Readable):
    """How to fine-tune a checkpoint; `healing.recipes.SETTINGS` explains each setting."""

    name: str
    paper: str
    data: str  # what the paper trained on
    ours: tuple[str, ...]  # the settings that the paper leaves open
    method: str  # "lora" or "layers"
    optimizer: str
    final_learning_rate: float
    lora_targets: str
    learning_rate: float
    warmup_ratio: float
    weight_decay: float
    batch_size: int
    micro_batch_size: int
    epochs: int
    max_length: int
    max_grad_norm: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    gradient_checkpointing: str
    precision: str
    lora_rank: int
    lora_alpha: int
    lora_dropout: float


@dataclass(frozen=True, repr=False)
class Trained(Readable):
    """What was trained: all parameters of `layers`, or adapters on every layer."""

    method: str
    layers: tuple[int, ...]  # of the checkpoint, ascending; empty for adapters
    chosen_by: str  # who chose them: the plan, a paper, a person
    parameters: int
    tensors: int


@dataclass(frozen=True, repr=False)
class SourceReport(Readable):
    """What became of the records of one source: available = used + bad + too_long + left_out."""

    spec: str  # as DataSpec.parse takes it, pinned to the commit
    origin: str  # name, subset and split, for people
    revision: str | None  # commit on the Hub
    digest: str  # sha256 of the content
    available: int
    used: int
    bad: int  # unusable
    too_long: int
    left_out: int  # by a filter or exclusion
    scaled: int  # of the used ones, those whose images are scaled down
    samples: int  # in an epoch, by the weight
    tokens: int  # of these samples
    filters: Mapping[str, str | None] = field(default_factory=dict)  # the limits, by name
    rendered_math: bool = False  # whether problems were rendered as images


@dataclass(frozen=True, repr=False)
class DataReport(Readable):
    """The dataset of a healing: what was read of each source, and how it was mixed."""

    sources: tuple[SourceReport, ...]
    samples: int  # in an epoch
    max_length: int  # tokens
    seed: int
    reasons: tuple[str, ...]  # the first hundred for records that are unusable or too long
    digest: str  # sha256 of everything that decides every sample and its place


@dataclass(frozen=True)
class Engine:
    """What trained: processes on a kind of device, and the DeepSpeed ZeRO stage by which the model was sharded, if it was."""

    processes: int
    device: str
    zero_stage: int | None


@dataclass(frozen=True, repr=False)
class HealingRecord(Readable):
    """How one checkpoint was made of another by fine-tuning."""

    key: str  # sha256 of everything that decides the result
    checkpoint: SourceRef  # what was fine-tuned
    recipe: Recipe
    overridden: tuple[str, ...]  # the settings that differ from the recipe as published
    trained: Trained
    data: DataReport
    seed: int
    engine: Engine
    curve: Mapping[str, tuple[float, ...]]  # by name of CURVES a number a step: loss in nats an answer token, seconds, peak bytes
    resumed: bool  # whether the run was interrupted and went on
    versions: Mapping[str, str]  # of the libraries that computed

    def __post_init__(self) -> None:
        if self.curve.keys() != set(CURVES) or len({len(numbers) for numbers in self.curve.values()}) != 1:
            raise ValueError(f"the curve is not one list each of {', '.join(CURVES)}, all of one length")
        if unknown := sorted({*self.overridden} - {f.name for f in fields(Recipe)}):
            raise ValueError(f"the overridden setting {unknown[0]!r} is not one of the recipe")

    def __repr__(self) -> str:
        loss = "loss {:.4f} to {:.4f}".format(*self.mean_losses)
        return one_line(self, shown(self.checkpoint.id), shown(self.recipe.name), f"{self.steps} steps", loss)

    def __str__(self) -> str:
        """What was trained, on what and how far the loss went, for `print(record)`."""
        first, last = self.mean_losses
        layers = f"layers {', '.join(map(str, self.trained.layers))}, by {self.trained.chosen_by}"
        return "\n".join(
            [
                f"{self.checkpoint.id} healed by the recipe {self.recipe.name}: {self.steps} steps in {self.seconds:.0f} s",
                f"trained {self.trained.parameters:,} parameters: {layers if self.trained.layers else 'adapters on every decoder layer'}",
                *(f"data    {source.samples:,} samples of {source.origin}" for source in self.data.sources),
                *(f"changed {key} = {getattr(self.recipe, key)}" for key in self.overridden),
                f"loss    {first:.4f} -> {last:.4f} (means over the first and last tenth of the steps)",
            ]
        )

    @property
    def mean_losses(self) -> tuple[float, float]:
        """The mean loss over the first and the last tenth of the steps, at least one step each, in nats an answer token."""
        loss, tenth = self.curve["loss"], max(1, self.steps // 10)
        return sum(loss[:tenth]) / tenth, sum(loss[-tenth:]) / tenth

    @property
    def steps(self) -> int:
        return len(self.curve["loss"])

    @property
    def seconds(self) -> float:
        """Wall time of all steps; what a killed run did after its last save is not in it."""
        return sum(self.curve["seconds"])

    def dump(self) -> bytes:
        """The record as JSON."""
        return dump_json({"format": HEALING_FORMAT, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> HealingRecord:
        """Read `healing.json`; ArtifactError if it is damaged or from a newer version."""
        return read_record(cls, path, "healing record", HEALING_FORMAT)
