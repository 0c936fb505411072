"""What an architecture is to this package: data about its config and its tensors, and no code of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorGroup:
    """The tensors of one module, or of every module of a numbered list.

    prefix: what their names begin with, `{}` standing for the module's number; shapes: the rest of the name to the shape,
    dimensions apart by spaces, each a product of numbers and keys ("num_attention_heads*head_dim hidden_size") that are
    looked up in the config's section `section` (a key that has several names as "new|old"); count: path in the config of the
    number of modules, or of a list with one entry a module; when: a switch in the config (false if absent) and the value it
    has when the tensors exist; listed: a list of module numbers in the config (empty if absent), and whether those modules
    have the tensors (True) or all others have (False).
    """

    prefix: str
    section: str
    shapes: Mapping[str, str]
    count: str | None = None
    when: tuple[str, bool] | None = None
    listed: tuple[str, bool] | None = None


@dataclass(frozen=True)
class Family:
    """One architecture. A path is keys of the config joined by dots; a key stands in the text section.

    model_type, architectures: what config.json calls it; text: path of the decoder's section; depth, width: keys of L and d;
    layer_prefix: what the names of decoder tensors on disk begin with, followed by the layer's number and a dot;
    per_layer: keys of lists with one entry a layer, cut with the layers; layer_indices: keys of lists of layer numbers,
    renumbered with the layers; other_lists: paths within the text section of lists, and of objects with numbers for keys,
    that have nothing to do with layers, however long they are; deepstack: path of the vision taps, one for each of the first
    decoder layers, whose features are added after that layer; vision_depth: path of the number of layers that the taps
    count; head: the tensor that a tied config leaves out; embedding: the tensor it is then tied to; tied: path of the switch
    that ties them; required: keys that must have this value where they are there at all, since with another one a layer's
    number decides what it is made of; either_way: decoder tensors, by the rest of their names, whose last two dimensions some
    writers exchange, and which transformers loads by their shape; tensors: all tensors of a checkpoint, by rule.
    """

    model_type: str
    architectures: tuple[str, ...]
    text: str
    depth: str
    width: str
    layer_prefix: str
    per_layer: tuple[str, ...]
    layer_indices: tuple[str, ...]
    other_lists: tuple[str, ...]
    deepstack: str
    vision_depth: str
    head: str
    embedding: str
    tied: str
    required: Mapping[str, int]
    either_way: tuple[str, ...]
    tensors: tuple[TensorGroup, ...]

    def split(self, name: str) -> tuple[int, str] | None:
        """A decoder tensor's layer number and the rest of its name (14, "mlp.up_proj.weight"), None for any other tensor."""
        if not name.startswith(self.layer_prefix):
            return None
        number, _, rest = name[len(self.layer_prefix) :].partition(".")
        # "07" and "²" are digits to int() or isdigit(), but transformers never writes them.
        return (int(number), rest) if rest and number.isdecimal() and number == str(int(number[:9])) else None

    def join(self, layer: int, rest: str) -> str:
        """The inverse of `split`."""
        return f"{self.layer_prefix}{layer}.{rest}"

    def layouts(self, name: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """The shapes that a tensor may have on disk: the one that its rule gives, and for `either_way` its transpose."""
        place = self.split(name)
        return (shape, (*shape[:-2], shape[-1], shape[-2])) if place and place[1] in self.either_way else (shape,)
