"""Where a free text names one of several choices: by its letter or by its text, said or negated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from string import ascii_uppercase

from hf_layerprune.evaluation.normalise import normalised, plain

# What may follow a letter that is a subject, or the letter A where it is no article.
VERB = (
    r"(?:is|isn't|was|wasn't|would|wouldn't|should|could|cannot|can't|does|doesn't|did|didn't|has|hasn't|seems?|looks|appears|matches|fits"
    r"|shows|describes|represents|corresponds|makes)\b"
)
_REASON = r"(?:because|since|as|due|for|given|based|in|with|which|so|then|but|and|or|nor|not|than|rather|if|however|therefore|thus)\b"
_LABEL = re.compile(  # nouns that a letter belongs to
    r"\b(?:vitamins?|hepatitis|plan|points?|types?|fig(?:ure)?|teams?|groups?|class|grade|section|appendix|exhibit|model|player|person|box"
    r"|shape|line|angle|circle|panel|region|area|city|town|sample|beaker|container|bottle|pair|magnet|substance|curve|graph|bar|block|labell?ed"
    r"|marked|usb|series|room|gate|zone|lane|row|column|vertex|node|planet|tree|house|car)\s*$",
    re.IGNORECASE,
)
_WRONG = r"(?:wrong|incorrect|false|excluded|eliminated|ruled out|out\b|impossible|unlikely|invalid|implausible|inaccurate|irrelevant)"
_NEGATED_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|no|without|except|excluding|unlike|cannot|rather than|other than|instead of|anything but|all but"
    r"|rul(?:e|es|ed|ing) out|exclud(?:e|es|ed)|eliminat(?:e|es|ed|ing)|reject(?:s|ed|ing)?|discard(?:s|ed|ing)?|doubt"
    r"|(?:wrong|incorrect|false) (?:answer|option|choice)s? (?:is|are))|n't)"
    r"(?:\s+(?:be|been|an?|the|any|one|it|of|as|in|only|just|options?|choices?|answers?|letters?|either|really|necessarily|actually|likely"
    r"|shown?|see|seen|think|believe|say|contain|have|has|depict|is|it's|that|going with|going for|go with|choose|pick|select)\b)*\s*$",
    re.IGNORECASE,
)
_LETTER_NEGATED = re.compile(
    r"\s*(?:\([^()]{0,60}\)\s*)?(?:(?:is|are|was|were|does|do|did|could|would|should|seems?|looks?|appears?|has|have|must|may|might)"
    rf"\s*(?:\w+ly\s+)?(?:n't|not|never)\b|cannot\b|can't\b|won't\b|(?:is|are|was|were|seems?|looks?|would be|must be|[:.-])\s*"
    rf"(?:\w+ly |all |both )*{_WRONG})",
    re.IGNORECASE,
)
_TEXT_NEGATED = re.compile(
    r"\s*(?:is|are|was|were)\s*(?:(?:n't|not)\s+(?:\w+ly\s+)?(?:shown|visible|present|there\b|depicted|seen|correct|right|in\b|possible|the\b"
    rf"|an? (?:option|answer))|(?:\w+ly |all |both )*{_WRONG}|absent|missing)",
    re.IGNORECASE,
)
_AND = re.compile(r"\s*(?:,|/|&|,?\s*(?:and|or))\s*(?:(?:an?|the|option)\s+)?", re.IGNORECASE)
_NOR = re.compile(r"\s*(?:,?\s*n?or|/)\s*(?:(?:an?|the|option)\s+)?", re.IGNORECASE)
_MARKUP = (
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mathsf)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\f?boxed\s*\{([^{}]*)\}"), r"\nThe answer is: \1\n"),
    (re.compile(r"<answer>([^<]*)</answer>", re.IGNORECASE), r"\nThe answer is: \1\n"),
    (re.compile(r"<\|begin_of_box\|>([^<]*)<\|end_of_box\|>"), r"\nThe answer is: \1\n"),
    (re.compile(r"[*`$\"\u201c\u201d\u201e\u00ab\u00bb]|(?<!\w)_{1,3}|_{1,3}(?!\w)|\\[()\[\]]"), ""),
    (re.compile(r"[\u2018\u2019]"), "'"),
    (re.compile(r"(?<!\w)'|'(?!\w)"), ""),
    (re.compile(r"^[ \t]*(?:[#>\u2022-]+[ \t]+)+", re.MULTILINE), ""),
)
NEAR = 60  # mentions to either side of one that may overlap it
_BRACKETS = str.maketrans("\u3010\u3011\u300c\u300d\u3014\u3015{}", "()()()()")


@dataclass(frozen=True)
class Mention:
    """A place where a text names a choice. option: the choice's number; start, end: where; letter: by its letter, not by its text."""

    option: int
    start: int
    end: int
    letter: bool
    negated: bool = False


def cleared(text: str) -> str:
    """A text without Markdown, LaTeX and quotes; what stands in a box is said to be the answer."""
    clean = plain(text)
    for pattern, instead in _MARKUP:
        clean = pattern.sub(instead, clean)
    return clean.translate(_BRACKETS).strip()


def place_of(answer: str, choices: Sequence[str]) -> int | None:
    """The number of a choice that is given by its text or, if it is no choice's text, by its letter."""
    texts = [normalised(one) for one in choices]
    if normalised(answer) in texts:
        return texts.index(normalised(answer))
    letter = answer.strip().upper()
    return ascii_uppercase.index(letter) if len(letter) == 1 and letter in ascii_uppercase[: len(choices)] else None


def mentions(text: str, choices: Sequence[str]) -> list[Mention]:
    """All mentions of choices in a `cleared` text, in order; A and C are negated in "A or C is wrong", and in "neither A nor C"."""
    spelled = _by_text(text, choices)
    covered = {place for one in spelled for place in range(one.start, one.end)}
    found = [one for one in _by_letter(text, choices) if one.end - 1 not in covered] + spelled
    found = sorted(found, key=lambda one: (one.start, -one.end))
    after = [_negated_after(text, one) for one in found]
    before = [_NEGATED_BEFORE.search(text[max(0, one.start - 60) : one.start].rstrip("([< ")) is not None for one in found]
    between = [text[one.end : two.start] for one, two in pairwise(found)]
    for place in reversed(range(len(between))):
        after[place] |= after[place + 1] and _AND.fullmatch(between[place]) is not None
    for place, words in enumerate(between):
        before[place + 1] |= before[place] and _NOR.fullmatch(words) is not None
    return [replace(one, negated=before[place] or after[place]) for place, one in enumerate(found)]


def _negated_after(text: str, mention: Mention) -> bool:
    pattern = _LETTER_NEGATED if mention.letter else _TEXT_NEGATED
    return pattern.match(text[mention.end : mention.end + 120]) is not None


def _by_text(text: str, choices: Sequence[str]) -> list[Mention]:
    """Mentions by text. One within a longer one is none, unless that holds several, as `a cat and a dog` does."""
    found: list[Mention] = []
    for option, choice in enumerate(choices):
        words = cleared(choice).rstrip(".").split()
        if words and not (len(words) == 1 and len(words[0]) == 1 and words[0].isalpha()):
            first, last = words[0][0], words[-1][-1]
            before = r"(?<!\w)(?<!\d[.,:/])" + (r"(?<!-)" if first.isdigit() else "")
            after = r"(?!\w)(?![.,:/]\d)" + (r"(?!\s?%)" if last.isdigit() else "")
            pattern = before + r"\s+".join(map(re.escape, words)) + after
            found += [Mention(option, *one.span(), letter=False) for one in re.finditer(pattern, text, re.IGNORECASE)]
    found.sort(key=lambda one: one.start)
    return [one for place, one in enumerate(found) if not _is_part(one, found, place)]


def _is_part(mention: Mention, found: Sequence[Mention], place: int) -> bool:
    near = found[max(0, place - NEAR) : place + NEAR]
    wholes = [other for other in near if _within(mention, other)]
    return any(len({one.option for one in near if _within(one, whole)}) == 1 for whole in wholes)


def _within(one: Mention, other: Mention) -> bool:
    return other.start <= one.start and one.end <= other.end and one.end - one.start < other.end - other.start


def _by_letter(text: str, choices: Sequence[str]) -> Iterator[Mention]:
    known = ascii_uppercase[: len(choices)]
    if not known:
        return
    letter = f"([{known}{known.lower()}])"
    bracketed = rf"(?<![A-Za-z0-9])[(\[<]\s*{letter}\s*[)\]>]"
    named = rf"\b(?i:options?|choices?|letters?)\s+#?\(?{letter}\b\)?(?!['-]\w)(?:\s*(?:,|/|&|or|and)\s*\(?{letter}\b\)?(?!['-]\w))?"
    first = rf"\A{letter}[.):](?=\s)"
    said = rf"(?i:\bis|\bbe|[:=]|\banswer|\bchoose|\bpick|\bselect|\bwith)\s+{letter}(?=\s*(?:[.,;:!?)\n]|$))"
    bare = rf"(?<![A-Za-z0-9\u00c0-\u024f_'.-])([{known}])(?![A-Za-z0-9\u00c0-\u024f_+#]|['-]\w|\.\w)"
    places: dict[int, Mention] = {}
    for kind, pattern in (("bracketed", bracketed), ("named", named), ("first", first), ("said", said), ("bare", bare)):
        for match in re.finditer(pattern, text):
            for group in range(1, len(match.groups()) + 1):
                if match[group] is None or match.start(group) in places or not _is_letter(text, match, group, kind, known):
                    continue
                option = place_of(match[group], choices)
                start, end = match.span() if kind == "bracketed" else match.span(group)
                if kind == "named" and group == 1:
                    start = match.start()
                if option is not None:
                    places[match.start(group)] = Mention(option, start, end + (text[end : end + 1] == ")"), letter=True)
    yield from places.values()


def _is_letter(text: str, match: re.Match[str], group: int, kind: str, known: str) -> bool:
    """Whether a letter that stands in a text is one of an option: no article, pronoun, abbreviation or label of something."""
    letter, start, rest = match[group], match.start(group), text[match.end(group) : match.end(group) + 40]
    if kind in ("bracketed", "first", "said"):
        return True
    if kind == "bare":
        joined = re.search(r"(\w+)[/&]$", text[max(0, start - 12) : start])  # N/A, R&B
        if (joined and joined[1] not in known) or _LABEL.search(text[max(0, start - 16) : start]):
            return False
    if letter in "Ii":
        return re.match(r"\s*(?:$|[.):\]\n]|is\b)", rest) is not None
    if letter == "a" or (letter == "A" and kind == "bare"):
        follows = re.match(r"[ \t]+([\w'-]+)", rest)
        return follows is None or re.fullmatch(rf"{VERB}|{_REASON}|[B-Z]|an?|the", follows[1]) is not None
    return True
