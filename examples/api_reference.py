"""Build the API reference from the docstrings: `python examples/api_reference.py FOLDER`. CI does; nothing of it is committed."""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc

import hf_layerprune


def build(folder: Path) -> None:
    """Write the pages of the public names into a folder."""
    for name in hf_layerprune.__all__:
        getattr(hf_layerprune, name)  # imported when first used, and pdoc sees what is there
    pdoc.render.configure(docformat="markdown", footer_text=f"hf-layerprune {hf_layerprune.__version__}")
    pdoc.pdoc("hf_layerprune", output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
