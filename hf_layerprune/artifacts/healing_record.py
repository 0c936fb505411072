"""`healing.json`: how a checkpoint was fine-tuned, as resolved, and every step of its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_layerprune.artifacts.jsonfile import check_format, dump_json, read_json
from hf_layerprune.artifacts.model_facts import SourceRef
from hf_layerprune.errors import ArtifactError

HEALING_FORMAT = 1
CURVES = ("loss", "learning_rate", "grad_norm", "tokens", "seconds", "memory")  # one number a step each


@dataclass(frozen=True)
class HealingRecord:
    """key: sha256 of everything that decides the result; checkpoint: what was fine-tuned; recipe: every setting as resolved,
    with the fields that the paper leaves open under "ours"; overridden: the settings that differ from the paper's recipe;
    trained: method, layers and who chose them, number of parameters and tensors; data: per source what was used, by revision;
    seed; engine: processes, device, DeepSpeed stage; curve: by name of `CURVES` a number a step: loss in nats an answer
    token, seconds since the step before, peak bytes of the first process; resumed: whether the run ended early and went on;
    versions: of the libraries that computed.
    """

    key: str
    checkpoint: SourceRef
    recipe: Mapping[str, Any]
    overridden: tuple[str, ...]
    trained: Mapping[str, Any]
    data: Mapping[str, Any]
    seed: int
    engine: Mapping[str, Any]
    curve: Mapping[str, tuple[float, ...]]
    resumed: bool
    versions: Mapping[str, str]

    @property
    def steps(self) -> int:
        return len(self.curve["loss"])

    @property
    def seconds(self) -> float:
        """Wall time of all steps; what a killed run did after its last save is not in it."""
        return sum(self.curve["seconds"])

    def dump(self) -> bytes:
        value = asdict(self)
        return dump_json({"format": HEALING_FORMAT, **value, "overridden": list(self.overridden)})

    @classmethod
    def load(cls, path: Path) -> HealingRecord:
        """Read `healing.json`; ArtifactError if it is damaged or from a newer version."""
        value = read_json(path, "healing record")
        check_format(value.pop("format", None), HEALING_FORMAT, "healing record", str(path))
        try:
            curve = {name: tuple(float(number) for number in value["curve"][name]) for name in CURVES}
            if len({len(numbers) for numbers in curve.values()}) != 1:
                raise ValueError("curves of different lengths")
            return cls(
                **{
                    **value,
                    "checkpoint": SourceRef(**value["checkpoint"]),
                    "overridden": tuple(map(str, value["overridden"])),
                    "curve": curve,
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{path}: the healing record is damaged ({error!r}).") from error
