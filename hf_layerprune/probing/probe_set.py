"""Probe sets: the images of each domain, by a name and a fingerprint of their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image

from hf_layerprune.artifacts.jsonfile import digest_of, read_json
from hf_layerprune.artifacts.prompts import Domain, prompts
from hf_layerprune.artifacts.statistics import STATISTICS_FORMAT, LayerStatistics
from hf_layerprune.data.conversations import images_of
from hf_layerprune.data.dataset_tables import Say
from hf_layerprune.data.image_files import images_in_folder
from hf_layerprune.data.records import LeftOut, RecordTable, Tolerance, UnusableRecord
from hf_layerprune.data.store import Entry
from hf_layerprune.data.tables import SUFFIXES, DataSpec, open_table
from hf_layerprune.errors import ArtifactError, DataError, UsageError
from hf_layerprune.mini.canvas import CELLS
from hf_layerprune.mini.generator import GENERATOR_VERSION, draw_image
from hf_layerprune.probing.options import ProbeOptions

SYNTHETIC_IMAGES, SYNTHETIC_PIXELS = 32, 448
PAPER_IMAGES = 1000  # a domain, each asked all of its questions: 5,000 and 4,000 passes (domain-aware paper, eq. 7)


@dataclass(frozen=True)
class DomainImages:
    """The images of one domain, decoded when they are asked for."""

    origin: str  # the folder's or file's name, or how they are drawn
    digest: str  # sha256 that changes when any image does
    labels: Sequence[str]  # what to call each of them in messages
    image: Callable[[int], Image.Image]  # the image of that number; UnusableRecord if it cannot be decoded
    revision: str | None = None  # the commit of a dataset on the Hub
    left_out: Sequence[str] = ()  # why records were passed over: they are text alone

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ProbeSet:
    """The images of one or more domains; each image is asked all the questions of its domain."""

    sources: Mapping[Domain, DomainImages]

    @property
    def domains(self) -> tuple[Domain, ...]:
        return tuple(self.sources)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the questions and the content of every image."""
        return digest_of({domain: [dict(prompts()[domain]), source.digest] for domain, source in self.sources.items()})

    def entry(self, folder: Path, model: str, settings: Mapping[str, Any]) -> Entry:
        """Where statistics over it are kept in a folder. model: its fingerprint; settings: what else decides them, as JSON values."""
        return Entry.of(folder, [STATISTICS_FORMAT, model, self.fingerprint, dict(settings)], suffix=".safetensors")

    def describe(self) -> dict[str, Any]:
        """For the statistics' provenance."""
        domains: dict[str, dict[str, Any]] = {}
        for domain, source in self.sources.items():
            more = {"revision": source.revision, "left_out": len(source.left_out)}
            domains[domain] = {"origin": source.origin, "images": len(source)} | {key: value for key, value in more.items() if value}
        return {"fingerprint": self.fingerprint, "domains": domains}

    def check_unusable(self, counts: Mapping[str, int], reasons: Sequence[str], tolerance: Tolerance) -> None:
        """DataError with the reasons if of any domain too many images are unusable. counts: of unusable images per domain."""
        for domain, source in self.sources.items():
            tolerance.check(counts.get(domain, 0), len(source), f"{domain} images", reasons)


def open_probe_set(options: ProbeOptions, model: Path, say: Say = lambda line: None) -> ProbeSet:
    """The images that the options name, or synthetic ones of a size that fits the model in a folder. say: told what takes long.

    Of a person's images all, at most the paper's 1,000, or the first `samples`. Raises DataError if a place cannot be read, holds
    none, or holds fewer than `samples` and fewer are not allowed.
    """
    if not options.places:
        return synthetic_probe_set(_image_size(model), options.samples)
    return ProbeSet({domain: _images_of(options.places[domain], options, say) for domain in prompts() if domain in options.places})


def synthetic_probe_set(size: int = SYNTHETIC_PIXELS, samples: int | None = None, seed: int = 0) -> ProbeSet:
    """`samples` images a domain (32 by default), of `size` pixels, which mini's generator draws from a seed.

    They are of its split `probe`, which is never used for training, healing or evaluation.
    """
    sources, count = {}, samples or SYNTHETIC_IMAGES
    for domain in prompts():
        digest = hashlib.sha256(f"synthetic {GENERATOR_VERSION} {domain} {seed} {size} {count}".encode()).hexdigest()
        labels = [f"synthetic {domain} {number}" for number in range(count)]
        draw = partial(draw_image, domain, "probe", seed=seed, size=size)
        sources[domain] = DomainImages(f"synthetic, seed {seed}, {size} pixels", digest, labels, draw)
    return ProbeSet(sources)


def read_statistics(path: Path) -> LayerStatistics | None:
    """The statistics that are kept in a file; None if it is missing or cannot be read."""
    try:
        return LayerStatistics.load(path)
    except ArtifactError:
        return None


def _image_size(folder: Path) -> int:
    """448 pixels, or the largest image that the image processor takes if that is smaller, as mini's is."""
    path = folder / "preprocessor_config.json"
    size = read_json(path, "image processor configuration").get("size") if path.is_file() else None
    most = size.get("longest_edge") if isinstance(size, dict) else None
    side = int(most**0.5) if isinstance(most, int) and most > 0 else SYNTHETIC_PIXELS
    return max(CELLS, min(SYNTHETIC_PIXELS, side) // CELLS * CELLS)


def _images_of(place: str | Path, options: ProbeOptions, say: Say) -> DomainImages:
    limit, path = options.samples or PAPER_IMAGES, Path(place)
    if path.is_dir() and (files := images_in_folder(path, limit)):
        found = [_Found(file.label, file.digest, file.load) for file in files]
        images = _domain_images(path.name or path.resolve().name, found)
    elif path.is_dir() and not any(file.suffix.lower() in SUFFIXES for file in path.rglob("*")):
        raise DataError(f"{place}: no image in that folder, and no file of records ({', '.join(SUFFIXES)}).")
    else:
        images = _images_in_records(place, limit, options, say)
    if options.samples and len(images) < options.samples and not options.allow_fewer:
        raise DataError(f"{place}: {len(images)} images, fewer than --samples {options.samples}. To continue with them, add --allow-fewer.")
    return images


@dataclass(frozen=True)
class _Found:
    """An image that was found: what to call it, its digest, and how to decode it."""

    label: str
    digest: str
    load: Callable[[], Image.Image]


def _domain_images(origin: str, found: Sequence[_Found], revision: str | None = None, left_out: Sequence[str] = ()) -> DomainImages:
    whole = hashlib.sha256()
    for one in found:
        whole.update(f"{one.label}\0{one.digest}\0".encode("utf-8", "surrogateescape"))
    labels = [one.label for one in found]
    return DomainImages(origin, whole.hexdigest(), labels, lambda number: found[number].load(), revision, left_out)


def _images_in_records(place: str | Path, limit: int, options: ProbeOptions, say: Say) -> DomainImages:
    """The first `limit` images of a file, folder or Hub dataset of records; a record that cannot be used counts as one of them."""
    spec = DataSpec(str(place)) if os.path.lexists(place) else DataSpec.parse(str(place))
    if spec.name == "mini":
        raise UsageError("mini is no source of images for a probe: where no place is named, its generator draws them, of their own split.")
    table = open_table(spec, at_most=limit, local_files_only=options.local_files_only, say=say)
    found: list[_Found] = []
    left_out: list[str] = []
    for row in range(len(table)):
        if len(found) >= limit:
            break
        try:
            refs = images_of(table.record(row))
            found += [_Found(ref.name, ref.digest, partial(_load, table, row, number)) for number, ref in enumerate(refs)]
        except LeftOut as reason:
            left_out.append(str(reason))
        except UnusableRecord as problem:
            found.append(_Found(str(problem).partition(": ")[0], "missing", partial(_load, table, row, 0)))
    if not found:
        raise DataError(f"{place}: no image in its records; {len(left_out):,} are text alone.")
    return _domain_images(table.origin, found[:limit], table.revision, left_out)


def _load(table: RecordTable, row: int, number: int) -> Image.Image:
    """An image of a record, which is read again: nothing of it stays in memory."""
    return images_of(table.record(row))[number].load()
