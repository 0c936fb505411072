"""A card that a person has edited: our parts and keys are written anew, every byte of theirs beside our parts stays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hf_layerprune.artifacts.jsonfile import digest_of
from hf_layerprune.errors import PublishError, shown
from hf_layerprune.publishing.metadata import OUR_TAGS, front_matter

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
    found = _split(card)[0]
    keys = {key: str(sorted(_tags(found)[0]) if key == "tags" else found.get(key)) for key in _our_keys(card)}
    return digest_of([texts, keys])


def merge_card(existing: str, rendered: str) -> str:
    """`existing` with our parts and keys as `rendered` has them; a part it lacks comes after the part before it, or at the end.

    What a person wrote in `rendered` is left out, and so are remarks in metadata that has to change. PublishError where the markers
    or the metadata of `existing` are damaged, so that it is not known what is a person's.
    """
    if not existing.strip("\ufeff \t\r\n"):
        return rendered
    (old, body), (new, new_body) = _split(existing), _split(rendered)
    were_ours, ours = _our_keys(existing), _our_keys(rendered)
    merged = {key: value for key, value in old.items() if key not in were_ours or key in ours} | {key: new[key] for key in ours}
    if "tags" in ours:
        merged["tags"] = [*_tags(new)[0], *_tags(old)[1]]
    front = existing[: len(existing) - len(body)] if merged == old else front_matter(merged)
    return front + _merge_body(body, new_body)


def own_text(card: str) -> str:
    """What a person wrote in a card beside our parts and keys, in one text that can be compared; empty where there is nothing."""
    found, body = _split(card)
    edges = [0, *(edge for part in find_parts(body) for edge in (part.start, part.stop)), len(body)]
    texts = [_unix(body[start:stop]).strip() for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    ours = _our_keys(card)
    keys = sorted((key, value) for key, value in found.items() if key not in ours)
    own = [[text for text in texts if text], keys, _tags(found)[1] if "tags" in ours else []]
    return repr(own) if any(own) else ""


def taken_keys(existing: str, rendered: str) -> tuple[str, ...]:
    """The metadata keys that a person set in `existing`, which a merge would set to something else."""
    theirs, ours, were_ours = _split(existing)[0], _split(rendered)[0], _our_keys(existing)
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


def _tags(metadata: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Our tags, and those that a person added; none where they are no list."""
    tags = metadata.get("tags")
    found = tags if isinstance(tags, list) else []
    return [tag for tag in found if tag in OUR_TAGS], [tag for tag in found if tag not in OUR_TAGS]


def _split(card: str) -> tuple[dict[str, Any], str]:
    """The metadata of the front matter, empty where there is none, and what follows it."""
    found = FRONT_MATTER.match(card)
    return (_parsed(found["yaml"]), card[found.end() :]) if found else ({}, card.lstrip("\ufeff"))


def _parsed(text: str) -> dict[str, Any]:
    """The keys and values of metadata. No tag is obeyed, and no alias, which could unfold to gigabytes."""
    import yaml

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise PublishError(f"the card's metadata refers from one place to another (a YAML alias). Write it out. {REPAIR}")
        node, value = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        line = " ".join(str(error).split())
        raise PublishError(f"the card's metadata is no valid YAML: {line[:160]}. {REPAIR}") from error
    if value is None or value == "":
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise PublishError(f"the card's metadata is {shown(value)}, expected keys and values. {REPAIR}")
    if len(node.value) != len(value):
        raise PublishError(f"the card's metadata has a key twice. {REPAIR}")
    return value


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").rstrip("\n")
