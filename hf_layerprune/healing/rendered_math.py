"""Math problems as images: our stand-in for Snapask, the domain-aware paper's photographs of homework, which are not public.

The problems of AI-MO/NuminaMath-CoT (fields `problem` and `solution`) are laid out as plain text, LaTeX as it is written.
This is ours, not the paper's; typeset pages are easier to read than photographs.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from hf_layerprune.data.records import LeftOut, Record, RecordTable, UnusableRecord
from hf_layerprune.errors import DataError

WIDTH, MARGIN, LETTER = 672, 24, 22  # pixels; 672 is a multiple of the patches of Qwen2-VL to Qwen3-VL
LEADING = 32
MAX_LINES = 60
QUESTION = "Solve the problem in the image. Explain each step and give the final answer."


@dataclass(frozen=True)
class RenderedMath:
    """Takes records of a problem and its solution as an image and its answer. exclude: what `evaluation_items` returned."""

    exclude: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def digest(self) -> str:
        """sha256 of what decides the images and what is left out."""
        layout = f"1 {WIDTH} {MARGIN} {LETTER} {LEADING} {MAX_LINES} {QUESTION}"
        return hashlib.sha256("\n".join([layout, *sorted(self.exclude)]).encode()).hexdigest()

    def rendered(self, record: Record) -> Record:
        """A problem in text alone as question, image and answer; any other record as it is.

        LeftOut for an item of an evaluation, UnusableRecord for a problem that is too long or has letters that cannot be drawn.
        """
        problem, solution = record.fields.get("problem"), record.fields.get("solution")
        if not (isinstance(problem, str) and isinstance(solution, str)) or record.fields.get("image") or record.fields.get("images"):
            return record
        if text_key(problem) in self.exclude:
            raise LeftOut(f"{record.label}: an item of an evaluation")
        return Record(record.label, {"image": page(problem, record.label), "question": QUESTION, "answer": solution.strip()}, None)


def evaluation_items(tables: Iterable[RecordTable]) -> frozenset[str]:
    """The keys of the problems and questions of evaluations, for `RenderedMath.exclude`.

    Raises DataError for a record that holds neither: what was to be left out must not be trained on unnoticed.
    """
    keys: set[str] = set()
    for table in tables:
        for index in range(len(table)):
            try:
                record = table.record(index)
            except UnusableRecord as bad:
                raise DataError(f"{bad}; items of evaluations are excluded all or none. Repair or remove it.") from bad
            texts = [value for name in ("problem", "question") if isinstance(value := record.fields.get(name), str)]
            if not texts:
                raise DataError(f"{record.label}: no field problem or question, so nothing that could be excluded. Repair or remove it.")
            keys.update(map(text_key, texts))
    return frozenset(keys)


def text_key(text: str) -> str:
    """sha256 of a text's letters and digits alone, whatever its spacing, case, punctuation and LaTeX marks."""
    letters = "".join(letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter.isalnum())
    return hashlib.sha256(letters.encode("utf-8", "surrogatepass")).hexdigest()


def page(text: str, label: str = "the problem") -> Image.Image:
    """A text as black lines on a white page of fixed width, as high as it needs; the same pixels for the same Pillow."""
    lines = [line for paragraph in text.strip().splitlines() for line in wrapped(paragraph)]
    if len(lines) > MAX_LINES:
        raise UnusableRecord(f"{label}: {len(lines)} lines, more than the {MAX_LINES} that are rendered")
    if unknown := next((letter for line in lines for letter in line if not _drawable(letter)), None):
        raise UnusableRecord(f"{label}: the letter {unknown!r} cannot be rendered")
    image = Image.new("RGB", (WIDTH, 2 * MARGIN + LEADING * len(lines)), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + LEADING * number), line, fill="black", font=_font())
    return image


def wrapped(paragraph: str) -> Iterator[str]:
    """A paragraph in lines that fit; a word that is wider than a line is split."""
    line = ""
    for word in paragraph.split():
        if line and not _fits(f"{line} {word}"):
            yield line
            line = ""
        line = f"{line} {word}".lstrip()
        while not _fits(line):
            end = next(end for end in range(len(line) - 1, 0, -1) if _fits(line[:end]) or end == 1)
            yield line[:end]
            line = line[end:]
    if line:
        yield line


def _fits(text: str) -> bool:
    return bool(_font().getlength(text) <= WIDTH - 2 * MARGIN)


@lru_cache(maxsize=4096)
def _drawable(letter: str) -> bool:
    """Whether the font has the letter: what it lacks it draws as it draws an unassigned one."""
    drawn, unassigned = (bytes(_font().getmask(one)) for one in (letter, "\uffff"))
    return letter.isspace() or (letter.isprintable() and drawn != unassigned)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(LETTER)  # part of Pillow: the same on every machine
