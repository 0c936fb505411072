"""What to heal on, as a person asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_layerprune.data.spec import DataSpec
from hf_layerprune.errors import UsageError
from hf_layerprune.healing.recipes import Recipe
from hf_layerprune.mini.lineage import comes_from_mini

if TYPE_CHECKING:
    from hf_layerprune.healing.prepare import HealingData

MINI_DATA = DataSpec("mini", count=4096)


@dataclass(frozen=True)
class DataRequest:
    """sources: to be mixed; max_bad: share of a source's records that may be bad; interlace_filter: INTERLACE's choice of 1 % of
    the samples with at most 3 pictures and 5 turns; render_math: take problems and solutions, as NuminaMath-CoT has them, as
    pictures and answers, leaving out those that are in `exclude`; cache: where prepared data are kept, None for nowhere."""

    sources: tuple[DataSpec, ...]
    max_bad: Decimal = Decimal("0.01")
    interlace_filter: bool = False
    render_math: bool = False
    exclude: tuple[DataSpec, ...] = ()
    cache: Path | None = None
    local_files_only: bool = False

    def __post_init__(self) -> None:
        if self.exclude and not self.render_math:
            raise UsageError("--exclude names problems that --render-math leaves out: add --render-math, or leave it out.")

    def prepare(
        self,
        processor: Any,
        recipe: Recipe,
        seed: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> HealingData:
        """The data, looked through and mixed; UsageError, DataError or ModelError if they cannot be used."""
        from hf_layerprune.data.tables import open_table
        from hf_layerprune.healing.filters import INTERLACE, NO_FILTERS
        from hf_layerprune.healing.prepare import prepare_data
        from hf_layerprune.healing.rendered_math import RenderedMath, evaluation_items

        excluded = [open_table(spec, cache=self.cache, local_files_only=self.local_files_only, say=say) for spec in self.exclude]
        return prepare_data(
            self.sources,
            processor,
            max_length=recipe.max_length,
            seed=seed,
            max_bad=self.max_bad,
            cache=self.cache,
            filters=INTERLACE if self.interlace_filter else NO_FILTERS,
            rendering=RenderedMath(evaluation_items(excluded)) if self.render_math else None,
            local_files_only=self.local_files_only,
            progress=progress,
            say=say,
        )


def data_sources(texts: Sequence[str], folder: Path, recipe: Recipe) -> tuple[DataSpec, ...]:
    """The sources that these lines name; with none, mini's generator for a checkpoint that comes from mini. UsageError elsewhere."""
    if not texts and not comes_from_mini(folder):
        raise UsageError(
            f"--data is missing. Recipe {recipe.name!r} was published with {recipe.data}. Give a dataset's id or a file of "
            "conversations, such as --data samples.jsonl,count=100000; it can be repeated."
        )
    return tuple(DataSpec.parse(text) for text in texts) or (MINI_DATA,)
