"""Layer numbers as people write them: "3-5,9"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hf_layerprune.errors import UsageError, shown

PART = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", re.ASCII)


def parse_layers(text: str, layers: int) -> tuple[int, ...]:
    """The layers of a list such as "3-5,9" of a model of `layers` layers, ascending.

    Raises UsageError for what is no such list, for a layer out of range and for one that stands there twice.
    """
    chosen: list[int] = []
    for part in text.split(","):
        match = PART.fullmatch(part.strip())
        if not match:
            raise UsageError(f"--layers {shown(text)}: {shown(part)} is no layer. {_valid(layers)}")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise UsageError(f"--layers {shown(text)}: the range {part.strip()} runs backwards; write {last}-{first}.")
        chosen += range(first, min(last, max(first, layers)) + 1)  # one too many shows; a million would only take memory
    return check_layers(chosen, layers)


def check_layers(chosen: Sequence[int], layers: int) -> tuple[int, ...]:
    """`chosen`, ascending; UsageError if it is empty, is every layer, or names one that is out of range or named before."""
    for position, layer in enumerate(chosen):
        if type(layer) is not int or not 0 <= layer < layers:
            raise UsageError(f"--layers: {shown(layer)} is no layer of this model. {_valid(layers)}")
        if layer in chosen[:position]:
            raise UsageError(f"--layers: layer {layer} is named twice. Name every layer once.")
    if not 0 < len(chosen) < layers:
        raise UsageError(f"--layers: {len(chosen)} of {layers} layers are named; at least one must go and one must stay.")
    return tuple(sorted(chosen))


def format_layers(layers: Iterable[int]) -> str:
    """The layers as `parse_layers` reads them, neighbours as ranges: "3-5,9"; "none" if there are none."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) or "none"


def _valid(layers: int) -> str:
    return f"Expected numbers from 0 to {layers - 1} and ranges of them, such as 3-5,9."
