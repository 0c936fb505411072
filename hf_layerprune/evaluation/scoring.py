"""Whether an answer is correct: three scorers, each a pure function of the model's text and the accepted answers.

To all of them a thought that does not end is no answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase
from types import MappingProxyType

from hf_layerprune.errors import UsageError
from hf_layerprune.evaluation.normalise import normalised

TOLERANCE = 0.05  # ChartQA's
THOUGHT_TAG = re.compile(r"[<\u25c1](/?)think(?:ing)?[>\u25b7]")  # as Qwen3-VL and others write it, or as Kimi-VL does

Scorer = Callable[[str, Sequence[str], Sequence[str]], bool]


def final_answer(text: str) -> str | None:
    """What follows the last `</think>`, where a reasoning model ends its thoughts; the whole text of any other model.

    None for a thought that does not end, so that there is no answer.
    """
    *_, last = [None, *THOUGHT_TAG.finditer(text)]
    if last is None:
        return text.strip()
    return text[last.end() :].strip() if last[1] else None


def exact(text: str, accepted: Sequence[str], choices: Sequence[str] = ()) -> bool:
    """Equal to one of the accepted answers once both are `normalised`."""
    answer = _comparable(text)
    return answer is not None and any(answer == normalised(one) for one in accepted)


def relaxed(text: str, accepted: Sequence[str], choices: Sequence[str] = ()) -> bool:
    """ChartQA's relaxed correctness (Methani et al. 2020; Masry et al. 2022): a number within 5 % of the target, else exact.

    As in lmms-eval `12%` is 0.12, a target of 0 has no 5 % and is compared as text, and a number with words around it is text.
    """
    answer = _comparable(text)
    return answer is not None and any(_near(answer, normalised(one)) for one in accepted)


def choice(text: str, accepted: Sequence[str], choices: Sequence[str]) -> bool:
    """The letter of the accepted choice, or its text; what a text chooses is told by `chosen`.

    accepted: letters or texts of choices.
    """
    answer = final_answer(text)
    found = None if answer is None else chosen(answer, choices)
    return found is not None and any(found == place_of(one, choices) for one in accepted)


def chosen(text: str, choices: Sequence[str]) -> int | None:
    """The number of the choice that a text names, or None. The first rule that finds one decides:

    1. the whole text is a choice's text; 2. it is a letter, as in `b`, `B.` or `(B)`; 3. it begins with a capital letter and a mark,
    as in `B. the cat` or `(B) the cat`; 4. it says `answer is B`, the last time that it does; 5. just one choice's text stands in it.
    """
    plain, letters = normalised(text), ascii_uppercase[: len(choices)]
    if plain in (texts := [normalised(one) for one in choices]):
        return texts.index(plain)
    if not letters:
        return None
    if alone := re.fullmatch(rf"\(?([{letters}])[).:]?", text.strip(), re.IGNORECASE):
        return letters.index(alone[1].upper())
    if first := re.match(rf"\(?([{letters}])[).:](?!\w)|\(([{letters}])\)", text.strip()):
        return letters.index(first[1] or first[2])
    if said := re.findall(rf"\b[Aa]nswer(?: is|:)?:?\s*\**\(?([{letters}])\b(?!')", text):
        return letters.index(said[-1])
    held = [number for number, one in enumerate(texts) if one and re.search(rf"(?<!\w){re.escape(one)}(?!\w)", plain)]
    return held[0] if len(held) == 1 else None


def place_of(answer: str, choices: Sequence[str]) -> int | None:
    """The number of a choice that is given by its text or, if it is no choice's text, by its letter."""
    texts = [normalised(one) for one in choices]
    if normalised(answer) in texts:
        return texts.index(normalised(answer))
    letter = answer.strip().upper()
    return ascii_uppercase.index(letter) if len(letter) == 1 and letter in ascii_uppercase[: len(choices)] else None


SCORERS: Mapping[str, Scorer] = MappingProxyType({"exact": exact, "relaxed": relaxed, "choice": choice})


def find_scorer(name: str) -> Scorer:
    """UsageError naming the known ones for another name."""
    if name not in SCORERS:
        raise UsageError(f"no scorer {name!r}. Known: {', '.join(SCORERS)}.")
    return SCORERS[name]


def _comparable(text: str) -> str | None:
    answer = final_answer(text)
    return None if answer is None else normalised(answer)


def _near(answer: str, target: str) -> bool:
    given, wanted = _number(answer), _number(target)
    if given is None or not wanted:
        return answer == target
    return abs(given - wanted) / abs(wanted) <= TOLERANCE


def _number(text: str) -> float | None:
    if "_" in text:  # Python alone reads 1_000 as a number
        return None
    try:
        value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
