"""Untrusted text in a card: the name of a model, file, task or dataset must stay text, in YAML, Markdown and HTML."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata

MAX_TEXT = 200  # characters of a name that a card shows
MAX_ARGUMENT = 1000  # characters of an argument of a command, which is of no use shortened
PIPE = "<code>&#124;</code>"  # a pipe ends a table's cell inside a code span too, and a backslash before it is read in several ways


class Markdown(str):
    """Text that is Markdown of ours, or was made harmless: the template lets it through as it is, and everything else as code."""


class NotShown(ValueError):
    """A text that a command needs and a card cannot show as it is."""


def plain(text: object, limit: int = MAX_TEXT) -> str:
    """Untrusted text on one line: control characters, direction marks and the like replaced, shortened in the middle if longer.

    The ends of HTML comments are taken apart, so that no text passes for one of our markers.
    """
    whole = str(text)
    if len(whole) > limit:
        whole = f"{whole[: limit - 41]}…{whole[-40:]}"
    visible = "".join(letter if _visible(letter) else "\N{REPLACEMENT CHARACTER}" for letter in whole)
    return visible.replace("<!-", "<! -").replace("->", "- >")


def code(text: object) -> Markdown:
    """A code span: nothing in it is markup or a link, in a table neither."""
    spans = []
    for piece in re.split(r"(\|)", plain(text) or " "):
        fence = "`" * (1 + max((len(run) for run in re.findall("`+", piece)), default=0))  # longer than any run of backticks within
        pad = " " if piece and (piece[0] in "` " or piece[-1] in "` ") else ""
        spans.append(PIPE if piece == "|" else piece and f"{fence}{pad}{piece}{pad}{fence}")
    return Markdown("".join(spans))


def name(text: object) -> Markdown:
    """As plain words where that is safe, as for most names of models; else as code."""
    harmless = re.fullmatch(r"(?!.*www\.)[A-Za-z0-9][A-Za-z0-9 /.+,;()'-]*", plain(text))
    return Markdown(plain(text)) if harmless else code(text)


def argument(text: object) -> Markdown:
    """As one types it into a shell, within a fenced block: a shell reads the very text. NotShown if it is long or not printable."""
    whole = str(text)
    if len(whole) > MAX_ARGUMENT or not all(map(_visible, whole)):
        raise NotShown("an argument of it is too long, or has characters that cannot be shown")
    # To a shell a word with a piece of nothing in it is the same word; to a reader of HTML it is no comment any more.
    return Markdown(shlex.quote(whole).replace("<!", "<''!").replace("->", "-''>"))


def place(name: str) -> Markdown:
    """A folder of this name as a command takes it, which no option is mistaken for."""
    return argument(f"./{name}")


def literal(text: str) -> Markdown:
    """A text as Python reads it, on one line of a fenced block; one that nobody would type is shortened."""
    shown = json.dumps(text if len(text) <= MAX_ARGUMENT else plain(text), ensure_ascii=False)
    return Markdown("".join(letter if _visible(letter) and letter not in "<>" else f"\\U{ord(letter):08x}" for letter in shown))


def for_output(value: object) -> object:
    """What the template writes for a value: `Markdown` and numbers as they are, None as nothing, any other text as code."""
    if value is None:
        return ""
    return value if isinstance(value, (Markdown, int, float)) else code(value)


def _visible(letter: str) -> bool:
    """No control, format (direction marks), surrogate, private or unassigned character, and no line or paragraph separator."""
    return unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
