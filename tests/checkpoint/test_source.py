"""Find a checkpoint by folder, by the word mini, or on a Hub: the real client against a real server on this machine."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_layerprune.checkpoint.source import Place, resolve
from hf_layerprune.errors import CheckpointError, FamilyError, SourceError
from tests.checkpoint.independent import read_model
from tests.hub.loopback import LoopbackHub
from tests.hub.models import content
from tests.hub.state import Files, Repo
from tests.tiny_checkpoint import make_checkpoint, make_config

TOKEN = "hf_verysecrettoken1234"

# --- folders --------------------------------------------------------------------------------------------------------------


def test_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve(str(source))
    assert (found.id, found.path, found.commit) == ("source", source, None)
    assert resolve(str(source.parent), Place(subfolder="source")).open().facts.layers == 6
    monkeypatch.chdir(source)
    assert resolve(".").id == "source"
    (source / "model.safetensors").unlink()
    assert resolve(str(source), weights=False).path == source


def test_mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    monkeypatch.setattr("hf_layerprune.checkpoint.source.model_path", lambda: source)
    monkeypatch.chdir(tmp_path)
    assert resolve("mini").path == source and resolve("mini").id == "mini"
    make_checkpoint(tmp_path / "mini")
    assert resolve("mini").path == Path("mini")


LOCAL: dict[str, tuple[str, dict[str, Any], str]] = {
    "nothing of that name": ("no such model", {}, "'no such model' is neither an existing folder, nor 'mini', nor a Hub id"),
    "absolute path": ("/no/such/folder", {}, "is neither an existing folder"),
    "name too long": ("é" * 128, {}, "not a valid path or Hub id"),
    "path too long": ("a/" * 2049, {}, "not a valid path or Hub id"),
    "a NUL": ("a\0b", {}, "not a valid path or Hub id"),
    "two hyphens, which the Hub does not take": ("a/b--c", {}, "is neither an existing folder"),
    "a name that ends in .git": ("a/b.git", {}, "is neither an existing folder"),
    "a letter too many": ("minni", {}, r"nor a Hub id \(owner/name\)\. Did you mean 'mini'\?$"),
    "a letter less": ("sorce", {}, r"Did you mean 'source'\?$"),
    "a path with a letter less": ("./source/additonal", {}, r"Did you mean 'source/additional'\?$"),
    "line break": ("a/b\nc", {}, r"'a/b\\nc' is neither"),
    "not ASCII": ("a/ü", {}, "is neither"),
    "address": ("https://example.org/a/b", {}, "is neither"),
    "empty": ("", {}, "the source is empty"),
    "revision of a folder": ("source", {"revision": "main"}, "only an id on the Hub has revisions"),
    "revision of mini": ("mini", {"revision": "main"}, "only an id on the Hub has revisions"),
    "a file": ("source/config.json", {}, "is a file. Pass the folder"),
    "subfolder out": ("source", {"subfolder": "../x"}, "subfolder '../x': expected a path inside"),
    "subfolder absent": ("source", {"subfolder": "absent"}, "source has no folder 'absent'"),
    "adapter": ("adapter", {}, "adapter is a peft adapter"),
    "empty folder": ("empty", {}, "empty holds no model.safetensors"),
}


@pytest.mark.parametrize(("name", "options", "message"), LOCAL.values(), ids=LOCAL)
def test_refused(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").touch()
    with pytest.raises(SourceError, match=message) as caught:
        resolve(name, Place(**options))
    assert "\n" not in str(caught.value)


REFUSING: dict[str, tuple[str, int, str]] = {
    "it may not be looked at": ("stat", errno.EACCES, "source: cannot look at it: Permission denied. Make it readable"),
    "its disk fails": ("stat", errno.EIO, "source: cannot look at it: Input/output error. Check the disk"),
    "it may not be listed": ("listdir", errno.EACCES, "source: cannot list it: Permission denied. Make it readable for you"),
}


@pytest.mark.parametrize(("call", "number", "message"), REFUSING.values(), ids=REFUSING)
def test_a_folder_that_the_system_refuses(source: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, message: str) -> None:
    original = getattr(os, call)

    def refuse(path: Any, *rest: Any, **options: Any) -> Any:
        if os.fspath(path) == str(source):
            raise OSError(number, os.strerror(number))
        return original(path, *rest, **options)

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve(str(source))
    assert "\n" not in str(caught.value)


# --- the Hub --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = make_checkpoint(tmp_path_factory.mktemp("upload") / "model", shards=2)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def hub(own_hub: LoopbackHub, files: Files) -> LoopbackHub:
    small = {name: content for name, content in files.items() if "safetensors" not in name}
    quantized = json.dumps(make_config(quantization_config={"quant_method": "fp8"})).encode()
    for name, held, options in (
        ("Qwen/Tiny-Instruct", files, {}),
        ("me/secret", files, {"token": TOKEN}),
        ("me/gated", files, {"token": TOKEN, "gated": True}),
        ("me/forbidden", files, {"status": 403}),
        ("me/busy", files, {"status": 429}),
        ("me/ill", files, {"status": 500}),
        ("me/flaky", files, {"drop_at": 1000, "drops": 2}),
        ("me/moving", files, {}),
        ("me/adapter", {**small, "adapter_config.json": b"{}"}, {}),
        ("me/pipeline", {"model_index.json": b"{}"}, {}),
        ("me/pickled", {**small, "pytorch_model.bin": b"evil"}, {}),
        ("me/quantized", {**files, "config.json": quantized}, {}),
        ("me/nested", {f"checkpoints/7/{name}": data for name, data in files.items()}, {}),
    ):
        own_hub.repos[name] = Repo.of(held, **options)
    return own_hub


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))


def test_download_and_offline(hub: LoopbackHub, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    name, commit = "Qwen/Tiny-Instruct", hub.repos["Qwen/Tiny-Instruct"].refs["main"]
    with pytest.raises(SourceError, match="not, or not wholly, in the cache"):
        resolve(name, Place(local_files_only=True))
    small = resolve(name, weights=False)
    assert set(content(small.path)) == {file for file in files if not file.endswith((".safetensors", ".gitattributes"))}
    with pytest.raises(SourceError, match="not, or not wholly, in the cache"):
        resolve(name, Place(local_files_only=True))
    whole = resolve(name)
    assert (whole.id, whole.commit) == (name, commit)
    assert content(whole.path) == {file: data for file, data in files.items() if file != ".gitattributes"}
    assert whole.open().tensors.keys() == read_model(whole.path).keys()
    asked = len(hub.requests)
    for revision in (None, "main", commit):
        assert resolve(name, Place(revision=revision, local_files_only=True)).path == whole.path
    assert len(hub.requests) == asked
    for setting, value in {"HF_HUB_OFFLINE": True, "ENDPOINT": "http://127.0.0.1:9"}.items():
        with monkeypatch.context() as patch:
            patch.setattr(f"huggingface_hub.constants.{setting}", value)
            assert resolve(name).path == whole.path
            with pytest.raises(SourceError, match="--local-files-only") as caught:
                resolve("Qwen/Other")
            assert "\n" not in str(caught.value)


def test_all_files_are_of_one_commit(hub: LoopbackHub, files: Files) -> None:
    """The repository moves on right after its files were listed."""
    repo = hub.repos["me/moving"]
    first = repo.refs["main"]
    repo.on_tree = lambda: repo.push({**files, "LICENSE": b"changed"})
    found = resolve("me/moving")
    assert found.commit == first != repo.refs["main"]
    assert (found.path / "LICENSE").read_bytes() == files["LICENSE"]
    assert {path.split("/")[4] for path in hub.requests if path.startswith("/me/moving/resolve/")} <= {first}


def test_dropped_connections_are_tried_again(hub: LoopbackHub, files: Files) -> None:
    found = resolve("me/flaky")
    assert content(found.path)["model-00001-of-00002.safetensors"] == files["model-00001-of-00002.safetensors"]
    assert hub.repos["me/flaky"].drops == 0


@pytest.mark.usefixtures("hub")
def test_subfolders_and_tokens() -> None:
    assert resolve("me/nested", Place(subfolder="checkpoints/7")).open().facts.layers == 6
    with pytest.raises(SourceError, match="has no folder 'checkpoints/8'"):
        resolve("me/nested", Place(subfolder="checkpoints/8"))
    assert resolve("me/secret", Place(token=TOKEN)).id == "me/secret"
    assert resolve("me/gated", Place(token=TOKEN)).id == "me/gated"


FAILURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "missing": ("Qwen/Absent", {}, "Qwen/Absent is missing, private or gated, and no folder .* log in .*, or accept its terms at"),
    "private": ("me/secret", {}, "me/secret is missing, private or gated"),
    "wrong token": ("me/secret", {"token": TOKEN[:-1]}, "me/secret is missing, private or gated"),
    "gated": ("me/gated", {}, "me/gated is gated: accept its terms at http.*/me/gated"),
    "no revision": ("Qwen/Tiny-Instruct", {"revision": "v9"}, "Qwen/Tiny-Instruct has no revision 'v9'"),
    "no commit": ("Qwen/Tiny-Instruct", {"revision": "0" * 40}, "Qwen/Tiny-Instruct"),
    "forbidden": ("me/forbidden", {"token": TOKEN}, "me/forbidden: the Hub refuses access. Accept the terms at"),
    "busy": ("me/busy", {}, "me/busy: the Hub asks for fewer requests"),
    "ill": ("me/ill", {}, "me/ill: the Hub answered with error 500"),
    "adapter": ("me/adapter", {}, "is a peft adapter"),
    "pipeline": ("me/pipeline", {}, "is a diffusers pipeline"),
    "pickled": ("me/pickled", {}, "holds no model.safetensors .* must be converted to safetensors first"),
    "quantized": ("me/quantized", {}, r"me/quantized/config\.json: the checkpoint is quantized .*'fp8'"),
    "an id that is nearly right": ("Qwen/Tiny", {}, "^Qwen/Tiny is missing, .*; Qwen/Tiny-Instruct exists: pass that, or add --yes.$"),
}


@pytest.mark.parametrize(("source", "options", "message"), FAILURES.values(), ids=FAILURES)
def test_failures(
    hub: LoopbackHub, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], source: str, options: Any, message: str
) -> None:
    with pytest.raises((SourceError, FamilyError), match=message) as caught:
        resolve(source, Place(**options))
    assert getattr(caught.value, "suggestion", None) == ("Qwen/Tiny-Instruct" if source == "Qwen/Tiny" else None)
    said = str(caught.value)
    assert "\n" not in said and TOKEN[:-1] not in said + caplog.text + "".join(capfd.readouterr())
    fetched = [path for path in hub.requests if path.startswith(f"/{source}/")]
    assert not any("pytorch_model.bin" in path for path in fetched)  # a pickle is never fetched
    if source in ("me/adapter", "me/quantized"):  # refused before the weights are fetched
        assert not any(path.endswith(".safetensors") for path in fetched)
