"""What a quantized checkpoint is, for `inspect`: its tensors are not those of the model, so it cannot be pruned."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from hf_layerprune.checkpoint.completeness import FLOATS
from hf_layerprune.checkpoint.header import TensorSpan
from hf_layerprune.errors import FamilyError
from hf_layerprune.families import Family
from hf_layerprune.families.facts import quantization_of
from hf_layerprune.families.family import find

SKIPPED = ("modules_to_not_convert", "ignored_layers", "ignore", "llm_int8_skip_modules")  # by the library that quantized it
MAX_SETTINGS = 12


@dataclass(frozen=True)
class Quantized:
    """What config and headers say."""

    id: str
    family: str
    layers: int | None
    hidden_size: int | None
    method: str
    settings: Mapping[str, str | int | float]  # of the quantization config, the plain ones
    skipped: tuple[str, ...]  # modules that are not quantized, as the config names them
    tensors: Mapping[str, tuple[int, int]]  # by type, how many there are and their bytes

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class QuantizedError(FamilyError):
    """A quantized checkpoint, and what it is."""

    def __init__(self, message: str, found: Quantized) -> None:
        super().__init__(message)
        self.found = found


def described(id: str, family: Family, config: Mapping[str, Any], tensors: Mapping[str, TensorSpan]) -> Quantized:
    """What a config with a `quantization_config` and the headers of its weight files say."""
    text: Any = find(config, family.text_path(config)) or {}
    found = quantization_of(family, config)
    settings: Mapping[str, Any] = found if isinstance(found, Mapping) else {"quant_method": str(found)}
    plain = {str(key): value for key, value in settings.items() if isinstance(value, (str, int, float)) and key != "quant_method"}
    with suppress(AttributeError, IndexError, TypeError):  # of compressed-tensors the first group of modules
        group = next(iter(settings["config_groups"].values()))["weights"] if "config_groups" in settings else {}
        plain |= {f"weights {key}": value for key, value in group.items() if isinstance(value, (str, int)) and not isinstance(value, bool)}
    skipped: Any = next((settings[key] for key in SKIPPED if isinstance(settings.get(key), list)), [])
    sizes: dict[str, tuple[int, int]] = {}
    for span in tensors.values():
        count, size = sizes.get(span.dtype, (0, 0))
        sizes[span.dtype] = (count + 1, size + span.nbytes)
    depth, width = text.get(family.depth), text.get(family.width)
    return Quantized(
        id,
        family.model_type,
        depth if type(depth) is int else None,
        width if type(width) is int else None,
        str(settings.get("quant_method")),
        dict(list(plain.items())[:MAX_SETTINGS]),
        tuple(map(str, skipped)),
        dict(sorted(sizes.items(), key=lambda item: -item[1][1])),
    )


def is_stale(tensors: Mapping[str, TensorSpan]) -> bool:
    """Whether no tensor is quantized, whatever the config says."""
    return bool(tensors) and all(span.dtype in FLOATS and "scale" not in name for name, span in tensors.items())
