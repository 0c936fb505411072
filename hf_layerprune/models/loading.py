"""Load a checkpoint folder with transformers, strictly: every key accounted for, no remote code, one clear line if not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from hf_layerprune.artifacts.folder import CONFIG
from hf_layerprune.artifacts.jsonfile import read_json
from hf_layerprune.artifacts.option import parse_dtype
from hf_layerprune.errors import ModelError, first_line
from hf_layerprune.families import Family, family_for, headless
from hf_layerprune.models.remote_code import refuse_remote_code

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")  # of accelerate, for spreading a model over devices
LISTED = 5  # keys that do not fit and are named; the others are only counted


def choose_device(device: str = "auto") -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. ModelError if the device named is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} cannot be used here: {first_line(error)}. Choose another with --device.") from error
    return chosen


def choose_dtype(dtype: str, device: torch.device | None = None) -> torch.dtype | str:
    """`auto` is fp32 on a CPU, where bf16 is slow and coarse, and the checkpoint's own dtype elsewhere and where no device is given.

    UsageError for a name that `parse_dtype` does not know."""
    name = parse_dtype(dtype)
    if name == "auto":
        return torch.float32 if device is not None and device.type == "cpu" else "auto"
    return cast(torch.dtype, getattr(torch, name))


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model takes its inputs; with a device map parts of it lie elsewhere, on other devices or on disk."""
    placed = getattr(model, "hf_device_map", None)
    if not placed:
        return next(model.parameters()).device
    return torch.device(next((device for device in placed.values() if device not in ("cpu", "disk")), "cpu"))


def parse_device_map(value: Any) -> Any:
    """A device map as transformers takes it, from a strategy's name, a device, a mapping, or a JSON file of one; ModelError otherwise."""
    if value is None or isinstance(value, Mapping) or value in STRATEGIES:
        return value
    if isinstance(value, str) and value.endswith(".json"):
        return read_json(Path(value), "device map")
    try:
        return {"": choose_device(str(value))}
    except ModelError as error:
        known = f'{", ".join(STRATEGIES)}, a device such as cuda:1, or a JSON file such as {{"model.visual": 0, ...}}'
        raise ModelError(f"device map {value!r}: expected {known}.") from error


def load_model(
    path: Path,
    *,
    dtype: torch.dtype | str = "auto",
    device: torch.device | None = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """The model of a folder, by its family's class, in evaluation mode.

    ModelError naming the keys if one is missing, unexpected or of another shape, or if the model does not load at all.
    """
    options = {"attn_implementation": attn_implementation, "device_map": parse_device_map(device_map)}
    with _quiet():
        try:
            config = read_json(path / CONFIG, "model config")
            family = family_for(config, str(path / CONFIG))
            loaded: Any = _auto_class(family, config).from_pretrained(
                path,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **{name: value for name, value in options.items() if value is not None},
            )
        except Exception as error:  # an untrusted configuration may make transformers raise anything
            raise ModelError(f"{path}: transformers cannot load the model: {first_line(error)}.") from error
    model: Any = loaded[0]
    if problems := loading_problems(loaded[1], family):
        more = f", … ({len(problems)} in all)" if len(problems) > LISTED else ""
        said = f"{path}: the weights do not fit the model: {', '.join(problems[:LISTED])}{more}."
        raise ModelError(f"{said} Correct config.json, or fetch the right weights.")
    if device is not None and device_map is None:
        model.to(device)
    return cast(PreTrainedModel, model.eval())


def loading_problems(info: dict[str, Any], family: Family) -> list[str]:
    """What transformers' loading info complains of, a line each; empty for a checkpoint that fits."""
    return [
        f"{kind.removesuffix('_keys')} {key}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        for key in sorted(map(str, info[kind]))
        if kind != "unexpected_keys" or not key.startswith(family.ignored)
    ]


def check_loads(path: Path) -> None:
    """Prove that plain transformers loads a folder with every key in its place; ModelError if not."""
    load_model(path)


def parameter_shapes(config: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of the model that transformers builds from a config.json, without memory for them.

    A tied head is the embedding, and not listed. FamilyError or ModelError if the config is no model's.
    """
    family = family_for(config, where)
    try:
        with torch.device("meta"):
            model = _auto_class(family, config).from_config(AutoConfig.for_model(**config))
    except Exception as error:  # an untrusted configuration may make transformers raise anything
        raise ModelError(f"{where}: transformers cannot build the model: {first_line(error)}.") from error
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _auto_class(family: Family, config: Mapping[str, Any]) -> Any:
    name = "AutoModel" if headless(family, config) else family.auto_class
    found = getattr(transformers, name, None)
    if found is None:
        raise ModelError(f"transformers has no {name}, which the family {family.model_type} is loaded with.")
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' progress bar and load report: what they tell is told by an error or not at all."""
    log: Any = logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()


class SourceModel:
    """Loads a checkpoint folder on demand, and again only if another dtype or device is asked for."""

    def __init__(self, path: Path, *, device_map: Any = None, attn_implementation: str | None = None) -> None:
        self._path = path
        self._options: Mapping[str, Any] = {"device_map": device_map, "attn_implementation": attn_implementation}
        self._key: tuple[Any, ...] = ()
        self._model: PreTrainedModel | None = None

    def get(self, dtype: torch.dtype | str, device: torch.device | None = None) -> PreTrainedModel:
        """The model in a dtype ("auto" is the checkpoint's) and on a device (None leaves it where it loads).

        ModelError if it does not load, or asks for code of its own."""
        key = (dtype, device)
        if self._model is None or key != self._key:
            refuse_remote_code(self._path)
            self._model = None  # before the next one takes its place in memory
            self._model = load_model(self._path, dtype=dtype, device=device, **self._options)
            self._key = key
        return self._model

    def for_probing(self, dtype: str, device: str) -> PreTrainedModel:
        """The model as it is probed: `auto` is fp32 on a CPU and the checkpoint's dtype on an accelerator."""
        place = choose_device(device)
        return self.get(choose_dtype(dtype, place), None if self._options["device_map"] else place)
