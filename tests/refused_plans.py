"""What make_plan says where it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from hf_layerprune.errors import LayerPruneError
from hf_layerprune.strategies.planning import make_plan


def refusal(kind: type[LayerPruneError], *args: Any, **options: Any) -> str:
    """The text of the error that make_plan raises: of exactly this class, and one line."""
    with pytest.raises(kind) as caught:
        make_plan(*args, **options)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    return str(caught.value)
