"""Say what a folder is when it is no safetensors model, and what to do with it."""

from __future__ import annotations

from pathlib import Path

from hf_layerprune.errors import SourceError

TO_SAFETENSORS = (
    'Convert it to safetensors first: python -c "from transformers import AutoModelForImageTextToText as M, AutoProcessor as P; '
    "M.from_pretrained('{0}').save_pretrained('NEW'); P.from_pretrained('{0}').save_pretrained('NEW')\""
)

# A file pattern, what a folder with such a file is, and what to do. An adapter counts even beside a whole model, because
# from_pretrained would then load the adapter as well.
FOREIGN = (
    ("adapter_config.json", "a peft adapter", "Merge it into its base model (merge_and_unload, save_pretrained) and pass that folder."),
    ("model_index.json", "a diffusers pipeline", "There are no decoder layers to prune in it; pass a vision-language model."),
    ("dataset_info*.json", "a dataset", "Pass a model's folder or id."),
    ("dataset_dict.json", "a dataset", "Pass a model's folder or id."),
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


def refuse_foreign(folder: Path, *, weights: bool = True) -> None:
    """Raise SourceError if the folder is an adapter, a pipeline, a dataset, or, with `weights`, has none as safetensors."""
    for pattern, kind, remedy in FOREIGN:
        if any(folder.glob(pattern)):
            raise SourceError(f"{folder} is {kind}. {remedy}")
    if not weights or any(folder.glob("model*.safetensors")) or (folder / "model.safetensors.index.json").exists():
        return
    for pattern, kind, remedy in WITHOUT_SAFETENSORS:
        if any(folder.glob(pattern)):
            raise SourceError(f"{folder} {'is ' if kind.startswith('a ') else ''}{kind}. {remedy.format(folder)}")
    raise SourceError(
        f"{folder} holds no model.safetensors and no model.safetensors.index.json. Pass a checkpoint folder, a Hub id or mini; "
        "a model that has its weights in another format must be converted to safetensors first."
    )
