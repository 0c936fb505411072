"""Which weights a recipe trains, and how their new values get into a checkpoint or an adapter."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_layerprune.artifacts.folder import MANIFEST, RECORDS
from hf_layerprune.artifacts.healing_record import Recipe
from hf_layerprune.artifacts.jsonfile import fsync_folder
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.checkpoint.copying import write_file
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.rewrite import write_healed
from hf_layerprune.checkpoint.staging import staged_folder
from hf_layerprune.errors import HealingError
from hf_layerprune.families.family import Family
from hf_layerprune.healing.engine import INSTALL, uses_deepspeed, writing
from hf_layerprune.healing.request import Healing
from hf_layerprune.healing.training import Trainer
from hf_layerprune.hub.listing import file_record
from hf_layerprune.models.decoder import decoder_layers
from hf_layerprune.models.loading import load_model

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
WRITER = "hf-layerprune adapter 1"


def trained_model(healing: Healing, *, sharded: bool) -> Any:
    """The model of a checkpoint with exactly the recipe's parameters requiring gradients, those in fp32.

    sharded: DeepSpeed keeps fp32 copies of its own, and the model stays in the checkpoint's type. The vision tower and its mergers
    are frozen in both recipes. HealingError for a tensor whose new values could not be written to the checkpoint.
    """
    checkpoint, recipe, layers = healing.checkpoint, healing.recipe, healing.trained.layers
    family = checkpoint.family
    torch.manual_seed(healing.options.seed)
    dtype = torch.float32 if recipe.precision == "fp32" else "auto"
    model: Any = load_model(checkpoint.path, dtype=dtype, device_map=healing.options.device_map)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise HealingError(
            "weights that the device map puts on disk or into CPU memory cannot be trained. Use examples/zero3_offload.yaml."
        )
    base = model
    model.requires_grad_(False)
    if recipe.method == "lora":
        config = adapter_config(family, recipe)
        from peft import get_peft_model

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that peft still uses
            model = get_peft_model(model, config, autocast_adapter_dtype=not sharded)
        layers = tuple(range(len(decoder_layers(base, family))))
    else:
        for layer in layers:
            decoder_layers(base, family)[layer].requires_grad_(True)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            _name_on_disk(checkpoint, _target(_plain_name(name)))
            if not sharded:
                parameter.data = parameter.data.float()
    _checkpoint_layers(base, family, recipe, set(layers))
    return model


def adapter_config(family: Family, recipe: Recipe) -> Any:
    """peft's LoraConfig for a recipe: an adapter on each projection of the decoder's layers, none on the vision tower's.

    Experts are stacked tensors and no modules; the layers that hold some get adapters on their attention alone. HealingError if peft
    is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise HealingError(INSTALL.format("peft")) from error
    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=rf".*{re.escape(family.module)}\.\d+\.(self_attn|mlp)\.({'|'.join(PROJECTIONS)})",
        task_type="CAUSAL_LM",
    )


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


@dataclass(frozen=True)
class TrainedWeights:
    """A file of trained tensors by their names in memory; scale: what B A is multiplied with, None where whole tensors were trained.

    Adapters are called <module>.lora_A.weight [rank, in] and <module>.lora_B.weight [out, rank].
    """

    path: Path
    scale: float | None

    def values(self, checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
        """The new tensors of a checkpoint by their names there, in the types they had: W + scale B A, worked out in fp32, or as trained.

        HealingError for a tensor that the checkpoint does not hold so, or a value that is not finite.
        """
        with safe_open(self.path, "pt") as file:
            for name in sorted(file.keys()):
                if name.endswith(LORA_B):
                    continue
                disk = _name_on_disk(checkpoint, _target(name))
                span, value = checkpoint.tensors[disk], file.get_tensor(name)
                with span.file.open("rb", buffering=0) as source:
                    content = bytearray(os.pread(source.fileno(), span.nbytes, span.begin))
                before = torch.frombuffer(content, dtype=DTYPES[span.dtype]).reshape(span.shape)
                if self.scale is not None:
                    up = file.get_tensor(name.removesuffix(LORA_A) + LORA_B)
                    value = before.float() + self.scale * (up.float() @ value.float())
                elif value.shape != before.shape and value.dim() > 2:  # some checkpoints hold stacked experts the other way round
                    value = value.transpose(-1, -2)
                if value.shape != before.shape:
                    shapes = f"trained with shape {tuple(value.shape)}, but the checkpoint has {tuple(before.shape)}"
                    raise HealingError(f"{disk}: {shapes}. Please report this.")
                yield disk, _check_finite(value.to(before.dtype), disk)


def collect(trainer: Trainer, path: Path) -> None:
    """Write every trained tensor, in fp32, gathered from all processes, which all call this; the first one writes the file."""
    main, sharded = trainer.accelerator.is_main_process, uses_deepspeed(trainer.accelerator)
    whole: dict[str, Tensor] = {}
    for name, parameter in trainer.trained():
        value: Tensor = parameter.detach()
        if sharded:
            from deepspeed.utils import safe_get_full_fp32_param

            value = safe_get_full_fp32_param(parameter)
        if main:
            whole[_plain_name(name)] = _check_finite(value, name).float().cpu().contiguous().clone()
    if main:
        partial = path.with_suffix(".partial")
        with writing(path):
            save_file(whole, partial, metadata={"format": "pt"})
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
            fsync_folder(path.parent)
    trainer.accelerator.wait_for_everyone()


def write_merged(
    checkpoint: Checkpoint, trained: TrainedWeights, output: Path, *, overwrite: bool, records: Mapping[str, bytes]
) -> Manifest:
    """`checkpoint` with the trained tensors in their places, proved, with the same layout, types and shards, without the model.

    The new bytes lie beside the trained ones meanwhile, one tensor in memory at a time. CheckpointError or HealingError; then nothing
    is left.
    """
    place, spans = trained.path.with_suffix(".values"), {}
    try:
        with writing(place), place.open("wb") as file:
            for name, value in trained.values(checkpoint):
                begin = file.tell()
                file.write(value.contiguous().view(torch.uint8).numpy().reshape(-1).data)
                spans[name] = replace(checkpoint.tensors[name], file=place, begin=begin, end=file.tell())
        return write_healed(checkpoint, spans, output, overwrite=overwrite, records=records)
    finally:
        place.unlink(missing_ok=True)


def write_adapter(
    checkpoint: Checkpoint, trained: TrainedWeights, config: Any, output: Path, *, overwrite: bool, records: Mapping[str, bytes]
) -> Manifest:
    """The trained adapters as `PeftModel.from_pretrained` reads them; config: peft's own LoraConfig. Raises as `rewrite` does."""
    known = checkpoint.commit is not None  # an id on the Hub; anything else is a folder of this machine
    config.base_model_name_or_path = checkpoint.id if known else str(checkpoint.path.resolve())
    config.revision = checkpoint.commit
    config.inference_mode = True
    with staged_folder(output, overwrite=overwrite, source=checkpoint.path, needed=trained.path.stat().st_size + (1 << 20)) as staging:
        with safe_open(trained.path, "pt") as weights:
            tensors = {f"base_model.model.{name}": weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118  # no mapping
        save_file(tensors, staging / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(staging)
        files = {}
        for path in sorted(staging.iterdir()):
            path.chmod(0o644)
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[path.name] = file_record(path)
        manifest = Manifest(checkpoint.source, WRITER, "source", files, {})
        (staging / RECORDS).mkdir()
        for name, content in {MANIFEST: manifest.dump(), **records}.items():
            write_file(staging / RECORDS / name, content)
    return manifest


def _plain_name(name: str) -> str:
    """A parameter's name without what peft adds: base_model.model.<name>.lora_A.default.weight."""
    return name.removeprefix("base_model.model.").replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")


def _target(name: str) -> str:
    """The tensor that a trained one changes: itself, or the weight of the module that an adapter is on."""
    return re.sub(r"\.lora_[AB]\.weight$", ".weight", name)


def _name_on_disk(checkpoint: Checkpoint, name: str) -> str:
    """The name in the checkpoint of a decoder tensor, which may stand under another prefix there. HealingError if it cannot be written."""
    family = checkpoint.family
    places = (f"{layout.layers}{name.removeprefix(f'{family.module}.')}" for layout in family.layouts)
    found = next((place for place in places if place in checkpoint.tensors), name)
    span = checkpoint.tensors.get(found)
    if span is None or span.dtype not in DTYPES:
        kind = span.dtype if span else "missing"
        raise HealingError(f"{checkpoint.id}: tensor {name!r} is to be trained, but is {kind} in the checkpoint. Please report this.")
    return found


def _check_finite(value: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(value).all()):
        raise HealingError(f"{name}: training left non-finite values in it. Lower the learning rate, and heal again.")
    return value
