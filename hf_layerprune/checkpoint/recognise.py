"""Say what a folder is when it is no safetensors model, and what to do with it."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection
from pathlib import Path

from hf_layerprune.errors import SourceError
from hf_layerprune.families.family import AUTO_CLASS

TO_SAFETENSORS = (
    f'Convert it to safetensors first: python -c "import shutil; from transformers import {AUTO_CLASS} as M; '
    "shutil.copytree('{0}', 'NEW', ignore=shutil.ignore_patterns('*.bin*', '*.pth')); "
    "M.from_pretrained('{0}', dtype='auto').save_pretrained('NEW')\" and pass NEW."
)

# A file pattern, what a folder with such a file is, and what to do. An adapter counts even beside a whole model, because
# from_pretrained would then load the adapter as well.
FOREIGN = (
    ("adapter_config.json", "a peft adapter", "Merge it into its base model (merge_and_unload, save_pretrained) and pass that folder."),
    ("model_index.json", "a diffusers pipeline", "There are no decoder layers to prune in it; pass a vision-language model."),
    ("dataset_info*.json", "a dataset", "Pass a model's folder or id."),
    ("dataset_dict.json", "a dataset", "Pass a model's folder or id."),
)
ADAPTER_BESIDE_WEIGHTS = (
    "holds a whole model and an adapter_config.json, by which transformers would load an adapter on top of it. Remove that file if the "
    "adapter is merged into the weights; if not, merge it (merge_and_unload, save_pretrained) and pass that folder."
)
WITHOUT_SAFETENSORS = (
    ("pytorch_model*.bin", "holds pickled PyTorch weights only", TO_SAFETENSORS),
    ("*.gguf", "holds GGUF weights only", "Pass the model that they were made from, and convert the result to GGUF again."),
    ("consolidated*", "holds consolidated weights only", TO_SAFETENSORS),
    ("*.pth", "holds pickled PyTorch weights only", TO_SAFETENSORS),
    ("*.bin", "holds pickled weights only", TO_SAFETENSORS),
    ("*.parquet", "a dataset", "Pass a model's folder or id."),
    ("*.arrow", "a dataset", "Pass a model's folder or id."),
)


def refuse_foreign(place: Path | str, names: Collection[str], *, weights: bool = True) -> None:
    """Raise SourceError if files of these names make `place` an adapter, a pipeline, a dataset, or, with `weights`, no safetensors."""
    has_weights = bool(fnmatch.filter(names, "model*.safetensors")) or "model.safetensors.index.json" in names
    for pattern, kind, remedy in FOREIGN:
        if fnmatch.filter(names, pattern):
            merged = has_weights and kind == "a peft adapter"
            raise SourceError(f"{place} {ADAPTER_BESIDE_WEIGHTS if merged else f'is {kind}. {remedy}'}")
    if not weights or has_weights:
        return
    for pattern, kind, remedy in WITHOUT_SAFETENSORS:
        if fnmatch.filter(names, pattern):
            raise SourceError(f"{place} {'is ' if kind.startswith('a ') else ''}{kind}. {remedy.format(place)}")
    if steps := [int(number) for name in names if (number := name.removeprefix("checkpoint-")) != name and number.isdecimal()]:
        raise SourceError(f"{place} is a trainer's output folder. Pass a checkpoint in it, such as {place}/checkpoint-{max(steps)}.")
    raise SourceError(
        f"{place} holds no model.safetensors and no model.safetensors.index.json. Pass a checkpoint folder, a Hub id or mini; "
        "a model that has its weights in another format must be converted to safetensors first."
    )
