"""Layer numbers as people write them: "3-5,9", and the words of --protect."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hf_layerprune.artifacts.model_facts import ModelFacts
from hf_layerprune.errors import UsageError, shown

PART = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", re.ASCII)


def parse_layers(text: str, layers: int) -> tuple[int, ...]:
    """The layers of a list such as "3-5,9" of a model of `layers` layers, ascending.

    Raises UsageError for what is no such list, for a layer out of range and for one that is named twice.
    """
    chosen: list[int] = []
    for part in text.split(","):
        named = _layer_range(part.strip())
        if named is None:
            raise UsageError(f"--layers {shown(text)}: {shown(part)} is no layer. {_valid(layers)}")
        if not named:
            raise UsageError(f"--layers {shown(text)}: the range {part.strip()} runs backwards; write {named.stop - 1}-{named.start}.")
        chosen += named[: layers + 1]  # one too many shows; a million would only take memory
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


def protected_layers(facts: ModelFacts, protect: str) -> tuple[int, ...]:
    """The layers that `protect` names, ascending.

    protect: "default" (first, last and the layers that DeepStack features follow), "none", or a list by comma of
    first, last, deepstack, layer numbers and ranges ("first,last,7,9-11"). UsageError for anything else.
    """
    words = {"first": range(1), "last": range(facts.layers - 1, facts.layers), "deepstack": range(facts.deepstack_layers)}
    if protect == "none":
        return ()
    chosen: set[int] = set()
    for part in ("first,last,deepstack" if protect == "default" else protect).split(","):
        named = words.get(part.strip(), _layer_range(part.strip()))
        if named is None or (part.strip() not in words and not (named and named[-1] < facts.layers)):
            raise UsageError(
                f"--protect {shown(protect)}: expected default or none alone, or a list of first, last, deepstack, layers from 0 to "
                f"{facts.layers - 1} and ranges such as 3-5, by commas; {shown(part.strip())} is none of these."
            )
        chosen.update(named)
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


def _layer_range(part: str) -> range | None:
    """The layers that "9" or "3-5" names; empty where a range runs backwards, None for anything else."""
    match = PART.fullmatch(part)
    return range(int(match[1]), int(match[2] or match[1]) + 1) if match else None


def _valid(layers: int) -> str:
    return f"Expected numbers from 0 to {layers - 1} and ranges of them, such as 3-5,9."
