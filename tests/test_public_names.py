"""What `import hf_layerprune` offers: the public names, to completion and to `from ... import`, each imported when first used."""

from __future__ import annotations

import inspect
import rlcompleter
import subprocess
import sys

import hf_layerprune
from hf_layerprune import errors

EXPECTED = {"LayerPruner", "PruningPlan", "LayerStatistics", "Manifest", "HealingRecord", "EvalReport", "Strategy", "Selection", "Evidence"}


def in_new_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_every_public_name_is_there() -> None:
    ours = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, errors.LayerPruneError)}
    assert {*hf_layerprune.__all__} == EXPECTED | ours | {"__version__"}
    for name in EXPECTED | ours:
        assert getattr(hf_layerprune, name).__name__ == name


def test_names_are_listed_before_anything_is_imported() -> None:
    done = in_new_process(
        "import sys, hf_layerprune; names = dir(hf_layerprune); assert {*hf_layerprune.__all__} <= {*names}, names\n"
        "assert not [name for name in names if name in ('import_module', 'errors', 'Any')], names\n"
        "assert not {'numpy', 'torch', 'click', 'hf_layerprune.pruner'} & {*sys.modules}\n"
        "from hf_layerprune import *; LayerPruner, EvalReport, Strategy; assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_completion_offers_them() -> None:
    matches = rlcompleter.Completer({"hf_layerprune": hf_layerprune}).attr_matches("hf_layerprune.Layer")
    assert {match.partition("(")[0].rpartition(".")[2] for match in matches} == {"LayerPruneError", "LayerPruner", "LayerStatistics"}


def test_a_misspelt_name_is_suggested() -> None:
    done = in_new_process("import hf_layerprune; hf_layerprune.LayerPrunner")
    assert done.returncode == 1 and "Did you mean: 'LayerPruner'?" in done.stderr
