"""The nine probing prompts of the domain-aware paper (arXiv 2603.20275, appendix A.2), verbatim, and the domain of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

Domain = str  # a name; whatever takes domains takes any, but only the built-in ones have prompts here
PROBED_PIXELS = 1 << 20  # larger images are scaled down to so many, unless told otherwise
DOMAINS: tuple[Domain, ...] = ("math", "nonmath")


@cache
def prompts() -> Mapping[Domain, Mapping[str, str]]:
    """Map each domain to its subtasks and their prompts, in the paper's order: five of math, four of the other."""
    table = json.loads(files(__package__).joinpath("prompts.json").read_text(encoding="utf-8"))
    return MappingProxyType({domain: MappingProxyType(table[domain]) for domain in DOMAINS})


def subtasks(domain: Domain) -> tuple[str, ...]:
    """The names of a domain's subtasks, in the paper's order."""
    return tuple(prompts()[domain])


def domain_of(subtask: str) -> Domain:
    """The domain a subtask belongs to; KeyError for any other name than the nine."""
    for domain in DOMAINS:
        if subtask in prompts()[domain]:
            return domain
    raise KeyError(subtask)
