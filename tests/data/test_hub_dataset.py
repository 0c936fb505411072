"""Datasets of the Hub, through the real `datasets` and the real client against a Hub on 127.0.0.1, in a process of its own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hf_layerprune.data.dataset_tables import _even, _quotas
from hf_layerprune.data.tables import DataSpec
from tests.hub.loopback import LoopbackHub, serve
from tests.hub.state import Repo

pytest.importorskip("datasets")

CHILD = """
import datasets, hashlib, json, sys
from hf_layerprune.data.tables import DataSpec, open_table
from decimal import Decimal
from pathlib import Path
datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # five seconds a stream, against a rare crash
for line in sys.stdin:
    spec, options = json.loads(line)
    if "share" in options:
        options["share"] = Decimal(options["share"])
    said = []
    try:
        table = open_table(DataSpec.parse(spec), cache=Path(sys.argv[1]), say=said.append, **options)
        rows = [dict(table.record(index).fields) for index in range(len(table))]
        for row in rows:
            if isinstance(row.get("image"), dict) and row["image"]["bytes"]:
                row["image"] = hashlib.sha256(row["image"]["bytes"]).hexdigest()
        about = {name: getattr(table, name) for name in ("origin", "revision", "digest")}
        answer = about | {"rows": rows, "said": said, "label": table.record(0).label, "folder": table.record(0).folder}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
"""
CARD = """---
configs:
- config_name: one
  data_files: one/*.parquet
- config_name: two
  data_files: two/*.parquet
"""
SIZES = "dataset_info:\n" + "".join(
    f"- config_name: {name}\n  splits:\n  - name: train\n    num_examples: {count}\n" for name, count in (("one", 40), ("two", 10))
)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def table(numbers: range) -> bytes:
    """A Parquet file with an Image column, five rows a row group."""
    import datasets
    import pyarrow.parquet as pq

    rows = [{"n": number, "image": {"bytes": png(number), "path": f"{number}.png"}} for number in numbers]
    buffer = io.BytesIO()
    pq.write_table(datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).data.table, buffer, row_group_size=5)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    parts = {"one/train-0.parquet": table(range(40)), "two/train-0.parquet": table(range(100, 110))}
    images = {f"train/{number}.png": png(number) for number in range(4)}
    listed = "\n".join(json.dumps({"file_name": f"{number}.png", "n": number}) for number in range(4))
    lines = "\n".join(json.dumps({"n": number, "image": f"{number}.png"}) for number in range(7))
    with serve() as hub:
        hub.datasets |= {
            "me/set": Repo.of({"README.md": f"{CARD}---\n".encode(), **parts}),
            "me/stated": Repo.of({"README.md": f"{CARD}{SIZES}---\n".encode(), **parts}),
            "me/lines": Repo.of({"train.jsonl": lines.encode()}),
            "me/images": Repo.of({"train/metadata.jsonl": listed.encode(), **images}),
            "me/gated": Repo.of({}, token="hf_secret123", gated=True),
            "me/private": Repo.of({"train.jsonl": b'{"n": 5}'}, token="hf_secret123"),
            "me/refusing": Repo.of({}, status=403),
            "me/down": Repo.of({}, status=500),
            "me/script": Repo.of({"script.py": b"raise SystemExit('it ran')"}),
            "me/empty": Repo.of({"README.md": b""}),
        }
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def ask(hub: LoopbackHub, home: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(home / "cache")],
        env=kept | settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdin and child.stdout

    def ask(spec: str, **options: Any) -> dict[str, Any]:
        child.stdin.write(json.dumps([spec, options]) + "\n")  # type: ignore[union-attr]
        child.stdin.flush()  # type: ignore[union-attr]
        return dict(json.loads(child.stdout.readline()))  # type: ignore[union-attr]

    yield ask
    child.stdin.close()
    assert child.wait(300) == 0


Ask = Callable[..., dict[str, Any]]


def test_all_records_with_their_images_at_one_commit(ask: Ask, hub: LoopbackHub) -> None:
    found = ask("me/set")
    expected = {number: hashlib.sha256(png(number)).hexdigest() for number in (*range(40), *range(100, 110))}
    assert {row["n"]: row["image"] for row in found["rows"]} == expected and len(found["rows"]) == 50
    assert found["revision"] == hub.datasets["me/set"].refs["main"] and found["folder"] is None
    assert found["origin"] == "me/set, all subsets, train"


def test_drawn_once_then_read_from_the_cache(ask: Ask, hub: LoopbackHub) -> None:
    first = ask("me/set,subset=one,count=6", seed=1)
    hub.requests.clear()
    second = ask("me/set,subset=one,count=6,weight=2", seed=1)  # a weight changes nothing that is drawn
    assert second["rows"] == first["rows"] and second["digest"] == first["digest"] and not second["said"]
    assert [line.split("?")[0] for line in hub.requests] == ["/api/datasets/me/set"]
    assert len({row["n"] for row in first["rows"]} & set(range(40))) == 6 and first["said"] == ["me/set, one: drawing 6 records"]
    other = ask("me/set,subset=one,count=6", seed=2)
    assert other["rows"] != first["rows"] and other["digest"] != first["digest"]
    hub.requests.clear()
    assert ask("me/set,subset=one,count=6", seed=1, local_files_only=True)["rows"] == first["rows"] and not hub.requests
    said = ask("me/set,subset=one,count=7", seed=1, local_files_only=True)["error"]
    assert said.startswith("DataError: me/set is not in the cache as asked for") and not hub.requests


def test_the_commit_that_was_drawn_is_found_offline_by_its_name(ask: Ask, hub: LoopbackHub) -> None:
    drawn = ask("me/set,subset=two,count=3", seed=4)
    hub.requests.clear()
    answers = {}
    for revision in (hub.datasets["me/set"].refs["main"], "0" * 40, "main"):
        answers[revision] = ask(f"me/set,subset=two,count=3,revision={revision}", seed=4, local_files_only=True)
    found, *others = answers.values()
    assert (found["rows"], found["digest"]) == (drawn["rows"], drawn["digest"]) and not hub.requests
    assert all("not in the cache as asked for" in other["error"] for other in others)


def test_a_new_commit_is_drawn_anew(ask: Ask, hub: LoopbackHub) -> None:
    before, repo = ask("me/lines"), hub.datasets["me/lines"]
    hub.datasets["me/lines"] = Repo.of({"train.jsonl": repo.files()["train.jsonl"] + b'\n{"n": 7, "image": "7.png"}'})
    after = ask("me/lines")
    hub.datasets["me/lines"] = repo
    assert (len(before["rows"]), len(after["rows"])) == (7, 8) and before["revision"] != after["revision"]


def test_subsets_in_proportion_to_their_size_where_it_is_stated(ask: Ask) -> None:
    """40 and 10 records: of 25, 20 and 5; of a share of 10 %, 4 and 1. Not stated: the same number of each, as far as they go."""

    def parts(found: dict[str, Any]) -> Counter[bool]:
        return Counter(row["n"] < 100 for row in found["rows"])

    assert parts(ask("me/stated,count=25")) == {True: 20, False: 5}
    assert parts(ask("me/stated", share="0.1")) == {True: 4, False: 1}
    assert parts(ask("me/set,count=12")) == {True: 6, False: 6}
    assert parts(ask("me/set,count=49")) == {True: 39, False: 10}
    assert "does not state how many records" in ask("me/set", share="0.1")["error"]
    said = ask("me/set,count=51")["error"]
    assert said == "DataError: me/set,count=51: 50 records were found there. Leave count out to take them all."


def test_an_interrupted_draw_goes_on_with_the_subsets_that_are_missing(ask: Ask, hub: LoopbackHub) -> None:
    """With seed 8 subset two comes first; one cannot be fetched at first."""
    hub.datasets["me/stated"].broken = "one/train-0.parquet"
    broken = ask("me/stated", seed=8)["error"]
    assert broken.startswith("DataError: me/stated: ") and "\n" not in broken
    hub.datasets["me/stated"].broken = None
    found = ask("me/stated", seed=8)
    assert found["said"] == ["me/stated, one: drawing all records"] and len(found["rows"]) == 50


def test_lines_and_images_beside_a_table(ask: Ask) -> None:
    assert sorted(row["n"] for row in ask("me/lines")["rows"]) == list(range(7))
    found = {row["n"]: row["image"] for row in ask("me/images")["rows"]}
    assert found == {number: hashlib.sha256(png(number)).hexdigest() for number in range(4)}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("me/set,subset=thre", "me/set has no subset 'thre'; it has one, two."),
        ("me/set,split=test", "Bad split: test. Available splits: ['train']"),
        ("me/set,revision=v9", "me/set has no revision 'v9'. Its branches and tags are listed at http://127.0.0.1:"),
        ("me/none", "the dataset me/none is missing, private or gated, and no file of that name exists here."),
        ("me/private", "the dataset me/private is missing, private or gated"),
        ("me/gated", "me/gated is gated: accept its terms at http://127.0.0.1:"),
        ("me/refusing", "me/refusing: the Hub refuses access."),
        ("me/down", "me/down: the Hub answered with error 500. Try again later."),
        ("me/script", "Dataset scripts are no longer supported"),
        ("me/empty", "doesn't contain any data files"),
    ],
)
def test_refused_in_one_line(ask: Ask, spec: str, said: str) -> None:
    error = ask(spec)["error"]
    assert error.startswith("DataError: ") and said in error and "\n" not in error and len(error) < 400


def test_a_token_lets_in_and_is_not_told(ask: Ask) -> None:
    assert ask("me/private", token="hf_secret123")["rows"] == [{"n": 5}]
    assert "hf_secret" not in ask("me/gated", token="hf_secret124")["error"]


def test_nothing_half_drawn_has_a_name(ask: Ask, home: Path) -> None:
    """A count that cannot be reached leaves only what a later draw can use; a whole draw holds its record and what that names."""
    ask("me/set,count=52")
    ask("me/set,count=49")
    whole = [folder for folder in (home / "cache").iterdir() if folder.is_dir() and not folder.name.endswith(".partial")]
    for folder in whole:
        named = {part["file"] for part in json.loads((folder / "draw.json").read_text())["parts"]}
        assert {path.name for path in folder.iterdir()} == named | {"draw.json"}
    assert whole and not list((home / "cache").rglob("*.tmp"))


def test_parts_of_a_count() -> None:
    spec = DataSpec("me/set", count=10)
    assert _quotas(spec, None, [1000, 0, 1000]) == [5, 0, 5] and sum(filter(None, _quotas(spec, None, [3, 3, 3]))) == 10
    assert sorted(filter(None, _quotas(spec, None, [None, 5, 7]))) == [3, 3, 4]
    assert _even(2, 5) == [0, 0, 1, 0, 1] and sum(_even(7, 3)) == 7


def test_at_most_so_many_records(ask: Ask) -> None:
    """A probe draws no more than it can use, and takes a dataset that has fewer as it is; a count that is not reached stays refused."""
    assert len(ask("me/set,subset=one", at_most=7)["rows"]) == 7
    assert len(ask("me/set,subset=two", at_most=500)["rows"]) == 10
    assert "10 records were found there. Leave count out" in ask("me/set,subset=two,count=500")["error"]
    assert len(ask("me/set,subset=two", at_most=500, local_files_only=True)["rows"]) == 10
