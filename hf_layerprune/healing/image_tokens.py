"""How many tokens images take, and how far the largest must shrink for a sample to fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_layerprune.errors import ModelError

Size = tuple[int, int]  # height, width in pixels
_LIMITS = ("shortest_edge", "longest_edge")  # numbers of pixels, whatever the names say


class ImageTokens:
    """The token counts of an image processor that keeps an image's pixels between two limits, as those of Qwen-VL do."""

    def __init__(self, image_processor: Any) -> None:
        size: Any = getattr(image_processor, "size", None) or {}
        limits = [size.get(name) if hasattr(size, "get") else getattr(size, name, None) for name in _LIMITS]
        if not (all(limits) and hasattr(image_processor, "get_number_of_image_patches")):
            kind = type(image_processor).__name__
            raise ModelError(f"{kind} does not say how many tokens an image takes; healing knows the image processors of Qwen-VL.")
        self._processor: Any = image_processor
        self.least, self.most = int(limits[0] or 0), int(limits[1] or 0)

    def count(self, sizes: Sequence[Size], most: int | None = None) -> list[int]:
        """Tokens of each image, where none gets more than `most` pixels. ValueError for one that the processor refuses."""
        limits = {"min_pixels": self.least, "max_pixels": most or self.most}
        merged = self._processor.merge_size**2
        return [self._processor.get_number_of_image_patches(*size, limits) // merged for size in sizes]

    def fitting(self, sizes: Sequence[Size], room: int) -> int | None:
        """The largest limit of pixels per image with which all of them take at most `room` tokens: it shrinks the largest first,
        down to the processor's own minimum. None if even that does not do."""
        low, high = self.least, self.most + 1
        if sum(self.count(sizes, low)) > room:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if sum(self.count(sizes, middle)) <= room else (low, middle)
        return low

    def options(self, most: int) -> dict[str, Any]:
        """What to call the processor with so that no image gets more than `most` pixels."""
        return {"size": dict(zip(_LIMITS, (self.least, most)))}
