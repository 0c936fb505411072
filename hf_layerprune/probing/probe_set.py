"""Probe sets: the pictures of each domain, by a name and a fingerprint of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from hf_layerprune.artifacts.jsonfile import digest_of, read_json
from hf_layerprune.artifacts.prompts import DOMAINS, Domain, prompts
from hf_layerprune.data.image_files import ImageFile, decode_file, images_in_folder, images_in_jsonl
from hf_layerprune.data.limits import percent
from hf_layerprune.errors import DataError, UsageError
from hf_layerprune.mini.canvas import CELLS
from hf_layerprune.mini.generator import draw_image

SYNTHETIC_IMAGES, SYNTHETIC_PIXELS = 32, 448
PAPER_IMAGES = 1000  # a domain, each asked all of its questions: 5,000 and 4,000 passes (domain-aware paper, eq. 7)


class ImageSource(Protocol):
    """The pictures of one domain."""

    @property
    def origin(self) -> str:
        """Where they come from, for people."""
        ...

    @property
    def digest(self) -> str:
        """sha256 that changes when any picture does."""
        ...

    def __len__(self) -> int: ...

    def label(self, index: int) -> str:
        """What to call a picture when it is bad."""
        ...

    def image(self, index: int) -> Image.Image:
        """Decode a picture; UnusableRecord if it cannot be."""
        ...


@dataclass(frozen=True)
class SyntheticImages:
    """Drawn by mini's generator from a seed; its probe split is never used for training, healing or evaluation."""

    domain: Domain
    count: int
    size: int
    seed: int = 0

    @property
    def origin(self) -> str:
        return f"synthetic, seed {self.seed}, {self.size} pixels"

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"synthetic 1 {self.domain} {self.seed} {self.size} {self.count}".encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    def label(self, index: int) -> str:
        return f"synthetic {self.domain} {index}"

    def image(self, index: int) -> Image.Image:
        return draw_image(self.domain, "probe", index, seed=self.seed, size=self.size)


@dataclass(frozen=True)
class ImageFiles:
    """Files of a person's own, from a folder or a JSONL file; `origin` is its name."""

    origin: str
    records: tuple[ImageFile, ...]

    @cached_property
    def digest(self) -> str:
        whole = hashlib.sha256()
        for record in self.records:
            whole.update(f"{record.label}\0{_file_digest(record.path)}\0".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()

    def __len__(self) -> int:
        return len(self.records)

    def label(self, index: int) -> str:
        return self.records[index].label

    def image(self, index: int) -> Image.Image:
        return decode_file(self.records[index])


@dataclass(frozen=True)
class ProbeSet:
    """The pictures of one domain or of both; each picture is asked all the questions of its domain."""

    sources: Mapping[Domain, ImageSource]

    @property
    def domains(self) -> tuple[Domain, ...]:
        return tuple(domain for domain in DOMAINS if domain in self.sources)

    @property
    def synthetic(self) -> bool:
        return all(isinstance(source, SyntheticImages) for source in self.sources.values())

    @property
    def passes(self) -> int:
        """Forward passes: pictures times questions, over the domains."""
        return sum(len(source) * len(prompts()[domain]) for domain, source in self.sources.items())

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the questions and the content of every picture."""
        content = {domain: [dict(prompts()[domain]), self.sources[domain].digest] for domain in self.domains}
        return digest_of(content)

    def describe(self) -> dict[str, Any]:
        """For the statistics' provenance."""
        domains = {domain: {"origin": source.origin, "images": len(source)} for domain, source in self.sources.items()}
        return {"fingerprint": self.fingerprint, "domains": domains}


def synthetic_probe_set(size: int = SYNTHETIC_PIXELS, samples: int | None = None, seed: int = 0) -> ProbeSet:
    """`samples` pictures a domain (32 by default), of `size` pixels."""
    count = _checked(samples) or SYNTHETIC_IMAGES
    return ProbeSet({domain: SyntheticImages(domain, count, size, seed) for domain in DOMAINS})


def picture_size(folder: Path) -> int:
    """448 pixels, or the largest picture that the image processor takes if that is smaller, as mini's is."""
    path = folder / "preprocessor_config.json"
    size = read_json(path, "image processor configuration").get("size") if path.is_file() else None
    most = size.get("longest_edge") if isinstance(size, dict) else None
    side = int(most**0.5) if isinstance(most, int) and most > 0 else SYNTHETIC_PIXELS
    return max(CELLS, min(SYNTHETIC_PIXELS, side) // CELLS * CELLS)


def probe_set_of_files(places: Mapping[Domain, Path], samples: int | None = None, allow_fewer: bool = False) -> ProbeSet:
    """The pictures of a folder or JSONL file per domain: all, at most the paper's 1,000, or the first `samples`.

    Raises DataError if a place cannot be read, holds none, or holds fewer than `samples` and `allow_fewer` is not set.
    """
    sources: dict[Domain, ImageSource] = {}
    for domain in DOMAINS:
        if place := places.get(domain):
            records = _records(place, _checked(samples) or PAPER_IMAGES)
            if samples and len(records) < samples and not allow_fewer:
                raise DataError(f"{place}: {len(records)} images, fewer than --samples {samples}. To go on with them, add --allow-fewer.")
            sources[domain] = ImageFiles(place.name or place.resolve().name, tuple(records))
    return ProbeSet(sources)


def beyond_limit(pictures: ProbeSet, bad: Mapping[str, int], max_bad: Decimal) -> str | None:
    """What to tell a person if more than `max_bad` of a domain's pictures are bad, of which `bad` counts those; else None."""
    for domain, source in pictures.sources.items():
        allowed = int(max_bad * len(source))
        if bad.get(domain, 0) > allowed:
            return (
                f"That makes {bad[domain]} bad of {len(source)} {domain} images, more than the {allowed} that "
                f"--max-bad {percent(max_bad)} allows. Mend or remove them, or raise --max-bad."
            )
    return None


def _records(place: Path, limit: int) -> list[ImageFile]:
    if place.is_dir():
        return images_in_folder(place, limit)
    if place.suffix.lower() in (".jsonl", ".ndjson"):
        return images_in_jsonl(place, limit)
    kind = "neither a folder nor a .jsonl file" if place.exists() else "no such folder or file"
    raise DataError(f'{place}: {kind}; pass a folder of images, or a .jsonl file of lines {{"image": path}}.')


def _checked(samples: int | None) -> int | None:
    if samples is not None and samples < 1:
        raise UsageError(f"--samples {samples}: at least 1 image a domain is needed.")
    return samples


def _file_digest(path: Path | None) -> str:
    try:
        if path is None or not path.is_file():
            return "missing"
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"
