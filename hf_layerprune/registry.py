"""Find things by name: what comes with hf-layerprune, and what other packages register as entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from hf_layerprune.errors import LayerPruneError, UsageError, shown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

T = TypeVar("T")
OURS = "hf-layerprune"  # the package of everything built in


def did_you_mean(name: str, known: Iterable[str], show: Callable[[str], str] = repr) -> str:
    """A question with the known name that is nearest, as `show` writes it, and a space after it; empty if none is near."""
    from difflib import get_close_matches

    nearest = get_close_matches(name, list(known), n=1)
    return f"Did you mean {show(nearest[0])}? " if nearest else ""


def known_names(name: str, known: Iterable[str]) -> str:
    """The rest of an error about an unknown name: the nearest known one if there is one, then all of them, sorted."""
    names = sorted(known)
    nearest = nearest_name(name, names)
    return f"{f'Did you mean {nearest!r}? ' if nearest else ''}Known: {', '.join(names)}."


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was meant: by its letters, by initials (lr: learning_rate) or by whole words (rank: lora_rank); None if none."""
    from difflib import get_close_matches

    names = list(known)
    if nearest := get_close_matches(name, names, n=1):
        return nearest[0]
    words = _words(name)
    alike = [one for one in names if "".join(word[:1] for word in _words(one)) == name.lower()]
    alike += sorted((one for one in names if {*_words(one)} <= {*words} or {*words} <= {*_words(one)}), key=len, reverse=True)
    return alike[0] if words and alike else None


def _words(name: str) -> list[str]:
    return name.lower().replace("-", "_").split("_")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Objects of one kind by name. Entry points are listed without being loaded; one is loaded when it is looked up."""

    kind: str  # what one is called in errors
    kinds: str  # what several are called
    group: str  # of the entry points
    ours: Mapping[str, T]  # the built-in objects by name
    problem: Callable[[object, str], str | None]  # says why an object cannot serve under a name, None if it can
    error: type[LayerPruneError]  # what is raised

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted({*self.ours, *self._points().names}))

    def package_of(self, name: str) -> str:
        """The package that a name comes from. Loads nothing. UsageError for an unknown name; `error` if two packages claim it."""
        points = self._points().select(name=name)
        packages = [OURS] * (name in self.ours) + sorted(point.dist.name if point.dist else "an unknown package" for point in points)
        if len(packages) > 1:
            raise self.error(f"two {self.kinds} are named {name!r}, of the packages {' and '.join(packages)}. Uninstall all but one.")
        if not packages:
            raise UsageError(f"no {self.kind} {shown(name)}. {known_names(name, self.names())}")
        return packages[0]

    def find(self, name: str) -> T:
        """The object of a name; raises as `package_of` does, and `error` naming the package if it does not load or cannot serve."""
        package = self.package_of(name)
        if name in self.ours:
            return self.ours[name]
        who = f"{self.kind} {name!r} of package {package!r}"
        try:
            found = next(iter(self._points().select(name=name))).load()
            problem = self.problem(found, name)
        except Exception as error:  # another package's module may raise anything
            raise self.error(f"{who} cannot be loaded: {one_line(error)}. Repair or uninstall the package.") from error
        if problem:
            raise self.error(f"{who} is no {self.kind}: {problem}. Repair or uninstall the package.")
        return cast(T, found)  # checked by `problem`

    def _points(self) -> EntryPoints:
        from importlib.metadata import entry_points

        return entry_points(group=self.group)


def one_line(error: BaseException) -> str:
    """An exception's type and text, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".: ")[:400]
