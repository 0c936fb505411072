"""A card that a person has edited: our parts and keys are written anew, every other byte of theirs stays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hf_layerprune.artifacts.jsonfile import digest_of
from hf_layerprune.errors import PublishError, shown
from hf_layerprune.publishing.metadata import OUR_TAGS, yaml_lines

KEYS_LINE = re.compile(r"^<!-- hf-layerprune:keys ([a-z_ -]+) -->[ \t]*\r?$", re.MULTILINE)
MARKER = re.compile(r"^<!-- hf-layerprune:(begin|end) ([a-z-]{1,40}) -->[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
LIKE_ONE = re.compile(r"<!--\s*hf-layerprune:(?:begin|end)\b")
# As the Hub finds it (huggingface_hub.repocard.REGEX_YAML_BLOCK); a byte-order mark may come first.
FRONT_MATTER = re.compile(r"\A\ufeff?\s*---(?:\r\n|\r|\n)(?P<yaml>(?:[\S\s]*?(?:\r\n|\r|\n))??)---[ \t]*(?:\r\n|\n|\Z)")
REPAIR = "Repair the card by hand, or move it away and write it again."


def begin(part: str) -> str:
    return f"<!-- hf-layerprune:begin {part} -->\n"


def end(part: str) -> str:
    return f"<!-- hf-layerprune:end {part} -->\n"


@dataclass(frozen=True)
class Part:
    """One of our parts of a card: from `start` to before `stop`, markers included."""

    name: str
    start: int
    stop: int


def our_parts(card: str) -> str:
    """sha256 over our marked parts and the metadata keys that we set, in hexadecimal: whether a card is still as we wrote it.

    What a person wrote beside them, line ends and the order of keys do not count. PublishError where the markers are damaged.
    """
    texts = [(part.name, _unix(card[part.start : part.stop])) for part in find_parts(card)]
    entries = _parsed(_front(card)[0])
    keys = {key: _ours(key, entries.get(key)) for key in _our_keys(card)}
    return digest_of([texts, keys])


def merge_card(existing: str, rendered: str) -> str:
    """`existing` with our parts and keys as `rendered` has them; a part it lacks comes after the part before it, or at the end.

    What a person wrote in `rendered` is left out. PublishError where the markers or the metadata of `existing` are damaged, so that it
    is not known what is a person's.
    """
    if not existing.strip("\ufeff \t\r\n"):
        return rendered
    yaml, body = _front(existing)
    new_yaml, new_body = _front(rendered)
    before = existing[: len(existing) - len(body)] if yaml is not None else ""
    merged = _merge_yaml(yaml or "", new_yaml or "", _our_keys(existing), _our_keys(rendered))
    opening, closing = _fences(before)
    return opening + merged + closing + _merge_body(body if yaml is not None else existing.lstrip("\ufeff"), new_body)


def own_text(card: str) -> str:
    """What a person wrote in a card beside our parts and keys, in one text that can be compared; empty where there is nothing."""
    yaml, body = _front(card)
    edges = [0, *(edge for part in find_parts(body) for edge in (part.start, part.stop)), len(body)]
    texts = [_unix(body[start:stop]).strip() for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    values, ours = _parsed(yaml), _our_keys(card)
    keys = {key: value for key, value in values.items() if key not in ours}
    tags = _theirs(values.get("tags")) or [] if "tags" in ours else []
    remarks = [line.strip() for line in (yaml or "").splitlines() if line.lstrip().startswith("#")]
    found = [[text for text in texts if text], keys, tags, remarks]
    return json.dumps(found, sort_keys=True) if any(found) else ""


def taken_keys(existing: str, rendered: str) -> tuple[str, ...]:
    """The metadata keys that a person set in `existing`, which a merge would set to something else."""
    theirs, ours, were_ours = _parsed(_front(existing)[0]), _parsed(_front(rendered)[0]), _our_keys(existing)
    becoming = [key for key in _our_keys(rendered) if key in theirs and key not in were_ours and key != "tags"]
    return tuple(key for key in becoming if theirs[key] != ours.get(key))


def find_parts(text: str) -> list[Part]:
    """Our parts, in order; PublishError where a marker is open, closed twice, nested, repeated or changed."""
    parts: list[Part] = []
    opened: tuple[str, int] | None = None
    found = list(MARKER.finditer(text))
    if len(found) != len(LIKE_ONE.findall(text)):
        raise PublishError(f"the card has a line that is nearly a marker of hf-layerprune, but not one. {REPAIR}")
    for marker in found:
        kind, name = marker.groups()
        if kind == "begin" and opened is None and name not in [part.name for part in parts]:
            opened = (name, marker.start())
        elif kind == "end" and opened is not None and opened[0] == name:
            parts.append(Part(name, opened[1], marker.end()))
            opened = None
        else:
            raise PublishError(
                f"the card's marker '{kind} {name}' stands where none may: twice, nested or without its other half. {REPAIR}"
            )
    if opened is not None:
        raise PublishError(f"the card's part {opened[0]!r} begins and does not end. {REPAIR}")
    return parts


def _merge_body(existing: str, rendered: str) -> str:
    """Our parts replaced one by one, new ones put where they belong; those that a newer version no longer has are removed."""
    new = {part.name: rendered[part.start : part.stop] for part in find_parts(rendered)}
    old = find_parts(existing)
    if not old:
        return existing + _gap(existing) + "\n".join(new.values())
    missing = _missing(list(new), [part.name for part in old])
    merged = existing[: old[0].start] + "".join(new[name] + "\n" for name in missing.get(None, []))
    for part, following in zip(old, [*old[1:], None], strict=True):
        merged += new.get(part.name, "") + "".join("\n" + new[name] for name in missing.get(part.name, []))
        merged += existing[part.stop : following.start if following else None]
    return merged


def _missing(new: list[str], old: list[str]) -> dict[str | None, list[str]]:
    """The parts to be inserted, by the part of the existing card that they follow, None for those before the first."""
    after: dict[str | None, list[str]] = {}
    place: str | None = None
    for name in new:
        if name in old:
            place = name
        else:
            after.setdefault(place, []).append(name)
    return after


def _gap(text: str) -> str:
    return "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"


def _our_keys(card: str) -> tuple[str, ...]:
    """The metadata keys that we set in a card, as its first part says; none in a card without one."""
    for part in find_parts(card):
        if found := KEYS_LINE.search(card[part.start : part.stop]):
            return tuple(found[1].split())
    return ()


def _front(card: str) -> tuple[str | None, str]:
    """The YAML of the front matter, None if there is none, and what follows it."""
    found = FRONT_MATTER.match(card)
    return (found["yaml"], card[found.end() :]) if found else (None, card)


def _fences(before: str) -> tuple[str, str]:
    """The lines around the YAML as they stand, ours where there are none."""
    found = FRONT_MATTER.match(before)
    return (before[: found.start("yaml")], before[found.end("yaml") :]) if found else ("---\n", "---\n")


def _merge_yaml(existing: str, rendered: str, were_ours: Iterable[str], ours: Iterable[str]) -> str:
    """Keys of ours replaced in their places or added at the end; those that we set then and no longer, removed."""
    new, old = {key: span for key, span in _entries(rendered).items() if key in ours}, _entries(existing)
    theirs = _parsed(existing)
    lines = existing.splitlines(keepends=True)
    if lines and not lines[-1].endswith(("\n", "\r")):
        lines[-1] += "\n"
    for key, (first, stop) in sorted(old.items(), key=lambda item: -item[1][0]):
        if key in new:
            lines[first:stop] = [_with_theirs(key, _text(rendered, new[key]), theirs[key])]
        elif key in were_ours:
            lines[first:stop] = []
    return "".join(lines) + "".join(_with_theirs(key, _text(rendered, span), None) for key, span in new.items() if key not in old)


def _text(text: str, span: tuple[int, int]) -> str:
    return "".join(text.splitlines(keepends=True)[slice(*span)])


def _with_theirs(key: str, ours: str, theirs: Any) -> str:
    """Our lines of a key; behind our tags come those that a person added to the card that is there."""
    if key != "tags" or not isinstance(tags := _parsed(ours)[key], list):
        return ours
    wanted = [*(tag for tag in tags if tag in OUR_TAGS), *(_theirs(theirs) or ())]
    return ours if wanted == tags else yaml_lines(key, wanted)


def _ours(key: str, value: Any) -> Any:
    return sorted(tag for tag in value if tag in OUR_TAGS) if key == "tags" and isinstance(value, list) else value


def _theirs(tags: Any) -> list[Any] | None:
    """Those of a card's tags that a person added; None where they are no list."""
    return [tag for tag in tags if tag not in OUR_TAGS] if isinstance(tags, list) else None


def _parsed(text: str | None) -> dict[str, Any]:
    """The keys and values, as text: no tag is obeyed, and no alias, which could unfold to gigabytes."""
    import yaml

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text or "", Loader=yaml.BaseLoader)):
            raise PublishError(f"the card's metadata refers from one place to another (a YAML alias). Write it out. {REPAIR}")
        value = yaml.load(text or "", Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        line = " ".join(str(error).split())
        raise PublishError(f"the card's metadata is no valid YAML: {line[:160]}. {REPAIR}") from error
    if value is None or value == "":
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise PublishError(f"the card's metadata is {shown(value)}, expected keys and values. {REPAIR}")
    return value


def _entries(text: str) -> dict[str, tuple[int, int]]:
    """For each key the lines it takes, from its own to before the next key or the comments and empty lines that lead to it."""
    import yaml

    if not _parsed(text):
        return {}
    node = yaml.compose(text, Loader=yaml.BaseLoader)
    keys = [(str(key.value), key.start_mark.line) for key, _ in node.value]
    if node.flow_style or any(key.start_mark.column for key, _ in node.value) or len({line for _, line in keys}) != len(keys):
        raise PublishError(f"the card's metadata is not written one key a line, from the beginning of the line. {REPAIR}")
    if len({name for name, _ in keys}) != len(keys):
        raise PublishError(f"the card's metadata has a key twice. {REPAIR}")
    lines = text.splitlines(keepends=True)
    stops = [line for _, line in keys[1:]] + [len(lines)]
    return {name: (first, _trimmed(lines, first, stop)) for (name, first), stop in zip(keys, stops, strict=True)}


def _trimmed(lines: list[str], first: int, stop: int) -> int:
    while stop > first + 1 and (not lines[stop - 1].strip() or lines[stop - 1].startswith("#")):
        stop -= 1
    return stop


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").rstrip("\n")
