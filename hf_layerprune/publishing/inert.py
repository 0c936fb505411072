"""Strangers' text in a card: what a model, file, task or data source is called must stay text, in YAML, Markdown and HTML."""

from __future__ import annotations

import re
import shlex
import unicodedata

MAX_TEXT = 200  # characters of a name that a card shows
PIPE = "<code>&#124;</code>"


class Markdown(str):
    """Text that is Markdown of ours, or was made harmless: the template lets it through as it is, and everything else as code."""


def plain(text: object, limit: int = MAX_TEXT) -> str:
    """A stranger's text on one line: control characters, direction marks and the like replaced, cut in the middle if longer.

    The ends of HTML comments are taken apart, so that no text passes for one of our markers.
    """
    whole = str(text)
    if len(whole) > limit:
        whole = f"{whole[: limit - 41]}…{whole[-40:]}"
    visible = "".join(letter if _visible(letter) else "\N{REPLACEMENT CHARACTER}" for letter in whole)
    return visible.replace("<!-", "<! -").replace("->", "- >")


def code(text: object) -> Markdown:
    """A code span: nothing in it is markup or a link, in a table neither.

    A pipe ends a cell of a table inside a code span too, and no backslash before it is read alike by all: it gets an element of its
    own, as an entity, which neither table nor text can take for a pipe that means something.
    """
    pieces = re.split(r"(\|)", plain(text) or " ")
    return Markdown("".join(PIPE if piece == "|" else _span(piece) for piece in pieces if piece))


def _span(shown: str) -> str:
    """A code span whose fence is longer than any run of backticks within."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def name(text: object) -> Markdown:
    """As plain words where that is safe, as for most names of models; else as code."""
    shown = plain(text)
    harmless = re.fullmatch(r"(?!.*www\.)[A-Za-z0-9][A-Za-z0-9 /.+,;()'-]*", shown)
    return Markdown(shown) if harmless else code(text)


def argument(text: object) -> Markdown:
    """As one types it into a shell, within a fenced block."""
    quoted = shlex.quote(plain(text))
    return Markdown(f"./{quoted}" if quoted.startswith("-") else quoted)


def for_output(value: object) -> object:
    """What the template writes for a value: `Markdown` and numbers as they are, None as nothing, any other text as code."""
    if value is None:
        return ""
    return value if isinstance(value, (Markdown, int, float)) else code(value)


def _visible(letter: str) -> bool:
    """No control, format (direction marks), surrogate, private or unassigned character, and no line or paragraph separator."""
    return unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
