"""File systems that lack something, for the tests of what is written to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def refusing(code: int) -> Callable[..., Any]:
    """A function of the system that always fails with this error."""

    def call(*args: Any, **options: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return call
