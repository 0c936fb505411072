"""Draw glyphs and shapes on a grid of four by four cells, with numpy alone: the same bytes on every machine, at any size.

One cell of the 64-pixel image is one image token of mini (two by two patches of eight pixels).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

CELLS = 4

_GLYPHS = {  # 5 x 7 bitmaps, a row a number, the leftmost pixel the highest bit
    "0": (14, 17, 19, 21, 25, 17, 14),
    "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2),
    "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14),
    "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
    "+": (0, 4, 4, 31, 4, 4, 0),
    "-": (0, 0, 0, 31, 0, 0, 0),
    "×": (0, 17, 10, 4, 10, 17, 0),
    "=": (0, 0, 31, 0, 31, 0, 0),
    "?": (14, 17, 1, 2, 4, 0, 4),
    "■": (31, 31, 31, 31, 31, 31, 31),
}
GLYPHS = tuple(_GLYPHS)
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")

Color = tuple[int, int, int]
Mask = Bool[np.ndarray, "cell cell"]


class Canvas:
    """A square RGB image of `size` pixels, a multiple of four, filled with one colour."""

    def __init__(self, size: int, background: Color) -> None:
        if size < CELLS or size % CELLS:
            raise ValueError(f"an image of {size} pixels does not divide into {CELLS} cells")
        self.cell = size // CELLS
        self.pixels: UInt8[np.ndarray, "size size 3"] = np.empty((size, size, 3), np.uint8)
        self.pixels[:] = background

    def glyph(self, row: int, column: int, name: str, color: Color, shift: tuple[float, float]) -> None:
        """Draw a character; `shift` moves it down and right by that fraction of its free margin, each in [-1, 1]."""
        self._paint(row, column, _glyph(name, self.cell), color, (0.12 * shift[0], 0.2 * shift[1]))

    def shape(self, row: int, column: int, name: str, radius: float, color: Color, shift: tuple[float, float]) -> None:
        """Draw a filled shape of a radius in cells (0.5 fills the cell); `shift` as in `glyph`."""
        free = 0.5 - radius
        self._paint(row, column, _shape(name, self.cell, radius), color, (free * shift[0], free * shift[1]))

    def image(self) -> Image.Image:
        return Image.fromarray(self.pixels)

    def _paint(self, row: int, column: int, mask: Mask, color: Color, move: tuple[float, float]) -> None:
        down, right = (round(part * self.cell) for part in move)
        cell = self.pixels[row * self.cell :, column * self.cell :][: self.cell, : self.cell]
        cell[np.roll(mask, (down, right), (0, 1))] = color


@lru_cache(maxsize=256)
def _glyph(name: str, cell: int) -> Mask:
    """The bitmap scaled to three quarters of the cell's height by nearest neighbour, centred."""
    bits = np.array([[row >> (4 - x) & 1 for x in range(5)] for row in _GLYPHS[name]], bool)
    height, width = round(cell * 0.76), round(cell * 0.56)
    rows, columns = np.arange(height) * 7 // height, np.arange(width) * 5 // width
    mask = np.zeros((cell, cell), bool)
    top, left = (cell - height) // 2, (cell - width) // 2
    mask[top : top + height, left : left + width] = bits[rows][:, columns]
    return mask


@lru_cache(maxsize=256)
def _shape(name: str, cell: int, radius: float) -> Mask:
    """The pixels whose centre lies in the shape, in coordinates where the shape spans [-1, 1]."""
    axis = ((np.arange(cell) + 0.5) / cell - 0.5) / radius
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside: Mask = {
        "circle": x**2 + y**2 <= 1,
        "square": np.maximum(abs(x), abs(y)) <= 0.9,
        "triangle": (y <= 0.9) & (abs(x) <= (y + 1) / 1.9),
        "diamond": abs(x) + abs(y) <= 1,
        "cross": (np.maximum(abs(x), abs(y)) <= 1) & (np.minimum(abs(x), abs(y)) <= 0.33),
        "ring": (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.3),
    }[name]
    return inside
