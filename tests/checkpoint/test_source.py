"""Find a checkpoint by folder, by the word mini, or on a Hub: the real client against a real server on this machine."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.checkpoint.index import Checkpoint
from hf_layerprune.checkpoint.source import resolve
from hf_layerprune.errors import CheckpointError, SourceError
from tests.checkpoint.independent import read_model
from tests.hub.loopback import LoopbackHub, serve
from tests.hub.models import content
from tests.hub.state import Files, Repo
from tests.tiny_checkpoint import make_checkpoint, make_config

TOKEN = "hf_verysecrettoken1234"

# --- folders --------------------------------------------------------------------------------------------------------------


def test_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = resolve(str(source))
    assert (found.id, found.path, found.commit) == ("source", source, None)
    monkeypatch.chdir(source)
    assert resolve(".").id == "source"


def test_subfolder(source: Path) -> None:
    found = resolve(str(source.parent), subfolder="source")
    assert Checkpoint.open(found.path, found.id).facts.layers == 6


def test_mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    monkeypatch.setattr("hf_layerprune.checkpoint.source.model_path", lambda: source)
    monkeypatch.chdir(tmp_path)
    assert resolve("mini").path == source and resolve("mini").id == "mini"
    make_checkpoint(tmp_path / "mini")
    assert resolve("mini").path == Path("mini")


LOCAL: dict[str, tuple[str, dict[str, Any], str]] = {
    "nothing of that name": ("no such model", {}, "'no such model' is neither an existing folder, nor 'mini', nor a Hub id"),
    "missing path": ("./models/qwen", {}, "is neither an existing folder"),
    "absolute path": ("/no/such/folder", {}, "is neither an existing folder"),
    "name too long": ("é" * 128, {}, "not a valid path or Hub id"),
    "path too long": ("a/" * 2049, {}, "not a valid path or Hub id"),
    "a NUL": ("a\0b", {}, "not a valid path or Hub id"),
    "one word": ("gpt2", {}, "is neither an existing folder"),
    "two hyphens, which the Hub does not take": ("a/b--c", {}, "is neither an existing folder"),
    "a name that ends in .git": ("a/b.git", {}, "is neither an existing folder"),
    "a letter too many": ("minni", {}, r"nor a Hub id \(owner/name\)\. Did you mean 'mini'\?$"),
    "a letter less": ("sorce", {}, r"Did you mean 'source'\?$"),
    "a path with a letter less": ("./source/additonal", {}, r"Did you mean 'source/additional'\?$"),
    "three parts": ("a/b/c", {}, "is neither an existing folder"),
    "line break": ("a/b\nc", {}, r"'a/b\\nc' is neither"),
    "not ASCII": ("a/ü", {}, "is neither"),
    "address": ("https://huggingface.co/a/b", {}, "is neither"),
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
        resolve(name, **options)
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


def test_without_weights_a_folder_needs_none(source: Path) -> None:
    (source / "model.safetensors").unlink()
    assert resolve(str(source), weights=False).path == source


# --- the Hub --------------------------------------------------------------------------------------------------------------

CLIENT = """
import json, sys
from hf_layerprune.checkpoint.source import resolve
from hf_layerprune.errors import LayerPruneError
for line in sys.stdin:
    call = json.loads(line)
    try:
        found = resolve(call.pop("source"), **call)
        print(json.dumps({"id": found.id, "path": str(found.path), "commit": found.commit}), flush=True)
    except LayerPruneError as error:
        suggestion = getattr(error, "suggestion", None)
        print(json.dumps({"kind": type(error).__name__, "error": str(error), "suggestion": suggestion}), flush=True)
    except Exception as error:
        print(json.dumps({"kind": type(error).__name__, "error": repr(error)}), flush=True)
"""


class Client:
    """The package in a process of its own, whose huggingface_hub knows no other Hub than ours."""

    def __init__(self, url: str, home: Path, **environment: str) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        hub = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            env={**inherited, **hub, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def resolve(self, source: str, **options: Any) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"source": source, **options}) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:  # warnings of the libraries stand between the answers
            self.output += line
            if line.startswith("{"):
                return json.loads(line)
        raise AssertionError(self.output)

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = make_checkpoint(tmp_path_factory.mktemp("upload") / "model", shards=2)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def hub(files: Files) -> Iterator[LoopbackHub]:
    small = {name: content for name, content in files.items() if "safetensors" not in name}
    quantized = json.dumps(make_config(quantization_config={"quant_method": "fp8"})).encode()
    with serve() as server:
        for name, content, options in (
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
            server.repos[name] = Repo(**options)
            server.repos[name].push(content)
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(hub: LoopbackHub, home: Path) -> Iterator[Client]:
    opened = Client(hub.url, home)
    yield opened
    opened.close()
    assert TOKEN not in opened.output


def test_download_and_offline(hub: LoopbackHub, home: Path, client: Client, files: Files) -> None:
    commit = hub.repos["Qwen/Tiny-Instruct"].refs["main"]
    assert "not, or not wholly, in the cache" in client.resolve("Qwen/Tiny-Instruct", local_files_only=True)["error"]
    small = client.resolve("Qwen/Tiny-Instruct", weights=False)
    assert set(content(Path(small["path"]))) == {name for name in files if not name.endswith((".safetensors", ".gitattributes"))}
    assert "not, or not wholly, in the cache" in client.resolve("Qwen/Tiny-Instruct", local_files_only=True)["error"]
    whole = client.resolve("Qwen/Tiny-Instruct")
    assert (whole["id"], whole["commit"]) == ("Qwen/Tiny-Instruct", commit)
    assert content(Path(whole["path"])) == {name: data for name, data in files.items() if name != ".gitattributes"}
    checkpoint = Checkpoint.open(Path(whole["path"]), whole["id"], whole["commit"])
    assert checkpoint.tensors.keys() == read_model(Path(whole["path"])).keys()
    asked = len(hub.requests)
    for revision in (None, "main", commit):
        assert client.resolve("Qwen/Tiny-Instruct", revision=revision, local_files_only=True) == whole
    assert len(hub.requests) == asked
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        away = Client(hub.url, home, **environment)
        assert away.resolve("Qwen/Tiny-Instruct") == whole
        missing = away.resolve("Qwen/Other")["error"]
        assert "--local-files-only" in missing and "\n" not in missing
        away.close()


def test_all_files_are_of_one_commit(hub: LoopbackHub, client: Client, files: Files) -> None:
    """The repository moves on right after its files were listed."""
    repo = hub.repos["me/moving"]
    first = repo.refs["main"]
    repo.on_tree = lambda: repo.push({**files, "LICENSE": b"changed"})
    found = client.resolve("me/moving")
    assert found["commit"] == first != repo.refs["main"]
    assert (Path(found["path"]) / "LICENSE").read_bytes() == files["LICENSE"]
    assert {path.split("/")[4] for path in hub.requests if path.startswith("/me/moving/resolve/")} <= {first}


def test_dropped_connections_are_tried_again(hub: LoopbackHub, client: Client, files: Files) -> None:
    found = client.resolve("me/flaky")
    assert content(Path(found["path"]))["model-00001-of-00002.safetensors"] == files["model-00001-of-00002.safetensors"]
    assert hub.repos["me/flaky"].drops == 0


def test_subfolder_of_a_repository(client: Client) -> None:
    found = client.resolve("me/nested", subfolder="checkpoints/7")
    assert Checkpoint.open(Path(found["path"]), found["id"], found["commit"]).facts.layers == 6
    assert "has no folder 'checkpoints/8'" in client.resolve("me/nested", subfolder="checkpoints/8")["error"]


def test_token(client: Client) -> None:
    assert client.resolve("me/secret", token=TOKEN)["id"] == "me/secret"
    assert client.resolve("me/gated", token=TOKEN)["id"] == "me/gated"


FAILURES: dict[str, tuple[str, dict[str, Any], str]] = {
    "missing": (
        "Qwen/Absent",
        {},
        "Qwen/Absent is missing, private or gated, and no folder .* log in .hf auth login., or accept its terms at",
    ),
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
}


@pytest.mark.parametrize(("source", "options", "message"), FAILURES.values(), ids=FAILURES)
def test_failures(client: Client, hub: LoopbackHub, source: str, options: dict[str, Any], message: str) -> None:
    answer = client.resolve(source, **options)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(answer["error"])
    assert answer["kind"] in ("SourceError", "FamilyError") and answer.get("suggestion") is None
    assert "\n" not in answer["error"] and TOKEN[:-1] not in answer["error"]
    if source in ("me/adapter", "me/quantized"):  # refused before the weights are fetched
        assert not any(path.startswith(f"/{source}/") and path.endswith(".safetensors") for path in hub.requests)


def test_the_right_id_is_suggested(client: Client) -> None:
    answer = client.resolve("Qwen/Tiny")
    assert answer["error"] == "Qwen/Tiny is missing, private or gated; Qwen/Tiny-Instruct exists: pass that, or add --yes."
    assert answer["suggestion"] == "Qwen/Tiny-Instruct"


def test_a_pickle_is_never_fetched(client: Client, hub: LoopbackHub) -> None:
    client.resolve("me/pickled")
    assert not any("pytorch_model.bin" in path for path in hub.requests)
