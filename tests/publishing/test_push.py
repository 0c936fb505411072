"""What a push sends, a second push sends, and what it leaves alone, over HTTP with the real huggingface_hub."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune import LayerPruner
from hf_layerprune.checkpoint.verify import verify_remote
from hf_layerprune.errors import PublishError
from hf_layerprune.publishing.push import Pushed
from tests.hub.loopback import LoopbackHub
from tests.hub.models import content
from tests.hub.pushing import OTHER, REPO, TOKEN, pruned_folder, push, same_model
from tests.hub.state import Repo

Push = Callable[..., Pushed]
PAGE = "layerprune/card.json"
THEIRS = "Come to our talk on Monday.\n"


@pytest.fixture
def folder(hub: LoopbackHub, tmp_path: Path) -> Path:
    return pruned_folder(tmp_path)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def pushed(folder: Path, said: list[str]) -> Push:
    """A function that pushes the folder as `me`."""
    return lambda **options: push(folder, REPO, **{"token": TOKEN, "say": said.append, **options})


def edit(repo: Repo, ref: str, name: str, change: Callable[[str], str]) -> None:
    """As a person edits a file on the page of a repository."""
    files = dict(repo.files(ref))
    files[name] = change(files[name].decode()).encode()
    repo.commit(ref, files, "edited")


def test_all_that_belongs_goes_and_nothing_else(hub: LoopbackHub, folder: Path, pushed: Push, said: list[str]) -> None:
    before = content(folder)
    (folder / "layerprune" / "answers.jsonl").write_text('{"question": "?"}')
    (folder / "layerprune" / ".partial").write_text("")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "token").write_text(TOKEN)
    done = pushed()
    there = hub.repos[REPO].files()
    assert {name: there[name] for name in before} == before
    assert there.keys() - before.keys() == {".gitattributes", "README.md", PAGE}
    assert done.created and done.unchanged == () and {*done.uploaded} == there.keys() - {".gitattributes"}
    assert done.left == ("layerprune/answers.jsonl",) and said == ["not published: 'layerprune/answers.jsonl'"]
    assert (done.url, done.commit, done.pull_request) == (f"{hub.url}/{REPO}", hub.repos[REPO].refs["main"], None)
    assert verify_remote(REPO, token=TOKEN).ok
    assert there["README.md"].startswith(b"---\nlibrary_name: transformers\nlicense: apache-2.0\n")
    assert not (folder / "README.md").exists(), "a push changes nothing in the folder"


def test_from_python(hub: LoopbackHub, folder: Path) -> None:
    pruner = LayerPruner.from_pretrained(folder, statistics_folder=None)
    assert pruner.push_to_hub(REPO, folder, token=TOKEN, private=True).created
    assert hub.repos[REPO].private and same_model(hub, folder)


def test_the_cell_of_the_notebook_that_pushes(hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Its run pushes nothing, as it names no repository; here it does."""
    cells = json.loads((Path(__file__).parents[2] / "examples" / "prune_mini.ipynb").read_text())["cells"]
    [source] = ["".join(cell["source"]) for cell in cells if cell["source"][0].startswith("REPO = ")]
    shutil.copytree(folder, folder.with_name("mini-healed"))
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    exec(source.replace('REPO = ""', f'REPO = "{REPO}"'), {"pruner": LayerPruner.from_pretrained("mini", statistics_folder=None)})
    assert capsys.readouterr().out == f"{hub.url}/{REPO}\n" and hub.repos[REPO].private and same_model(hub, folder)


def test_the_commit(hub: LoopbackHub, pushed: Push) -> None:
    pushed(commit_message="Shorter")
    assert hub.repos[REPO].summaries == ["Shorter"]
    assert not hub.repos[REPO].private
    pushed(commit_message="again")
    assert hub.repos[REPO].summaries == ["Shorter"]


def test_private(hub: LoopbackHub, pushed: Push) -> None:
    pushed(private=True)
    assert hub.repos[REPO].private
    assert pushed(private=True).uploaded == ()


def test_with_nothing_changed_there_is_no_commit(hub: LoopbackHub, pushed: Push) -> None:
    first = pushed()
    hub.requests.clear()
    again = pushed()
    assert (again.uploaded, again.commit, again.created) == ((), first.commit, False)
    assert {*again.unchanged} == {*first.uploaded}
    assert not [path for path in hub.requests if "commit" in path or "lfs" in path or "preupload" in path]


def test_only_what_changed_is_sent(hub: LoopbackHub, folder: Path, pushed: Push) -> None:
    pushed()
    hub.puts.clear()
    record = folder / "layerprune" / "source.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"license_name": "the usual one"}))
    assert pushed().uploaded == ("layerprune/source.json", PAGE, "README.md")
    assert hub.puts == [] and same_model(hub, folder)


def test_what_an_earlier_push_left_goes(hub: LoopbackHub, folder: Path, pushed: Push, said: list[str], tmp_path: Path) -> None:
    """Three shards, then one file: an index that is left would make transformers load the old ones."""
    (folder / "layerprune" / "healing.png").write_bytes(b"of the old weights")
    pushed()
    edit(hub.repos[REPO], "main", ".gitattributes", str.upper)
    files = {**hub.repos[REPO].files(), "notes/talk.txt": b"mine", "handler.py": b"mine"}
    hub.repos[REPO].commit("main", files, "added")
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "source")
    pruned_folder(tmp_path, shards=1)
    done = pushed()
    there = hub.repos[REPO].files()
    assert [name for name in there if "safetensors" in name] == ["model.safetensors"]
    removed = ", ".join(map(repr, sorted(done.deleted)))
    assert said == [
        f"removed on the Hub, where an earlier push put what this folder lacks: {removed}",
        "left as they are on the Hub, 2: 'handler.py', 'notes/talk.txt'",
    ]
    assert "model.safetensors.index.json" in done.deleted and "layerprune/healing.png" in done.deleted
    assert there["handler.py"] == there["notes/talk.txt"] == b"mine" and there[".gitattributes"].isupper()


def test_a_pull_request(hub: LoopbackHub, folder: Path, pushed: Push) -> None:
    pushed()
    before = hub.repos[REPO].refs["main"]
    (folder / "layerprune" / "more.json").write_text("{}")
    done = pushed(token=OTHER, create_pr=True)
    assert (done.pull_request, done.url) == ("refs/pr/1", f"{hub.url}/{REPO}/discussions/1")
    assert hub.repos[REPO].refs == {"main": before, "refs/pr/1": done.commit}
    assert hub.repos[REPO].files("refs/pr/1")["layerprune/more.json"] == b"{}"
    (folder / "layerprune" / "more.json").write_text("[]")
    on = pushed(token=OTHER, revision="refs/pr/1")
    assert on.uploaded == ("layerprune/more.json",) and on.pull_request == "refs/pr/1"
    assert same_model(hub, folder, ref="refs/pr/1") and hub.repos[REPO].refs["main"] == before
    assert pushed(token=OTHER, revision="refs/pr/1").commit == on.commit
    assert hub.repos[REPO].refs.keys() == {"main", "refs/pr/1"}


def test_nothing_to_propose(hub: LoopbackHub, pushed: Push) -> None:
    pushed()
    assert pushed(create_pr=True).pull_request is None and [*hub.repos[REPO].refs] == ["main"]


def test_a_branch(hub: LoopbackHub, folder: Path, pushed: Push) -> None:
    pushed()
    hub.repos[REPO].refs["next"] = main = hub.repos[REPO].refs["main"]
    (folder / "layerprune" / "more.json").write_text("{}")
    assert pushed(revision="next").url == f"{hub.url}/{REPO}/tree/next"
    assert hub.repos[REPO].refs["main"] == main and same_model(hub, folder, ref="next")


def test_large_files_go_in_parts(hub: LoopbackHub, folder: Path, pushed: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "part_size", 10_000)
    pushed()
    assert len(hub.puts) > 3 and same_model(hub, folder)


def test_a_persons_text_on_the_hub_stays(hub: LoopbackHub, folder: Path, pushed: Push, said: list[str]) -> None:
    pushed()
    edit(hub.repos[REPO], "main", "README.md", lambda text: text.replace("license: apache-2.0", "license: apache-2.0\nemoji: x") + THEIRS)
    (folder / "layerprune" / "more.json").write_text("{}")
    assert "README.md" not in pushed().uploaded
    assert said[-1].startswith("README.md: text that somebody wrote on the Hub is kept")
    pushed(license="mit")
    card = hub.repos[REPO].files()["README.md"].decode()
    assert "license: mit\n" in card and "emoji: x\n" in card and card.endswith(THEIRS)
    assert pushed(license="mit").uploaded == ()


def test_a_text_of_ones_own_goes(hub: LoopbackHub, folder: Path, pushed: Push) -> None:
    pushed()
    (folder / "README.md").write_bytes(hub.repos[REPO].files()["README.md"] + THEIRS.encode())
    assert pushed().uploaded == (PAGE, "README.md")
    assert hub.repos[REPO].files()["README.md"].decode().endswith(THEIRS)


def test_a_persons_file_among_the_records_stays(hub: LoopbackHub, folder: Path, pushed: Push, said: list[str]) -> None:
    """What goes is what a push wrote down that it put there."""
    for name in ("loss.png", "extra.json"):
        (folder / "layerprune" / name).write_bytes(b"{}")
    pushed()
    files = hub.repos[REPO].files()
    assert json.loads(files[PAGE])["records"] == sorted(name for name in files if name.startswith("layerprune/") and name != PAGE)
    hub.repos[REPO].commit("main", {**files, "layerprune/notes.json": b"mine"}, "a note")
    for name in ("loss.png", "extra.json"):
        (folder / "layerprune" / name).unlink()
    said.clear()
    assert pushed().deleted == ("layerprune/extra.json", "layerprune/loss.png")
    assert hub.repos[REPO].files()["layerprune/notes.json"] == b"mine"
    assert len(said) == 1 and said[0].startswith("removed on the Hub, where an earlier push put what this folder lacks: ")


def test_a_text_that_an_earlier_push_brought(hub: LoopbackHub, folder: Path, pushed: Push, said: list[str]) -> None:
    """It stays where the folder's card has none, as one that was written anew, and goes where it has another, which is said."""
    pushed()
    page = hub.repos[REPO].files()["README.md"]
    (folder / "README.md").write_bytes(page.replace(b"---\n", b"---\nemoji: x\n", 1) + THEIRS.encode())
    pushed()
    assert said == []
    for again in (True, False):
        (folder / "README.md").write_bytes(page) if again else (folder / "README.md").unlink()
        pushed(license="mit")
        card = hub.repos[REPO].files()["README.md"].decode()
        assert card.endswith(THEIRS) and "emoji: x\n" in card and "license: mit\n" in card
        assert said[-1].startswith("README.md: the text beside hf-layerprune's parts that an earlier push brought is kept")
    (folder / "README.md").write_bytes(page + b"Another talk.\n")
    pushed(license="mit")
    card = hub.repos[REPO].files()["README.md"].decode()
    assert card.endswith("Another talk.\n") and THEIRS not in card and "emoji" not in card
    assert said[-1] == "README.md: your text beside hf-layerprune's parts goes in place of the one that an earlier push brought."


@pytest.mark.parametrize("ours", ["", "license: mit\n"])
def test_our_parts_removed_on_the_hub(hub: LoopbackHub, folder: Path, pushed: Push, ours: str) -> None:
    """A person rewrites the card, without our parts and markers: none of ours being there is no card that we never wrote."""
    pushed()
    edit(hub.repos[REPO], "main", "README.md", lambda text: f"---\n{ours}emoji: x\n---\n# Mine\n")
    with pytest.raises(PublishError, match=r"were edited there, which a push would undo\. Propose the new card with --create-pr, or put"):
        pushed()
    assert hub.repos[REPO].files()["README.md"].endswith(b"# Mine\n")
    assert pushed(create_pr=True).pull_request == "refs/pr/1"


def test_a_key_that_a_person_set_and_we_set_now(hub: LoopbackHub, folder: Path, pushed: Push) -> None:
    pushed()
    edit(hub.repos[REPO], "main", "README.md", lambda text: text.replace("---\n", "---\nlicense_name: mine\n", 1))
    record = folder / "layerprune" / "source.json"
    before = hub.repos[REPO].refs["main"]
    value = json.loads(record.read_text())
    record.write_text(json.dumps(value | {"license_name": "the usual one"}))
    expected = r"^me/tiny-5L/README\.md: its metadata has 'license_name', which somebody set there .* --create-pr, or remove that there\.$"
    with pytest.raises(PublishError, match=expected):
        pushed()
    assert hub.repos[REPO].refs == {"main": before}
    assert pushed(create_pr=True).pull_request == "refs/pr/1"
    record.write_text(json.dumps(value | {"license_name": "mine"}))
    assert b"\nlicense_name: mine\n" in (pushed() and hub.repos[REPO].files()["README.md"]), "equal values are nobody's loss"


def test_a_key_of_ones_own_does_not_replace_theirs(hub: LoopbackHub, folder: Path, pushed: Push) -> None:
    pushed()
    page = hub.repos[REPO].files()["README.md"]
    edit(hub.repos[REPO], "main", "README.md", lambda text: text.replace("---\n", "---\nemoji: x\n", 1))
    (folder / "README.md").write_bytes(page.replace(b"---\n", b"---\nemoji: y\n", 1))
    pushed()
    assert b"emoji: x\n" in hub.repos[REPO].files()["README.md"]


def test_a_card_that_was_there_first_is_kept(hub: LoopbackHub, pushed: Push) -> None:
    hub.add(REPO).commit("main", {"README.md": b"---\nemoji: x\n---\n" + THEIRS.encode()}, "hello")
    pushed()
    card = hub.repos[REPO].files()["README.md"].decode()
    assert card.startswith("---\nemoji: x\nlibrary_name: ") and THEIRS in card and "hf-layerprune:begin" in card


@pytest.mark.parametrize(
    "change", [lambda text: text.replace("## Limits", "## No limits"), lambda text: text.replace("apache-2.0", "mit", 1)]
)
def test_our_parts_edited_on_the_hub(hub: LoopbackHub, folder: Path, pushed: Push, change: Callable[[str], str]) -> None:
    pushed()
    edit(hub.repos[REPO], "main", "README.md", change)
    edited, puts = hub.repos[REPO].refs["main"], [*hub.puts]
    (folder / "layerprune" / "more.json").write_text("{}")
    with pytest.raises(PublishError, match=r"were edited there, which a push would undo\. Propose the new card with --create-pr, or put"):
        pushed()
    assert hub.repos[REPO].refs == {"main": edited} and hub.puts == puts
    done = pushed(create_pr=True)
    assert done.pull_request == "refs/pr/1" and hub.repos[REPO].refs["main"] == edited
    assert b"## Limits" in hub.repos[REPO].files("refs/pr/1")["README.md"]
    assert pushed(revision="refs/pr/1").uploaded == ()


def test_a_damaged_card_is_left_alone(hub: LoopbackHub, pushed: Push) -> None:
    pushed()
    edit(hub.repos[REPO], "main", "README.md", lambda text: text.replace("<!-- hf-layerprune:end limits -->\n", ""))
    with pytest.raises(PublishError, match=rf"^{REPO}/README\.md: .* Repair the card by hand"):
        pushed()


def test_the_record_of_the_card(hub: LoopbackHub, pushed: Push) -> None:
    pushed()
    files = hub.repos[REPO].files()
    record = json.loads(files[PAGE])
    assert record["sha256"] == hashlib.sha256(files["README.md"]).hexdigest() and record["format"] == 1
    hub.repos[REPO].commit("main", {name: content for name, content in files.items() if name != PAGE}, "record lost")
    assert pushed().uploaded == (PAGE,), "our parts are those that we would write, so nobody edited them"


def test_a_changed_file_is_noticed_by_its_bytes(hub: LoopbackHub, folder: Path, pushed: Push) -> None:
    pushed()
    name = "model-00001-of-00003.safetensors"
    files: dict[str, Any] = dict(hub.repos[REPO].files())
    files[name] = files[name][:-1] + b"!"
    hub.repos[REPO].commit("main", files, "damaged")
    assert pushed().uploaded == (name,)
    assert same_model(hub, folder)


def test_without_matplotlib_the_figures_are_missed(
    hub: LoopbackHub, pushed: Push, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    pushed()
    assert any(line.startswith("the card has no figures (layer-map.png): matplotlib draws them") for line in said)
