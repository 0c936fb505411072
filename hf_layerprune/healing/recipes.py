"""The papers' fine-tuning recipes, every number in them; what a paper leaves open is set here and marked as ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_type_hints

from hf_layerprune.artifacts.option import read_value
from hf_layerprune.errors import UsageError, shown
from hf_layerprune.registry import known_names

DOMAIN_AWARE_PAPER = "domain-aware paper, section 4.2"
INTERLACE_PAPER = "INTERLACE, section 3.4 and appendix A.5"

_MOST = 10**9
_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("learning_rate", 1e-12, 10.0),
    ("warmup_ratio", 0.0, 1.0),
    ("weight_decay", 0.0, 10.0),
    ("batch_size", 1, _MOST),
    ("micro_batch_size", 1, _MOST),
    ("epochs", 1, _MOST),
    ("max_length", 16, _MOST),
    ("max_grad_norm", 0.0, _MOST),
    ("adam_beta1", 0.0, 1.0),
    ("adam_beta2", 0.0, 1.0),
    ("adam_epsilon", 0.0, 1.0),
    ("lora_rank", 0, 65536),
    ("lora_alpha", 0, _MOST),
    ("lora_dropout", 0.0, 1.0),
)


def _field(help: str) -> Any:
    return field(metadata={"help": help})


def _fixed(help: str) -> Any:
    return field(metadata={"help": help, "fixed": True})


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune a checkpoint. Fields made by `_fixed` cannot be set.

    data: what the paper trained on.
    ours: the fields that the paper leaves open, fixed ones among them.
    """

    name: str
    paper: str
    data: str
    ours: frozenset[str]
    method: Literal["lora", "layers"] = _fixed("lora: low-rank adapters on the decoder's projections; layers: some layers in full")
    optimizer: str = _fixed("its weight decay is for matrices; norms and biases are not decayed (ours)")
    final_learning_rate: float = _fixed("where the cosine ends")
    lora_targets: str = _fixed("projections of every decoder layer that get an adapter")
    learning_rate: float = _field("of the first step after the warmup, then a cosine")
    warmup_ratio: float = _field("share of the steps over which the learning rate rises from zero")
    weight_decay: float = _field("AdamW's, on trained matrices")
    batch_size: int = _field("samples an optimizer step, over all processes")
    micro_batch_size: int = _field("samples a forward pass, in each process; changes memory and speed, not the result")
    epochs: int = _field("passes over the data")
    max_length: int = _field("tokens of a sample; longer ones have their images scaled down or are skipped")
    max_grad_norm: float = _field("gradients are clipped to this norm; 0 leaves them")
    adam_beta1: float = _field("AdamW's first decay rate")
    adam_beta2: float = _field("AdamW's second decay rate")
    adam_epsilon: float = _field("AdamW's epsilon")
    gradient_checkpointing: Literal["none", "trained", "all"] = _field("decoder layers that are computed again in the backward pass")
    precision: Literal["bf16", "fp32"] = _field("of the forward and backward pass; trained weights are kept in fp32")
    lora_rank: int = _field("rank of the adapters")
    lora_alpha: int = _field("adapters are scaled by alpha / rank")
    lora_dropout: float = _field("dropout before an adapter")

    def __post_init__(self) -> None:
        for name, least, below in _BOUNDS:
            value = getattr(self, name)
            least = 1 if name in ("lora_rank", "lora_alpha") and self.method == "lora" else least
            if not least <= value < below:
                raise UsageError(f"recipe {self.name!r}: {name} is {shown(value)}, expected from {least:g} to below {below:g}.")

    def changed(self, assignments: Mapping[str, object]) -> Recipe:
        """The recipe with some fields set to other values, Python's own or text from the command line. UsageError if one cannot be."""
        types = {name: get_type_hints(Recipe)[name] for name in settings(self)}
        for name in assignments:
            if name not in types:
                raise UsageError(f"recipe {self.name!r} has no setting {shown(name)}. {known_names(name, types)}")
        what = "setting {!r} of recipe " + repr(self.name)
        return replace(self, **{name: read_value(value, types[name], what.format(name)) for name, value in assignments.items()})

    def to_dict(self) -> dict[str, Any]:
        """For the record: every setting as resolved."""
        return {**asdict(self), "ours": sorted(self.ours)}


def settings(recipe: Recipe) -> tuple[str, ...]:
    """The names of what can be set in a recipe, adapters' only where it has some."""
    return tuple(name for name in described(recipe) if name not in _FIXED)


def described(recipe: Recipe) -> tuple[str, ...]:
    """The names of what a recipe consists of, fixed first, adapters' only where it has some."""
    lora = recipe.method == "lora"
    return tuple(f.name for f in fields(Recipe) if "help" in f.metadata and (lora or "lora" not in f.name))


_FIXED = frozenset(f.name for f in fields(Recipe) if "fixed" in f.metadata)


DOMAIN_AWARE = Recipe(
    name="domain-aware",
    paper=DOMAIN_AWARE_PAPER,
    data="100,000 Snapask math problems, which are not public (ours in their place: NuminaMath-CoT rendered as images), "
    "and 100,000 samples of LLaVA-OneVision (on the Hub, ours: lmms-lab/LLaVA-OneVision-Data)",
    ours=frozenset(
        "optimizer final_learning_rate lora_targets warmup_ratio micro_batch_size max_grad_norm adam_beta1 adam_beta2 adam_epsilon "
        "gradient_checkpointing precision".split()
    ),
    method="lora",
    optimizer="AdamW",
    final_learning_rate=0.0,
    lora_targets="q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    learning_rate=2e-5,
    warmup_ratio=0.0,
    weight_decay=0.1,
    batch_size=64,
    micro_batch_size=4,
    epochs=1,
    max_length=8192,
    max_grad_norm=1.0,
    adam_beta1=0.9,
    adam_beta2=0.999,
    adam_epsilon=1e-8,
    gradient_checkpointing="all",
    precision="bf16",
    lora_rank=32,
    lora_alpha=64,
    lora_dropout=0.05,
)

INTERLACE = Recipe(
    name="interlace",
    paper=INTERLACE_PAPER,
    data="1 % of FineVision, 240,000 samples (on the Hub, ours: HuggingFaceM4/FineVision)",
    ours=frozenset("final_learning_rate max_length adam_beta1 adam_beta2 adam_epsilon".split()),
    method="layers",
    optimizer="AdamW",
    final_learning_rate=0.0,
    lora_targets="",
    learning_rate=1e-5,
    warmup_ratio=0.03,
    weight_decay=0.0,
    batch_size=32,
    micro_batch_size=16,
    epochs=1,
    max_length=8192,
    max_grad_norm=1.0,
    adam_beta1=0.9,
    adam_beta2=0.999,
    adam_epsilon=1e-8,
    gradient_checkpointing="trained",
    precision="bf16",
    lora_rank=0,
    lora_alpha=0,
    lora_dropout=0.0,
)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (DOMAIN_AWARE, INTERLACE)}


def help_of(name: str) -> str:
    """What a setting is, for people."""
    return str(next(f.metadata["help"] for f in fields(Recipe) if f.name == name))


def recipe_named(name: str) -> Recipe:
    """UsageError naming the nearest for a name that is none."""
    if name not in RECIPES:
        raise UsageError(f"no recipe {shown(name)}. {known_names(name, RECIPES)}")
    return RECIPES[name]
