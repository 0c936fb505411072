"""Whether an answer is correct: three scorers, each a pure function of the model's text and the accepted answers.

To all of them a thought that does not end is no answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from types import MappingProxyType

from hf_layerprune.errors import UsageError
from hf_layerprune.evaluation.mentions import place_of
from hf_layerprune.evaluation.multiple_choice import chosen
from hf_layerprune.evaluation.normalise import normalised

SCORERS_VERSION = 2  # raise it where a scorer decides otherwise than before: finished evaluations are of another key then
TOLERANCE = Decimal("0.05")  # ChartQA's
THOUGHT_TAG = re.compile(r"[<\u25c1](/?)think(?:ing)?[>\u25b7]")  # as Qwen3-VL and others write it, or as Kimi-VL does

Scorer = Callable[[str, Sequence[str], Sequence[str]], float]  # of answer, accepted answers and choices: a score in [0, 1]


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
    """The letter of the accepted choice, or its text; what a text chooses is told by `multiple_choice.chosen`.

    accepted: letters or texts of choices.
    """
    answer = final_answer(text)
    found = None if answer is None else chosen(answer, choices)
    return found is not None and any(found == place_of(one, choices) for one in accepted)


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
    return abs(given - wanted) <= TOLERANCE * abs(wanted)


def _number(text: str) -> Decimal | None:
    """Exactly, so that 16.8 is within 5 % of 16."""
    try:
        if "_" in text or not math.isfinite(float(text.rstrip("%"))):  # Python alone reads 1_000 as a number
            return None
        return Decimal(text.rstrip("%")) / 100 if text.endswith("%") else Decimal(text)
    except (ValueError, InvalidOperation):
        return None
