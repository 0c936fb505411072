"""The fingerprint of a checkpoint: cheap enough to take before any work, and telling two fine-tunings apart."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any

from hf_layerprune.checkpoint.header import Header, TensorSpan
from hf_layerprune.checkpoint.remedies import to_read
from hf_layerprune.errors import CheckpointError

SAMPLE_BYTES = 64 << 10

Bytes = bytes | bytearray | memoryview
Ranges = tuple[tuple[int, int], ...]


def fingerprint(config: Mapping[str, Any], shards: Mapping[str, Header], parts: Callable[[str, Ranges], Iterable[Bytes]]) -> str:
    """sha256, in hexadecimal, over the config (keys sorted, no spaces) and, shard by shard in the order of their names, the
    header's JSON as it stands in the file and four blocks of 64 KiB of its n data bytes, at 0, n // 3, 2n // 3 and
    max(0, n - 65536), each cut at the end of the data.

    parts: gives a shard's bytes for ranges of it, wherever it lies. Raises what that raises where it cannot.
    """
    digest = hashlib.sha256(canonical_json(config))
    for name in sorted(shards):
        for part in parts(name, sampled_ranges(shards[name])):
            digest.update(part)
    return digest.hexdigest()


def sampled_ranges(header: Header) -> Ranges:
    """The five ranges of a file, begin and end in bytes, that its fingerprint is taken over."""
    start, size = header.data_start, header.size
    data = size - start
    begins = [start + offset for offset in (0, data // 3, 2 * data // 3, max(0, data - SAMPLE_BYTES))]
    return ((8, start), *((begin, min(begin + SAMPLE_BYTES, size)) for begin in begins))


def tensor_digest(tensors: Mapping[str, TensorSpan]) -> str:
    """sha256 over the first 4 KiB of every tensor, by name: what tells two fine-tunings apart that `fingerprint` may not.

    The fingerprint can be taken over the network in a few requests and reads four places of a shard; this reads every
    tensor, on a local disk. Raises CheckpointError naming the shard that cannot be read.
    """
    digest = hashlib.sha256()
    by_file = sorted(tensors.items(), key=lambda item: (item[1].file, item[1].begin))
    for path, group in groupby(by_file, key=lambda item: item[1].file):
        try:
            with path.open("rb", buffering=0) as file:
                for name, span in group:
                    digest.update(f"{name}\0".encode())
                    digest.update(os.pread(file.fileno(), min(4096, span.nbytes), span.begin))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot read it: {error.strerror}. {to_read(error)}") from error
    return digest.hexdigest()


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """One byte string for equal JSON values; ValueError for a number that JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
