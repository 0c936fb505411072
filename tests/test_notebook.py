"""The notebook for Colab, run from top to bottom in a kernel of its own, as a reader would."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "prune_mini.ipynb"
MINUTES = 40


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after its run; a cell that fails fails the test with what it printed."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=60 * MINUTES, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    elsewhere = [part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != Path(sys.executable).parent]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join(elsewhere))  # as where the environment is not activated
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        client.execute()
    return notebook


def printed(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.get("outputs", ()))


def the_cell(notebook: Any, words: str) -> Any:
    [found] = [cell for cell in notebook.cells if cell.cell_type == "code" and words in cell.source]
    return found


def test_it_holds_no_outputs_of_an_older_run() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)


def test_every_cell_ran(ran: Any) -> None:
    code = [cell for cell in ran.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_it_shows_what_it_promises(ran: Any) -> None:
    assert "is the source's" not in printed(the_cell(ran, "pruner.probe()")) and "layer 15" in printed(the_cell(ran, "pruner.probe()"))
    assert "mixed      removes layers" in printed(the_cell(ran, "for method in"))
    assert "13 layers" in printed(the_cell(ran, "AutoModelForImageTextToText"))
    asked = printed(the_cell(ran, "apply_chat_template"))
    assert "expected:" in asked and "answered:" in asked
    assert "mini-math" in printed(the_cell(ran, "evaluate mini-mixed")) and "mini-healed" in printed(the_cell(ran, "evaluate mini-healed"))


@pytest.mark.parametrize("words", ["draw_map(", "example.image.resize", "loss.png"])
def test_its_pictures_are_there(ran: Any, words: str) -> None:
    assert any("image/png" in output.get("data", {}) for output in the_cell(ran, words).outputs)
