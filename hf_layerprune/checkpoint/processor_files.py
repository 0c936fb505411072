"""What prepares a model's text and images: tokenizer, image processor and chat template, its own or borrowed from another model.

Fine-tunings often leave one of them out; transformers then fails with a message of its own, or takes the tokenizer for the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hf_layerprune.artifacts.folder import CONFIG
from hf_layerprune.artifacts.jsonfile import read_json
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.provenance import base_model
from hf_layerprune.checkpoint.source import Place, resolve
from hf_layerprune.errors import LayerPruneError, ModelError, UsageError

# Of each part the files, and by which it is there: all files of one of these rows, or a key in one file.
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
IMAGES = ("preprocessor_config.json", "video_preprocessor_config.json")
TEMPLATE = ("chat_template.jinja", "chat_template.json")
SETTINGS, PROCESSOR = "tokenizer_config.json", "processor_config.json"  # these may hold a template, and an image processor, as well
PARTS = {
    "tokenizer (tokenizer.json)": (*TOKENIZER, SETTINGS),
    "image processor (preprocessor_config.json)": (*IMAGES, PROCESSOR),
    "chat template (chat_template.jinja)": TEMPLATE,
}


def missing_parts(place: Path | Checkpoint) -> list[str]:
    """The keys of PARTS that a folder lacks, or a checkpoint with what it borrows."""

    def file(name: str) -> Path:
        return place / name if isinstance(place, Path) else place.file(Path(name))

    there = {name for name in (*TOKENIZER, *IMAGES, *TEMPLATE) if file(name).is_file()}
    found = (
        there & {"tokenizer.json", "tokenizer.model"} or there >= {"vocab.json", "merges.txt"},
        "preprocessor_config.json" in there or _has(file(PROCESSOR), "image_processor"),
        there & {*TEMPLATE} or any(_has(file(name), "chat_template") for name in (SETTINGS, PROCESSOR)),
    )
    return [part for part, is_there in zip(PARTS, found) if not is_there]


def lacking(checkpoint: Checkpoint) -> str | None:
    """What a checkpoint lacks to prepare text and images, and where to take it from, as a sentence; None if it lacks nothing."""
    missing = missing_parts(checkpoint)
    if not missing:
        return None
    model = base_model(checkpoint.path) or "MODEL"
    what = f"{', no '.join(missing)}, without which images and questions cannot be prepared"
    where = model if model != "MODEL" else "the model that it was made from"
    return f"{checkpoint.path}: no {what}. Copy the files from {where}, or add --processor {model}."


def check_processor(checkpoint: Checkpoint) -> None:
    """ModelError for a checkpoint that lacks a part, saying where to take it from."""
    if sentence := lacking(checkpoint):
        raise ModelError(sentence)


def with_processor(checkpoint: Checkpoint, other: Path, name: str) -> Checkpoint:
    """The checkpoint with the parts that it lacks, taken from the folder of another model; its own files stay.

    name: what to call the other model. UsageError if it lacks nothing; ModelError if the other one lacks it too.
    """
    missing = missing_parts(checkpoint.path)
    if not missing:
        raise UsageError(f"{checkpoint.id} has a tokenizer, an image processor and a chat template of its own: leave --processor out.")
    if lacks := [part for part in missing_parts(other) if part in missing]:
        raise ModelError(f"{name}: no {', no '.join(lacks)} to take from there. Name another model with --processor.")
    wanted = [file for part in missing for file in PARTS[part]]
    if any("template" in part for part in missing) and not any((other / file).is_file() for file in TEMPLATE):
        wanted += [SETTINGS, PROCESSOR]  # one of them holds the template
    files = {Path(file): (other / file).resolve() for file in wanted if (other / file).is_file() and not (checkpoint.path / file).exists()}
    found = replace(checkpoint, side_files=tuple(sorted({*checkpoint.side_files, *files})), borrowed=files, lender=name)
    check_processor(found)
    return found


def borrowing(checkpoint: Checkpoint, source: str, place: Place) -> Checkpoint:
    """`with_processor` from a model as a person names it: a folder, `mini` or an id on the Hub, of which no weights are fetched."""
    found = resolve(source, place, weights=False)
    return with_processor(checkpoint, found.path, found.id)


@contextmanager
def assembled(checkpoint: Checkpoint) -> Iterator[Path]:
    """A folder with a checkpoint's config and side files, the borrowed ones among them, to load a processor from.

    ModelError if a part is missing.
    """
    check_processor(checkpoint)
    if not checkpoint.borrowed:
        yield checkpoint.path
        return
    with TemporaryDirectory(prefix="layerprune-") as name:
        place = Path(name)
        for path in (Path(CONFIG), *checkpoint.side_files):
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).symlink_to(checkpoint.file(path).resolve())
        yield place


def _has(path: Path, key: str) -> bool:
    try:
        return path.is_file() and read_json(path, "processor configuration").get(key) is not None
    except LayerPruneError:  # whoever loads it says what is wrong
        return True
