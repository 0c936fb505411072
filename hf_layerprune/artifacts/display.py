"""How values show themselves: a repr of one short line, a few lines for `print`, and what notebooks draw.

Tables and maps of a notebook are HTML that needs no style sheet, takes the page's own colour of text, and escapes every text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from html import escape
from reprlib import Repr

REPR_LIMIT = 500  # characters
COLORS = {"removed": "#d62728", "kept": "#7a8793", "protected": "#a9b4bf"}  # those of figures that show on light and dark pages
HEIGHT, BAR, PITCH = 56, 12, 16  # of the map, in units of its own: the highest bar, the width of one, and from one to the next


class Readable:
    """A dataclass (made with `repr=False`) whose repr is one line of at most 500 characters, whatever it holds.

    Where it says more in `__str__`, `print` and notebooks show that.
    """

    def __repr__(self) -> str:
        short = Repr()
        short.maxlevel, short.maxstring, short.maxother, short.maxdict, short.maxtuple = 2, 40, 60, 2, 4
        return one_line(self, *(f"{field.name}={short.repr(getattr(self, field.name))}" for field in fields(self)))  # type: ignore[arg-type]

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def one_line(value: object, *parts: str) -> str:
    """A repr that names the class and says the parts, cut to 500 characters."""
    text = " ".join(f"{type(value).__name__}({', '.join(parts)})".split())
    return text if len(text) <= REPR_LIMIT else f"{text[: REPR_LIMIT - 2]}…)"


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str] = ()) -> str:
    """A table with the notes below it. Rows as long as the head; the first column is a row's name."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(
        f'<tr><th style="text-align: left">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table><pre>{_lines(notes)}</pre>"


def html_map(fates: Sequence[str], scores: Sequence[float | None], heights: Sequence[int | None], notes: Sequence[str]) -> str:
    """The layer map as a drawing: a bar for every layer, with a cross where it is removed, and what a layer is on hovering.

    fates: what becomes of each layer, a key of COLORS; heights: its bar in eighths less one, None for a low one; notes: lines below,
    the first of which also tells those who cannot see the drawing what it shows.
    """
    base, width = HEIGHT + 16, max(PITCH * len(fates), 256)
    layers = "".join(_column(*layer, base) for layer in zip(range(len(fates)), fates, scores, heights, strict=True))
    legend = "&#8195;".join(f'<tspan fill="{color}">■</tspan> {name}' for name, color in COLORS.items())
    legend += "&#8195;taller: more redundant" if any(height is not None for height in heights) else ""
    return (
        f'<svg role="img" aria-label="{escape(notes[0])}" viewBox="0 0 {width} {base + 32}" '
        f'style="width: {width * 1.4:.0f}px; max-width: 100%" font-family="sans-serif" font-size="8" fill="currentColor">'
        f'{layers}<text x="0" y="{base + 28}">{legend}</text></svg><pre>{_lines(notes)}</pre>'
    )


def by_reason(reasons: Sequence[str]) -> list[str]:
    """Reasons, each "record: what is wrong", in lines that name what is wrong once, with how many records have it and the first of them."""
    labels: dict[str, list[str]] = {}
    for label, _, what in (reason.partition(": ") for reason in reasons):
        labels.setdefault(what, []).append(label)
    return [
        f"{found[0]}: {what}" if len(found) == 1 else f"{len(found)} records: {what}; first {found[0]}" for what, found in labels.items()
    ]


def _column(layer: int, fate: str, score: float | None, height: int | None, base: int) -> str:
    said = f"layer {layer}: {fate}" + ("" if score is None else f", score {score:.6g}")
    tall = 4 if height is None else HEIGHT * (height + 1) // 8
    x, middle, color = PITCH * layer, PITCH * layer + BAR // 2, COLORS[fate]
    cross = f'<text x="{middle}" y="{base - tall - 3}" text-anchor="middle" font-size="10" fill="{color}">✕</text>'
    return (
        f'<g><title>{said}</title><rect x="{x}" y="{base - tall}" width="{BAR}" height="{tall}" fill="{color}"/>'
        f'{cross if fate == "removed" else ""}<text x="{middle}" y="{base + 11}" text-anchor="middle">{layer}</text></g>'
    )


def _lines(lines: Iterable[str]) -> str:
    return escape("\n".join(lines))
