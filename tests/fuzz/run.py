"""Look for bytes that break a promise of `targets.py`; by hand, it needs atheris (`pip install atheris`, Python 3.11).

    python tests/fuzz/run.py header /tmp/corpus -max_total_time=600
    python tests/fuzz/run.py checkpoint /tmp/corpus2 -max_total_time=600 -rss_limit_mb=1024 -timeout=10

What follows the corpus folder goes to libFuzzer; a crash leaves a file crash-*, which `replay TARGET FILE` shows. To keep what
was found, `pack TARGET FOLDER` puts the smallest inputs of every kind of outcome into corpus.tar.xz, which the tests replay.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
CORPUS = HERE / "corpus.tar.xz"
OF_EACH_KIND = 3
NUMBERS = (0, 1, -1, 2, 3, 4, 5, 2**31, 2**63, 2**64, 10**4200, 1.0, 1e999)
TEXTS = ("", "x", "../x", "/etc/passwd", "a\0", "\ud800", "x" * 5000)
ODD = (None, True, *NUMBERS, *TEXTS, [], {}, [[]], [1] * 4, [0] * 10_000, {str(number): 1 for number in range(4)})


def mutated(value: Any, rng: random.Random) -> Any:
    """A JSON value with one thing changed somewhere: replaced, removed, doubled, renamed, or moved."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        action = rng.random()
        if action < 0.7:
            value[key] = mutated(value[key], rng)
        elif action < 0.8:
            del value[key]
        elif isinstance(value, list):
            value.insert(key, value[rng.choice(keys)])
        elif action < 0.9:
            value[key + rng.choice(["x", ".0", "é", ""])] = value.pop(key)
        else:
            value[rng.choice([key + ".1", "x", "mtp.3", "quantization_config"])] = value[rng.choice(keys)]
        return value
    return rng.choice(ODD) if rng.random() < 0.7 or not isinstance(value, int) else value + rng.choice([-2, -1, 1, 2, 8])


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """One JSON part of an input changed as JSON, or the bytes by libFuzzer's own means."""
    import atheris

    from tests.fuzz.targets import SEPARATOR

    rng = random.Random(seed)
    parts = data.split(SEPARATOR)
    number = rng.randrange(len(parts))
    try:
        raw = parts[number] if len(parts) > 1 else data[8 : 8 + int.from_bytes(data[:8], "little")]
        changed = json.dumps(mutated(json.loads(raw), rng)).encode()
    except (ValueError, RecursionError):
        return bytes(atheris.Mutate(data, max_size))
    if rng.random() < 0.2:
        return bytes(atheris.Mutate(data, max_size))
    if len(parts) == 1:
        return (len(changed).to_bytes(8, "little") + changed + data[8 + len(raw) :])[:max_size]
    return SEPARATOR.join([*parts[:number], changed, *parts[number + 1 :]])[:max_size]


def fuzz(name: str, corpus: Path, options: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["hf_layerprune"]):
        from tests.fuzz.targets import TARGETS, seeds
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    if not corpus.exists():
        corpus.mkdir(parents=True)
        for number, seed in enumerate(seeds(name, folder)):
            (corpus / f"seed{number}").write_bytes(seed)
        for kept, data in unpacked(name):
            (corpus / kept).write_bytes(data)

    def one(data: bytes) -> None:
        TARGETS[name](data, folder)

    atheris.Setup([sys.argv[0], str(corpus), "-max_len=65536", *options], one, custom_mutator=mutate)
    atheris.Fuzz()


def unpacked(target: str) -> list[tuple[str, bytes]]:
    """The kept inputs of a target, by name."""
    if not CORPUS.exists():
        return []
    with tarfile.open(CORPUS) as archive:
        members = [member for member in archive.getmembers() if member.isfile() and member.name.startswith(f"{target}/")]
        return [(Path(member.name).name, archive.extractfile(member).read()) for member in members]  # type: ignore[union-attr]


def pack(target: str, folder: Path) -> None:
    """Put the smallest inputs of each kind of outcome into the kept corpus, with what it had; the same inputs give the same bytes."""
    from tests.fuzz.targets import TARGETS

    inputs = {data for _, data in unpacked(target)} | {path.read_bytes() for path in folder.iterdir()}
    kinds: dict[str, list[bytes]] = {}
    with tempfile.TemporaryDirectory() as place:
        for data in sorted(inputs, key=lambda data: (len(data), data)):
            kind = re.sub(r"'[^']*'?|[\d,.]+|\[[^\]]*\]?", "", TARGETS[target](data, Path(place)))[:100]
            kinds.setdefault(kind, []).append(data)
    kept = [data for found in kinds.values() for data in found[:OF_EACH_KIND]]
    found = {f"{target}/{hashlib.sha256(data).hexdigest()[:16]}": data for data in kept}
    for other in {"header", "checkpoint"} - {target}:
        found |= {f"{other}/{name}": data for name, data in unpacked(other)}
    with tarfile.open(CORPUS, "w:xz", preset=9) as archive:
        for name, data in sorted(found.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    print(f"{CORPUS}: {len(found)} inputs, {CORPUS.stat().st_size:,} bytes, {len(kinds)} kinds of outcome of {target}")


def replay(target: str, path: Path) -> None:
    from tests.fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory() as place:
        print(TARGETS[target](path.read_bytes(), Path(place)))


if __name__ == "__main__":
    if sys.argv[1:2] in (["pack"], ["replay"]) and len(sys.argv) == 4:
        {"pack": pack, "replay": replay}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
    elif len(sys.argv) >= 3 and sys.argv[1] in ("header", "checkpoint"):
        fuzz(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    else:
        sys.exit(__doc__)
