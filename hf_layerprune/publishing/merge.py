"""A card that a person has edited: our parts and keys are written anew, every byte of theirs beside our parts stays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hf_layerprune.artifacts.folder import CARD_MARK
from hf_layerprune.artifacts.jsonfile import digest_of
from hf_layerprune.errors import PublishError, shown
from hf_layerprune.publishing.metadata import OUR_TAGS, front_matter

KEYS_LINE = re.compile(rf"^{CARD_MARK}keys ([a-z_ -]+) -->[ \t]*\r?$", re.MULTILINE)
MARKER = re.compile(rf"^{CARD_MARK}(begin|end) ([a-z-]{{1,40}}) -->[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
LIKE_ONE = re.compile(r"<!--\s*hf-layerprune:(?:begin|end)\b")
# As the Hub finds it (huggingface_hub.repocard.REGEX_YAML_BLOCK); a byte-order mark may come first.
FRONT_MATTER = re.compile(r"\A\ufeff?\s*---(?:\r\n|\r|\n)(?P<yaml>(?:[\S\s]*?(?:\r\n|\r|\n))??)---[ \t]*(?:\r\n|\n|\Z)")
REPAIR = "Repair the card by hand, or move it away and write it again."


def begin(part: str) -> str:
    return f"{CARD_MARK}begin {part} -->\n"


def end(part: str) -> str:
    return f"{CARD_MARK}end {part} -->\n"


@dataclass(frozen=True)
class Part:
    """One of our parts of a card: from `start` to before `stop`, markers included."""

    name: str
    start: int
    stop: int


class ParsedCard:
    """A card taken apart. PublishError where the markers or the metadata are damaged, so that it is not known what is a person's."""

    def __init__(self, text: str) -> None:
        found = FRONT_MATTER.match(text)
        self.metadata = _parsed(found["yaml"]) if found else {}
        self.body = text[found.end() :] if found else text.lstrip("\ufeff")
        self.front = text[: len(text) - len(self.body)]
        self.parts = find_parts(self.body)
        keys = next((line for part in self.parts if (line := KEYS_LINE.search(self.body, part.start, part.stop))), None)
        self.our_keys = tuple(keys[1].split()) if keys else ()
        tags = self.metadata.get("tags")
        tags = tags if isinstance(tags, list) else []
        self.our_tags, self.their_tags = [tag for tag in tags if tag in OUR_TAGS], [tag for tag in tags if tag not in OUR_TAGS]


def our_parts(card: str) -> str:
    """sha256 over our marked parts and the metadata keys that we set, in hexadecimal: whether a card is still as we wrote it.

    What a person wrote beside them, line ends and the order of keys do not count.
    """
    found = ParsedCard(card)
    texts = [(part.name, _unix(found.body[part.start : part.stop])) for part in found.parts]
    keys = {key: str(sorted(found.our_tags) if key == "tags" else found.metadata.get(key)) for key in found.our_keys}
    return digest_of([texts, keys])


def merge_card(existing: str, rendered: str) -> str:
    """`existing` with our parts and keys as `rendered` has them; a part it lacks comes after the part before it, or at the end.

    What a person wrote in `rendered` is left out, and so are remarks in metadata that has to change.
    """
    if not existing.strip("\ufeff \t\r\n"):
        return rendered
    old, new = ParsedCard(existing), ParsedCard(rendered)
    theirs = {key: value for key, value in old.metadata.items() if key not in old.our_keys or key in new.our_keys}
    merged = theirs | {key: new.metadata[key] for key in new.our_keys}
    if "tags" in new.our_keys:
        merged["tags"] = [*new.our_tags, *old.their_tags]
    return (old.front if merged == old.metadata else front_matter(merged)) + _merge_body(old, new)


def own_text(card: str) -> str:
    """What a person wrote in a card beside our parts and keys, in one text that can be compared; empty where there is nothing."""
    found = ParsedCard(card)
    edges = [0, *(edge for part in found.parts for edge in (part.start, part.stop)), len(found.body)]
    texts = [_unix(found.body[start:stop]).strip() for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    keys = sorted((key, value) for key, value in found.metadata.items() if key not in found.our_keys)
    own = [[text for text in texts if text], keys, found.their_tags if "tags" in found.our_keys else []]
    return repr(own) if any(own) else ""


def taken_keys(existing: str, rendered: str) -> tuple[str, ...]:
    """The metadata keys that a person set in `existing`, which a merge would set to something else."""
    old, new = ParsedCard(existing), ParsedCard(rendered)
    becoming = [key for key in new.our_keys if key in old.metadata and key not in old.our_keys and key != "tags"]
    return tuple(key for key in becoming if old.metadata[key] != new.metadata.get(key))


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
                f"the card's marker '{kind} {name}' stands where none may: repeated, nested or without its other half. {REPAIR}"
            )
    if opened is not None:
        raise PublishError(f"the card's part {opened[0]!r} begins and does not end. {REPAIR}")
    return parts


def _merge_body(old: ParsedCard, new: ParsedCard) -> str:
    """Our parts replaced one by one, new ones put where they belong; those that a newer version no longer has are removed."""
    texts = {part.name: new.body[part.start : part.stop] for part in new.parts}
    if not old.parts:
        gap = "" if not old.body or old.body.endswith("\n\n") else "\n" if old.body.endswith("\n") else "\n\n"
        return old.body + gap + "\n".join(texts.values())
    before, after = "", {part.name: "" for part in old.parts}
    place: str | None = None  # the existing part that a missing one follows; None before the first
    for name, text in texts.items():
        if name in after:
            place = name
        elif place is None:
            before += text + "\n"
        else:
            after[place] += "\n" + text
    merged = old.body[: old.parts[0].start] + before
    for part, following in zip(old.parts, [*old.parts[1:], None], strict=True):
        merged += texts.get(part.name, "") + after[part.name] + old.body[part.stop : following.start if following else None]
    return merged


def _parsed(text: str) -> dict[str, Any]:
    """The keys and values of metadata. No tag is obeyed, and no alias, which could unfold to gigabytes."""
    import yaml

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise PublishError(f"the card's metadata refers from one place to another (a YAML alias). Write it out. {REPAIR}")
        node, value = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise PublishError(f"the card's metadata is invalid YAML: {' '.join(str(error).split())[:160]}. {REPAIR}") from error
    if value is None or value == "":
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise PublishError(f"the card's metadata is {shown(value)}, expected keys and values. {REPAIR}")
    if len(node.value) != len(value):
        raise PublishError(f"the card's metadata repeats a key. {REPAIR}")
    return value


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").rstrip("\n")
