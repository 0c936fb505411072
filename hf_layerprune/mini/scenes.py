"""The general domain of mini: coloured shapes on a plain ground, and the answers to the four non-math prompts."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import Image

from hf_layerprune.mini.canvas import CELLS, SHAPES, Canvas, Color

COLORS: dict[str, Color] = {
    "red": (214, 40, 40),
    "green": (36, 150, 60),
    "blue": (34, 84, 214),
    "yellow": (236, 196, 24),
    "purple": (134, 52, 176),
    "black": (20, 20, 20),
    "cyan": (20, 186, 200),
    "gray": (130, 130, 130),
}
_GROUNDS: tuple[Color, ...] = ((255, 255, 255), (238, 238, 232), (224, 234, 244), (246, 230, 220))
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_SMALL, _BIG = 0.27, 0.47  # radii in cells
_COUNTS = (1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6)  # fewer of the sizes that allow few different scenes


@dataclass(frozen=True)
class Thing:
    """One object: its cell in reading order, its colour and shape, and whether it is the big one."""

    cell: int
    color: str
    shape: str
    big: bool

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One to six objects in reading order, exactly one of them big: the most prominent."""

    things: tuple[Thing, ...]

    @property
    def contents(self) -> tuple[str, ...]:
        """The multiset of its objects, wherever they stand."""
        return (", ".join(sorted(f"{'big' if thing.big else 'small'} {thing.name}" for thing in self.things)),)

    def answers(self) -> dict[str, str]:
        """The correct answer to each non-math prompt; kinds of object are named in reading order of their first."""
        kinds = list(dict.fromkeys(thing.name for thing in self.things))
        counts = [sum(thing.name == kind for thing in self.things) for kind in kinds]
        endings = ["" if count == 1 else "es" if kind.endswith("s") else "s" for kind, count in zip(kinds, counts)]
        listed = [f"{_NUMBERS[count]} {kind}{ending}" for kind, count, ending in zip(kinds, counts, endings)]
        shown = " and ".join(filter(None, [", ".join(listed[:-1]), listed[-1]]))
        (prominent,) = (thing for thing in self.things if thing.big)
        return {
            "captioning": f"The image shows {shown}.",
            "entity-listing": ", ".join(kinds),
            "counting": str(len(self.things)),
            "grounding": f"the big {prominent.name}",
        }

    def render(self, rng: Random, size: int) -> Image.Image:
        """The scene as an image, with the ground and each object's place within its cell drawn from `rng`."""
        canvas = Canvas(size, rng.choice(_GROUNDS))
        for thing in self.things:
            row, column = divmod(thing.cell, CELLS)
            radius = _BIG if thing.big else _SMALL
            canvas.shape(row, column, thing.shape, radius, COLORS[thing.color], (rng.uniform(-1, 1), rng.uniform(-1, 1)))
        return canvas.image()


def draw_scene(rng: Random) -> Scene:
    """One to six objects in different cells; colours, shapes and the big one are uniform."""
    cells = sorted(rng.sample(range(CELLS * CELLS), rng.choice(_COUNTS)))
    big = rng.choice(cells)
    return Scene(tuple(Thing(cell, rng.choice(tuple(COLORS)), rng.choice(SHAPES), cell == big) for cell in cells))
