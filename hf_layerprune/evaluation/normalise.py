"""Different spellings of one answer become the same text."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

DASHES = "\u2010\u2011\u2012\u2013\u2212\u2796"  # hyphens, figure dash, en dash, the minus signs
_LONG_SIGN = re.compile(r"(?<!\w)[\u2014\u2015](?=\.?\d)")  # an em dash for a minus


def plain(text: str) -> str:
    """The text in ASCII digits, signs and forms of usual width, its case and white space as they are.

    Unicode compatibility forms (NFKC) become plain, but never superscripts, subscripts or numbers in circles: 10² is not 102.
    A fraction such as ½ is written 1/2, a hyphen, en dash or Unicode minus as -.
    """
    ascii_alone = text if text.isascii() else unicodedata.normalize("NFC", "".join(map(_plain_letter, text)))
    return _LONG_SIGN.sub("-", ascii_alone)


def normalised(text: str) -> str:
    """Exact match of Hugging Face's `evaluate` and of lmms-eval with `ignore_case`, of the `plain` text with runs of white space made
    one. Of `ignore_punctuation` only a full stop at the end: a minus or a decimal point is part of a number."""
    words = " ".join(plain(text).casefold().split())
    return words[:-1].rstrip() if words.endswith((".", "\u3002")) else words


@lru_cache(maxsize=4096)
def _plain_letter(letter: str) -> str:
    if letter in DASHES:
        return "-"
    if letter == "\u2044":  # fraction slash
        return "/"
    if letter.isdecimal():
        return str(unicodedata.decimal(letter))
    tag, *codes = unicodedata.decomposition(letter).split() or [""]
    if tag == "<fraction>":
        return " " + "".join(_plain_letter(chr(int(code, 16))) for code in codes)  # 1½ is 1 1/2
    if not tag.startswith("<") or tag in ("<super>", "<sub>") or unicodedata.category(letter) == "No":
        return letter
    return "".join(_plain_letter(chr(int(code, 16))) for code in codes)
