"""Which of several choices an answer chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hf_layerprune.evaluation.mentions import NEAR, VERB, Mention, cleared, mentions, place_of
from hf_layerprune.evaluation.normalise import normalised

_FILLER = (
    r"(?:\s|[:=>-]|(?:is|be|that|it|it's|the|an?|option|choice|letter|answer|number|most|likely|probably|definitely|clearly|certainly|simply"
    r"|actually|therefore|thus|indeed|would|must|should|has to|to)\b)*[(\[<]?\s*$"
)
_STATED = re.compile(
    r"\b(?:(?:answer|ans|option|choice|solution)\b[^.;:!?\n]{0,40}?(?:\b(?:is|are|be|was)\b(?!n't|\s+not\b)|[:=]|->)|(?:answer|ans)\b\.?"
    r"|(?:final|correct)\s*:|(?:choose|chose|pick|picked|select|selected|go(?:ing)? with|opt for|settle on|conclude|leaves|leaving)\b"
    rf"|(?:i|i'd|would|will|i'll) (?:say|guess)\b){_FILLER}",
    re.IGNORECASE,
)
_CORRECTED = re.compile(rf"\b(?:actually|correction|i mean|wait|no|instead|but (?:it|that|i think))\b[,:]?{_FILLER}", re.IGNORECASE)
_CONCLUDED = re.compile(rf"\b(?:so|hence|therefore|thus)\b[,:]?{_FILLER}", re.IGNORECASE)
_CONFIRMED = re.compile(
    rf"\s*(?:{VERB}\s*(?:be\s+)?(?:\w+ly\s+)?(?:the\s+|my\s+)?(?:correct|right(?! of| side|-)|true|best|answer|most \w+)|[:-]\s*correct)\b",
    re.IGNORECASE,
)
_LETTER_LEADS = re.compile(r"\s*(?:$|[.):,;!?\]\n(-]|(?:because|since|as|due|for|given|based)\b)", re.IGNORECASE)
_TEXT_LEADS = re.compile(r"\s*(?:$|[.,;:!?\n]|(?:because|since|as)\b)", re.IGNORECASE)
# What between two options leaves open which one is meant, or puts a second one beside the first.
_HEDGE = re.compile(
    r"(?:(?:or|and|maybe|perhaps|possibly|probably|also|even|either|both|but|else|otherwise|could|might|may|be|it|it's|is|as|well|with|vs"
    r"|versus|i|guess|think|the|an?|one|of|then|again|alternatively|not sure|option|choice|answer)\b|[\s,/&|;.:?()-])*",
    re.IGNORECASE,
)
_PAIR = re.compile(r"\s*(?:,|/|&|,?\s*(?:and|or|and/or))\s*(?:(?:an?|the|option|choice)\s+)?[(\[]?", re.IGNORECASE)
_BREAK = re.compile(r"[\s.,;:)\]-]*[.,;:\n][\s.,;:)\]-]*")
_ALONE = re.compile(r"(?:(?:option|choice|letter)\s+)?[(\[<]?\s*([A-Za-z])\s*[)\]>]?\s*[.):,;!?]*", re.IGNORECASE)


def chosen(text: str, choices: Sequence[str]) -> int | None:
    """The number of the choice that a text chooses, or None. The first rule that applies decides:

    1. the whole text, or its last line, is a choice's text or its letter, as in `b`, `B.` or `(B)`;
    2. the last statement of an answer, as in `answer is B`, `Answer: a dog`, `\\boxed{B}`, `I choose B`, `B is correct`;
    3. it begins with a letter and a mark or a reason, as in `B. a dog`, `B) a dog`, `B, because`, or with a choice's text;
    4. a single letter is named, and no other choice's text alone; 5. a single choice's text is.

    The article A and the pronoun I are no letters of choices, a negated choice is not named, and where the place that decides names
    two ("A or B"), none is chosen.
    """
    if (whole := _whole(text, choices)) is not None:
        return whole
    found = mentions(text := cleared(text), choices)
    said = [one for place, one in enumerate(found) if not one.negated and _is_stated(text, found, place)]
    if said:
        return _unless_hedged(text, found, said[-1])
    if found and not found[0].negated and _leads(text, found[0]):
        return _unless_hedged(text, found, found[0])
    letters, texts = ({one.option for one in found if one.letter is kind and not one.negated} for kind in (True, False))
    if letters and len(texts) == 1 and texts != letters:
        return None
    decisive = letters or texts
    return decisive.pop() if len(decisive) == 1 else None


def _whole(text: str, choices: Sequence[str]) -> int | None:
    """Where a text, or its last line alone, is nothing but a choice."""
    if normalised(text) in (texts := [normalised(one) for one in choices]):
        return texts.index(normalised(text))
    plain_texts = {normalised(cleared(one)): option for option, one in reversed(list(enumerate(choices)))}

    def alone(line: str) -> int | None:
        letter = _ALONE.fullmatch(line.strip())
        return plain_texts.get(normalised(line), place_of(letter[1], choices) if letter else None)

    lines = [alone(line) for line in cleared(text).splitlines()]
    return lines[-1] if lines and len({*lines} - {None}) == 1 else None


def _is_stated(text: str, found: Sequence[Mention], place: int) -> bool:
    mention = found[place]
    start = max([mention.start - 100, 0, *(one.end for one in found[max(0, place - NEAR) : place] if one.end <= mention.start)])
    before = text[start : mention.start]
    if _STATED.search(before) or _CORRECTED.search(before) or (mention.letter and _CONCLUDED.search(before)):
        return True
    return mention.letter and _CONFIRMED.match(text[mention.end : mention.end + 60]) is not None


def _leads(text: str, mention: Mention) -> bool:
    pattern = _LETTER_LEADS if mention.letter else _TEXT_LEADS
    marked = mention.letter and text[mention.end - 1] in ")]>"
    return mention.start == 0 and (marked or pattern.match(text[mention.end : mention.end + 40]) is not None)


def _unless_hedged(text: str, found: Sequence[Mention], mention: Mention) -> int | None:
    """The option of a mention, None where another one stands beside it."""
    end = mention.end
    for other in found:
        if other.negated and other.start >= end:
            break
        if other.option == mention.option or other.negated:
            end = max(end, other.end) if other.start >= mention.start and not other.negated else end
        elif other.end <= mention.start:
            if _PAIR.fullmatch(text[other.end : mention.start]):
                return None
        elif other.start >= end:
            between = text[end : other.start]
            new_clause = _BREAK.fullmatch(between) and re.match(rf"\s*{VERB}", text[other.end : other.end + 40])
            return None if len(between) < 80 and _HEDGE.fullmatch(between) and not new_clause else mention.option
    return mention.option
