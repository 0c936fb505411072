"""What to heal and how, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hf_layerprune.artifacts.folder import HEALING, MANIFEST, PLAN, RECORDS
from hf_layerprune.artifacts.healing_record import HEALING_FORMAT, HealingRecord
from hf_layerprune.artifacts.jsonfile import digest_of
from hf_layerprune.artifacts.manifest import Manifest
from hf_layerprune.artifacts.plan import PruningPlan
from hf_layerprune.checkpoint.fingerprint import tensor_digest
from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.output_place import check_output
from hf_layerprune.checkpoint.staging import hidden_beside
from hf_layerprune.errors import ArtifactError, LayerPruneError, UsageError
from hf_layerprune.healing.recipes import Recipe
from hf_layerprune.healing.trained_layers import TrainedLayers, layers_to_train
from hf_layerprune.models.remote_code import refuse_remote_code


@dataclass(frozen=True)
class HealingRequest:
    """recipe: with the overrides in it; seed: of the adapters' start, dropout and the data's order; tune_last: layers that a
    recipe with method "layers" trains where no plan says; keep_adapter: write the adapter alone; overwrite: replace an output of
    ours; save_steps: optimizer steps between two saves of the state; report_to: where accelerate sends the curve as well."""

    checkpoint: Checkpoint
    output: Path
    recipe: Recipe
    seed: int = 0
    tune_last: str | None = None
    keep_adapter: bool = False
    overwrite: bool = False
    save_steps: int = 50
    device: str = "auto"
    report_to: str = "none"

    @property
    def work(self) -> Path:
        """The hidden folder beside the output in which an unfinished run lies."""
        return hidden_beside(self.output, "healing")

    @property
    def curves(self) -> Path:
        """Where tensorboard finds the curve: beside the output, in the folder that it looks in by itself."""
        return self.output.parent / "runs" / self.output.name

    @cached_property
    def trained(self) -> TrainedLayers | None:
        """The layers that are trained in full, None for adapters on all. UsageError if the request does not say which."""
        if self.recipe.method == "lora":
            if self.tune_last is not None:
                raise UsageError(f"recipe {self.recipe.name!r} trains adapters on every layer: leave --tune-last out.")
            return None
        if self.keep_adapter:
            raise UsageError(f"recipe {self.recipe.name!r} trains whole layers and makes no adapter: leave --keep-adapter out.")
        path = self.checkpoint.path / RECORDS / PLAN
        plan = PruningPlan.load(path) if path.is_file() else None
        if plan is not None and len(plan.keep) != self.checkpoint.facts.layers:
            raise ArtifactError(f"{path}: keeps {len(plan.keep)} layers, but the checkpoint has {self.checkpoint.facts.layers}.")
        return layers_to_train(plan, self.checkpoint.facts.layers, self.tune_last)

    def check(self) -> None:
        """Refuse, before any work, what cannot be done. UsageError, CheckpointError or ModelError."""
        _ = self.trained
        if not 0 <= self.seed < 1 << 32:
            raise UsageError(f"--seed {self.seed}: expected a number from 0 to {(1 << 32) - 1}.")
        if self.report_to == "tensorboard" and self.output in self.curves.parents:
            raise UsageError(f"--report-to tensorboard writes to {self.curves}, within the output {self.output}: choose another output.")
        if self.save_steps < 1:
            raise UsageError(f"--save-steps {self.save_steps}: expected at least 1.")
        refuse_remote_code(self.checkpoint.path)
        if finished_record(self.output) is None:
            check_output(self.output, overwrite=self.overwrite, source=self.checkpoint.path)

    def key(self, data: str) -> str:
        """sha256 of everything that decides the result, of which `data` is the data's digest."""
        content = {
            "format": HEALING_FORMAT,
            "checkpoint": [self.checkpoint.source.fingerprint, tensor_digest(self.checkpoint.tensors)],
            "recipe": self.recipe.to_dict(),
            "layers": self.trained and self.trained.layers,
            "data": data,
            "seed": self.seed,
            "adapter": self.keep_adapter,
        }
        return digest_of(content)


def finished_record(output: Path) -> HealingRecord | None:
    """The record of a healed output, None if there is none that can be read, or files of the output are gone or cut."""
    try:
        record = HealingRecord.load(output / RECORDS / HEALING)
        files = Manifest.load(output / RECORDS / MANIFEST).files
        whole = all((output / name).stat().st_size == file.bytes for name, file in files.items())
    except (LayerPruneError, OSError):
        return None
    return record if whole and not output.is_symlink() else None
