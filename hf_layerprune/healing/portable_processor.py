"""A processor that can be sent to other processes, also the one without its video part, whose class exists only where it was made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PortableProcessor:
    """Pickles a processor as its importable class and its parts."""

    processor: Any

    def __reduce__(self) -> tuple[Any, ...]:
        kind = type(self.processor)
        importable = next(base for base in kind.__mro__ if "<locals>" not in base.__qualname__)
        return _rebuilt, (importable, kind.get_attributes(), self.processor.__dict__)


def _rebuilt(base: Any, attributes: list[str], state: dict[str, Any]) -> PortableProcessor:
    kind = base
    if base.get_attributes() != attributes:
        kind = type(base.__name__, (base,), {"get_attributes": classmethod(lambda cls: attributes)})
    processor = kind.__new__(kind)
    processor.__dict__.update(state)
    return PortableProcessor(processor)
