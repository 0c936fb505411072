"""The papers' fine-tuning recipes, every number in them; what a paper leaves open is set here and marked as ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hf_layerprune.artifacts.healing_record import Recipe
from hf_layerprune.artifacts.option import dtype_named, read_value
from hf_layerprune.errors import UsageError, shown
from hf_layerprune.registry import known_names

MOST = 10**9
PRECISIONS = {"bfloat16": "bf16", "float32": "fp32"}  # by torch's name


@dataclass(frozen=True)
class Setting:
    """What a field of a recipe is, and which values it may have."""

    help: str
    kind: Any = None  # None: the trainer does nothing else, so it cannot be set
    least: float = 0
    below: float = MOST


SETTINGS: Mapping[str, Setting] = {
    "method": Setting("lora: low-rank adapters on the decoder's projections; layers: some layers in full"),
    "optimizer": Setting("its weight decay is for matrices; norms and biases are not decayed (ours)"),
    "final_learning_rate": Setting("where the cosine ends"),
    "lora_targets": Setting("projections of every decoder layer that get an adapter"),
    "learning_rate": Setting("of the first step after the warmup, then a cosine", float, 1e-12, 10.0),
    "warmup_ratio": Setting("share of the steps over which the learning rate rises from zero", float, 0.0, 1.0),
    "weight_decay": Setting("AdamW's, on trained matrices", float, 0.0, 10.0),
    "batch_size": Setting("samples an optimizer step, over all processes", int, 1),
    "micro_batch_size": Setting("samples a forward pass, in each process; changes memory and speed, not the result", int, 1),
    "epochs": Setting("passes over the data", int, 1),
    "max_length": Setting("tokens of a sample; longer ones have their images scaled down or are skipped", int, 16),
    "max_grad_norm": Setting("gradients are clipped to this norm; 0 leaves them", float),
    "adam_beta1": Setting("AdamW's first decay rate", float, 0.0, 1.0),
    "adam_beta2": Setting("AdamW's second decay rate", float, 0.0, 1.0),
    "adam_epsilon": Setting("AdamW's epsilon", float, 0.0, 1.0),
    "gradient_checkpointing": Setting("decoder layers that are computed again in the backward pass", Literal["none", "trained", "all"]),
    "precision": Setting("of the forward and backward pass; trained weights are kept in fp32", Literal["bf16", "fp32"]),
    "lora_rank": Setting("rank of the adapters", int, 1, 65536),
    "lora_alpha": Setting("adapters are scaled by alpha / rank", int, 1),
    "lora_dropout": Setting("dropout before an adapter", float, 0.0, 1.0),
}

DOMAIN_AWARE = Recipe(
    name="domain-aware",
    paper="domain-aware paper, section 4.2",
    data="100,000 Snapask math problems, which are not public (ours in their place: NuminaMath-CoT rendered as images), "
    "and 100,000 samples of LLaVA-OneVision (on the Hub, ours: lmms-lab/LLaVA-OneVision-Data)",
    ours=(
        "adam_beta1", "adam_beta2", "adam_epsilon", "final_learning_rate", "gradient_checkpointing", "lora_targets", "max_grad_norm",
        "micro_batch_size", "optimizer", "precision", "warmup_ratio",
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
)  # fmt: skip

INTERLACE = replace(
    DOMAIN_AWARE,
    name="interlace",
    paper="INTERLACE, section 3.4 and appendix A.5",
    data="1 % of FineVision, 240,000 samples (on the Hub, ours: HuggingFaceM4/FineVision)",
    ours=("adam_beta1", "adam_beta2", "adam_epsilon", "final_learning_rate", "max_length"),
    method="layers",
    lora_targets="",
    learning_rate=1e-5,
    warmup_ratio=0.03,
    weight_decay=0.0,
    batch_size=32,
    micro_batch_size=16,
    gradient_checkpointing="trained",
    lora_rank=0,
    lora_alpha=0,
    lora_dropout=0.0,
)

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (DOMAIN_AWARE, INTERLACE)}


def described(recipe: Recipe) -> dict[str, Setting]:
    """What a recipe consists of, fixed settings first, adapters' only where it has some."""
    return {name: setting for name, setting in SETTINGS.items() if recipe.method == "lora" or "lora" not in name}


def changed(recipe: Recipe, assignments: Mapping[str, object]) -> Recipe:
    """The recipe with some settings at other values, Python's own or text from the command line. UsageError if one is invalid."""
    known = {name: setting for name, setting in described(recipe).items() if setting.kind is not None}
    values = {}
    for name, given in assignments.items():
        if name == "precision":
            given = PRECISIONS.get(dtype_named(given) or "", given)
        if name not in known:
            raise UsageError(f"recipe {recipe.name!r} has no setting {shown(name)}. {known_names(name, known)}")
        setting = known[name]
        values[name] = value = read_value(given, setting.kind, f"setting {name!r} of recipe {recipe.name!r}")
        if setting.kind in (int, float) and not setting.least <= value < setting.below:
            bounds = f"expected from {setting.least:g} to below {setting.below:g}"
            raise UsageError(f"recipe {recipe.name!r}: {name} is {shown(value)}, {bounds}.")
    return replace(recipe, **values)


def recipe_named(name: str) -> Recipe:
    """The recipe of that name; UsageError naming the nearest for an unknown one."""
    if name not in RECIPES:
        raise UsageError(f"no recipe {shown(name)}. {known_names(name, RECIPES)}")
    return RECIPES[name]
