"""Rows of BAD_INPUT.md on images, data, untrusted code and the Hub: exit code, one line, and a file system that is as it was."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.hub.loopback import LoopbackHub
from tests.hub.state import Repo
from tests.pins.commands import CONVERT, check_refused, run, snapshot
from tests.pins.static_checkpoint import WEIGHTS

pytestmark = pytest.mark.usefixtures("one_thread")
PROBE = "convert mini --method math --math-images".split()
REST = "--dtype float32 --device cpu --no-cache -o out".split()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder that commands run in; in it a folder `images`, empty, and an image beside that."""
    folder = tmp_path / "here"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (64, 64), (200, 30, 30)).save(folder / "outside.png")
    return folder


# --- images ---------------------------------------------------------------------------------------------------------------


def png(side: int, rows: bytes) -> bytes:
    """An RGB image of so many pixels each way, as its header says."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


UNUSABLE = {
    "zero bytes": b"",
    "text": b"not an image",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
    "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
    "truncated": png(400, bytes(52)),
    "bomb": png(50_000, bytes(1000)),
}


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_image(here: Path, content: bytes) -> None:
    (here / "images/a.png").write_bytes(content)
    check_refused(here, *PROBE, "images", *REST)


def odd_images(folder: Path) -> None:
    """Whatever a decoder must turn into three colours: of one pixel, animated, of print, 16-bit, clear, turned."""
    red = Image.new("RGB", (48, 32), (255, 0, 0))
    red.resize((1, 1)).save(folder / "pixel.png")
    red.save(folder / "animated.gif", save_all=True, append_images=[Image.new("RGB", (48, 32), (0, 0, 255))], duration=10)
    Image.new("CMYK", (48, 32), (0, 255, 255, 0)).save(folder / "print.jpg")
    Image.fromarray(np.full((32, 48), 60_000, np.uint16)).save(folder / "grey16.png")
    red.quantize(2).save(folder / "clear.png", transparency=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    red.save(folder / "turned.jpg", exif=exif)


def test_odd_images_are_decoded(here: Path) -> None:
    odd_images(here / "images")
    done = run(here, *PROBE, "images", *REST, "--json")
    assert done.code == 0, done.err
    probe = done.json["probe"]
    assert probe["domains"]["math"]["images"] == 6 and probe["skipped"] == []


def test_one_unusable_image_within_the_limit(here: Path) -> None:
    """Skipped, counted and listed."""
    Image.new("RGB", (64, 64), (0, 99, 0)).save(here / "images/a.png")
    (here / "images/b.png").write_bytes(b"")
    done = run(here, *PROBE, "images", "--max-bad", "50%", *REST, "--json")
    assert done.code == 0, done.err
    assert done.json["probe"]["skipped_count"] == {"math": 1} and len(done.json["probe"]["skipped"]) == 1


LINES = {
    "no JSON": "{image: 1}",
    "no object": "[]",
    "no image": '{"img": "a.png"}',
    "not there": '{"image": "nowhere.png"}',
    "outside": '{"image": "../outside.png"}',
    "absolute and outside": '{"image": "/etc/passwd"}',
    "outside by a link": '{"image": "up/outside.png"}',
    "a URL": '{"image": "https://example.org/a.png"}',
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_line_of_images(here: Path, line: str) -> None:
    """Its number is named."""
    shutil.copy(here / "outside.png", here / "images/a.png")
    (here / "images/up").symlink_to("..")
    (here / "images/set.jsonl").write_text('{"image": "a.png"}\n' + line + "\n")
    assert "line 2" in check_refused(here, *PROBE, "images/set.jsonl", *REST).err


QUESTIONS = {
    "no answer": '{"question": "?", "image": "a.png"}',
    "a URL": '{"question": "?", "image": "https://example.org/a.png", "answer": "1"}',
    "no JSON": "{question: 1}",
}


@pytest.mark.parametrize("line", QUESTIONS.values(), ids=QUESTIONS)
def test_a_line_of_questions(here: Path, line: str) -> None:
    (here / "questions.jsonl").write_text(line + "\n")
    assert "line 1" in check_refused(here, *"evaluate mini --tasks questions.jsonl -o out".split()).err


# --- code and templates of a checkpoint -----------------------------------------------------------------------------------


@pytest.fixture
def model(run_mini: Path, tmp_path: Path) -> Path:
    """A copy of mini, with a module that leaves a mark when it is imported."""
    folder = tmp_path / "here/model"
    shutil.copytree(run_mini, folder, ignore=shutil.ignore_patterns("layerprune"))
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    return folder


@pytest.fixture(scope="module")
def run_mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mini without a layer, as a source of one's own."""
    folder = tmp_path_factory.mktemp("mini")
    assert run(folder, *"convert mini --layers 5 -o model".split()).code == 0
    return folder / "model"


@pytest.mark.parametrize(
    "command", ["probe model --samples 1 -o out", "heal model --data mini,count=4 -o out", "evaluate model --tasks mini-math -o out"]
)
def test_code_of_its_own_is_refused_where_a_model_runs(model: Path, command: str) -> None:
    config = json.loads((model / "config.json").read_text()) | {"auto_map": {"AutoModelForImageTextToText": "modeling.Evil"}}
    (model / "config.json").write_text(json.dumps(config))
    check_refused(model.parent, *command.split())
    assert not (model.parent.parent / "ran").exists()


TEMPLATES = {
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a command": "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
    "a file": "{% include '/etc/passwd' %}",
    "a loop of a billion": "{% for i in range(1000000000) %}x{% endfor %}",
    "no template": "{% for",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_hostile_template_is_not_obeyed(model: Path, template: str) -> None:
    mark = model.parent.parent / "mark"
    (model / "chat_template.jinja").write_text(template.replace("MARK", str(mark)))
    done = check_refused(model.parent, *"probe model --samples 1 --no-cache --device cpu -o out".split())
    assert not mark.exists() and "root:" not in done.err


# --- the Hub --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(hub: LoopbackHub, source: Path) -> LoopbackHub:
    """A model, one that is gated, one that may not be read, one of pickled weights, and one of bitsandbytes."""
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    quantized = json.loads(files["config.json"]) | {"quantization_config": {"quant_method": "fp8"}}
    hub.repos.clear()
    for name, repo, content in (
        ("Qwen/Tiny-VL-Instruct", Repo(), files),
        ("you/gated", Repo(token="another", gated=True), files),
        ("you/forbidden", Repo(status=403), files),
        ("you/pickled", Repo(), {"config.json": files["config.json"], "pytorch_model.bin": b""}),
        ("you/quantized", Repo(), files | {"config.json": json.dumps(quantized).encode()}),
    ):
        hub.repos[name] = repo
        repo.push(content)
    return hub


REMOTE = ("you/absent", "Qwen/Tiny-VL", "you/gated", "you/forbidden", "you/quantized", "Qwen/Tiny-VL-Instruct --revision v9")


@pytest.mark.parametrize("command", [*(f"convert {name} --layers 3 -o out" for name in REMOTE), *(f"inspect {name}" for name in REMOTE)])
def test_a_model_on_the_hub(filled: LoopbackHub, source: Path, command: str) -> None:
    check_refused(source.parent, *command.split())


def test_pickled_weights_on_the_hub(filled: LoopbackHub, source: Path) -> None:
    check_refused(source.parent, "inspect", "you/pickled")


def test_offline(filled: LoopbackHub, source: Path) -> None:
    check_refused(source.parent, *"inspect Qwen/Tiny-VL-Instruct --local-files-only".split())


def without_licence(folder: Path) -> None:
    (folder / "README.md").write_text("# Tiny\n")


def nothing(folder: Path) -> None: ...


def changed(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


PUSHES: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], str]] = {
    "no right to write": (nothing, nothing, "push out Qwen/Tiny-VL-Instruct"),
    "no such pull request": (nothing, nothing, "push out me/new --revision refs/pr/3"),
    "licence unknown": (without_licence, nothing, "push out me/new"),
    "changed since": (nothing, changed, "push out me/new"),
    "a file too many": (nothing, lambda folder: (folder / "pytorch_model.bin").touch(), "push out me/new"),
    "a record that leads out": (
        nothing,
        lambda folder: ((folder / "layerprune/plan.json").unlink(), (folder / "layerprune/plan.json").symlink_to("/etc/passwd")),
        "push out me/new",
    ),
}


@pytest.mark.parametrize(("before", "after", "command"), PUSHES.values(), ids=PUSHES)
def test_a_push(filled: LoopbackHub, source: Path, before: Callable[[Path], object], after: Callable[[Path], object], command: str) -> None:
    """Nothing is sent, and no repository is made."""
    held = {name: dict(repo.refs) for name, repo in filled.repos.items()}
    before(source)
    assert run(source.parent, *CONVERT).code == 0
    after(source.parent / "out")
    check_refused(source.parent, *command.split())
    assert {name: dict(repo.refs) for name, repo in filled.repos.items()} == held


def test_a_pushed_model_that_is_not_what_its_manifest_says(filled: LoopbackHub, source: Path) -> None:
    """`verify` tells the difference, `apply` takes it for no plan; nothing is written."""
    assert run(source.parent, *CONVERT).code == 0
    files = {
        path.relative_to(source.parent / "out").as_posix(): path.read_bytes()
        for path in (source.parent / "out").rglob("*")
        if path.is_file()
    }
    filled.repos["you/short"] = Repo()
    filled.repos["you/short"].push(files | {WEIGHTS: files[WEIGHTS][:-1] + b"\0"})
    before = snapshot(source.parent)
    done: Any = run(source.parent, *"verify you/short --json".split())
    assert (done.code, done.json["ok"]) == (1, False)
    check_refused(source.parent, *"apply source you/short -o again".split())
    assert snapshot(source.parent) == before
