"""What an architecture is to this package: data about its config, its tensors' names and its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_layerprune.artifacts.display import Readable

AUTO_CLASS = "AutoModelForImageTextToText"  # of transformers, for all families that do not say otherwise


@dataclass(frozen=True)
class Layout:
    """One way in which a family's tensors are named on disk. Prefixes end with a dot."""

    text: str  # of the decoder: its layers ("layers.N."), its embedding ("embed_tokens.") and its last norm ("norm.")
    others: tuple[str, ...]  # of all other modules: vision tower, projector
    blocks: str | None = None  # of the vision tower's numbered layers
    head: str = "lm_head.weight"  # left out on disk where the config ties it to the embedding

    @property
    def layers(self) -> str:
        return f"{self.text}layers."

    @property
    def embedding(self) -> str:
        return f"{self.text}embed_tokens.weight"

    @property
    def norm(self) -> str:
        return f"{self.text}norm.weight"


@dataclass(frozen=True)
class ImageTokens:
    """How a family's processor marks images in a text. The names are attributes of the processor, but for `inputs`."""

    processor: str  # its class in transformers
    token: str = "image_token"  # the text of the token that stands for an image, or for a part of one
    token_id: str = "image_token_id"  # its id
    other_tokens: tuple[str, ...] = ("video_token",)  # other such texts that only the chat template may write
    inputs: tuple[str, ...] = ("mm_token_type_ids", "token_type_ids")  # what it makes with one entry a token, besides ids and mask


@dataclass(frozen=True, repr=False)
class Family(Readable):
    """One architecture. A path is keys of the config joined by dots; a key stands in the text section."""

    model_type: str
    architectures: tuple[str, ...]  # the classes that config.json may name, the one with a head for text first
    layouts: tuple[Layout, ...]  # a checkpoint has one of them
    module: str  # path of the list of decoder layers in memory
    images: ImageTokens
    text: tuple[str, ...] = ("text_config",)  # paths of the decoder's section; the first that is there counts, "" is a flat config
    depth: str = "num_hidden_layers"  # key of L
    width: str = "hidden_size"  # key of d
    per_layer: tuple[str, ...] = ()  # keys of lists with one entry a layer, cut with the layers
    layer_indices: tuple[str, ...] = ()  # keys of lists of layer numbers, renumbered with the layers
    other_lists: tuple[str, ...] = ()  # paths in the text section of lists that may have L entries and are not about layers
    required: Mapping[str, int] = field(default_factory=dict)  # keys that must have this value, where they are there at all
    tied: str = "tie_word_embeddings"  # path of the switch that ties the head to the embedding
    vision_depth: str | None = None  # path of the number of the vision tower's layers
    deepstack: str | None = None  # path of the vision taps, one for each first decoder layer whose output they are added to
    base_architectures: tuple[str, ...] = ()  # the same without a head, which `AutoModel` loads
    ignored: tuple[str, ...] = ()  # beginnings of names of tensors that no module of these classes has, and that are carried along
    auto_class: str = AUTO_CLASS
    causal_prefix: bool = True  # a prompt's first tokens, images too, do not depend on what follows: they can be shared
    projections: tuple[str, str] = ("self_attn.o_proj", "mlp.down_proj")  # the modules by which a layer adds to its input

    def text_path(self, config: Mapping[str, Any]) -> str:
        """Where the decoder's section stands in a config; the first place of all where it is missing."""
        return next((path for path in self.text if isinstance(find(config, path), Mapping)), self.text[0])

    def depth_path(self, config: Mapping[str, Any]) -> str:
        """Where the number of layers stands in a config."""
        return joined(self.text_path(config), self.depth)

    def split(self, name: str) -> tuple[int, str] | None:
        """A decoder tensor's layer number and the rest of its name on disk (14, "mlp.up_proj.weight"), None for any other tensor."""
        return next((place for layout in self.layouts if (place := numbered(name, layout.layers))), None)

    def renumbered(self, name: str, layer: int) -> str:
        """The name on disk that a decoder tensor has as part of another layer."""
        prefix = next(layout.layers for layout in self.layouts if numbered(name, layout.layers))
        return f"{prefix}{layer}.{name[len(prefix) :].partition('.')[2]}"


def find(config: Mapping[str, Any], path: str) -> Any:
    """The value at a path, None where a key is absent or its parent is no object; "" is the config itself."""
    value: Any = config
    for key in path.split(".") if path else ():
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def joined(path: str, key: str) -> str:
    """The path of a key below another."""
    return f"{path}.{key}" if path else key


def numbered(name: str, prefix: str) -> tuple[int, str] | None:
    """The number that follows a prefix in a name, and the rest behind the next dot; None if there is none."""
    if not name.startswith(prefix):
        return None
    number, _, rest = name[len(prefix) :].partition(".")
    # "07" and "²" are digits to int() or isdigit(), but transformers never writes them.
    return (int(number), rest) if rest and number.isdecimal() and number == str(int(number[:9])) else None
