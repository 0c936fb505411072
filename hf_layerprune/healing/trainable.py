"""Make a model ready to be trained: adapters or some layers in full, everything else frozen."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch

from hf_layerprune.errors import HealingError
from hf_layerprune.families.family import Family
from hf_layerprune.healing.engine import missing_extra
from hf_layerprune.healing.recipes import Recipe
from hf_layerprune.healing.request import Healing
from hf_layerprune.models.decoder import decoder_layers
from hf_layerprune.models.loading import load_model

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def trained_model(healing: Healing, *, sharded: bool) -> Any:
    """The model of a checkpoint with exactly the recipe's parameters requiring gradients, those in fp32.

    sharded: DeepSpeed keeps fp32 copies of its own, and the model stays in the checkpoint's type. The vision tower and its mergers
    are frozen in both recipes.
    """
    family, recipe, layers = healing.checkpoint.family, healing.recipe, healing.trained.layers
    torch.manual_seed(healing.options.seed)
    model = load_model(healing.checkpoint.path, dtype=torch.float32 if recipe.precision == "fp32" else "auto")
    model.requires_grad_(False)
    if recipe.method == "lora":
        config = adapter_config(family, recipe)
        from peft import get_peft_model

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that peft still uses
            model = get_peft_model(model, config, autocast_adapter_dtype=not sharded)
        layers = tuple(range(len(decoder_layers(_base(model), family))))
    else:
        for layer in layers:
            decoder_layers(model, family)[layer].requires_grad_(True)
    if not sharded:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    _checkpoint_layers(_base(model), family, recipe, set(layers))
    return model


def lora_targets(family: Family) -> str:
    """The regular expression of the modules that get an adapter: the projections of the decoder's layers, none of the vision tower's.

    Experts are stacked tensors and no modules; the layers that hold some get adapters on their attention alone.
    """
    return rf".*{re.escape(family.module)}\.\d+\.(self_attn|mlp)\.({'|'.join(PROJECTIONS)})"


def adapter_config(family: Family, recipe: Recipe) -> Any:
    """peft's LoraConfig for a recipe. HealingError if peft is not installed."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise HealingError(missing_extra("peft")) from error
    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=lora_targets(family),
        task_type="CAUSAL_LM",
    )


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _checkpoint_layers(model: Any, family: Family, recipe: Recipe, trained: set[int]) -> None:
    """Switch gradient checkpointing on in the layers that the recipe says; layers that no gradient reaches keep nothing anyway."""
    if recipe.gradient_checkpointing == "none":
        return
    # The name that transformers is moving to, and the one that 5.20 knows.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    every = recipe.gradient_checkpointing == "all"
    wanted = {id(layer) for index, layer in enumerate(decoder_layers(model, family)) if every or index in trained}
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = id(module) in wanted
