"""What a push refuses before the first byte, and what the Hub then looks like: as before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.errors import PublishError, UsageError
from hf_layerprune.hub.listing import RemoteRepo
from hf_layerprune.publishing.target import Target
from tests.hub.loopback import LoopbackHub
from tests.hub.pushing import CARD, OTHER, REPO, TOKEN, pruned_folder, push
from tests.hub.state import Account


@pytest.fixture
def folder(hub: LoopbackHub, tmp_path: Path) -> Path:
    return pruned_folder(tmp_path)


def refused(folder: Path, message: str, repo: str = REPO, kind: type[Exception] = PublishError, **options: Any) -> None:
    with pytest.raises(kind, match=message) as raised:
        push(folder, repo, **{"token": TOKEN, "say": lambda line: None, **options})
    assert "\n" not in str(raised.value)


def nothing_sent(hub: LoopbackHub) -> bool:
    return not [path for path in hub.requests if any(part in path for part in ("lfs", "commit/", "create", "preupload"))]


@pytest.mark.parametrize(
    "repo",
    ["tiny", "me/", "/tiny", "a/b/c", "me/ti ny", "me/..", "", "https://example.org/me/tiny", "hf://datasets/me/tiny", "me/tiny.git"],
)
def test_names(hub: LoopbackHub, folder: Path, repo: str) -> None:
    refused(folder, r"is not a valid id of a repository on the Hub: expected OWNER/NAME", repo, UsageError)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"create_pr": True, "revision": "main"},
            r"--create-pr opens a pull request for main, and --revision names another place: give one",
        ),
        ({"revision": "c" * 40}, r"--revision 'c{40}': expected a branch, or a pull request such as refs/pr/3"),
        ({"revision": "refs/heads/x"}, r"expected a branch"),
        ({"revision": "a..b"}, r"expected a branch"),
        ({"commit_message": " "}, r"--commit-message is empty"),
    ],
)
def test_options(hub: LoopbackHub, folder: Path, options: dict[str, Any], message: str) -> None:
    refused(folder, message, kind=UsageError, **options)
    assert hub.requests == []


def test_folders_that_are_not_ours(hub: LoopbackHub, tmp_path: Path, folder: Path) -> None:
    refused(tmp_path / "absent", r"absent: no folder of that name")
    refused(tmp_path / "source", r"no layerprune/manifest\.json, so hf-layerprune did not make this folder")
    assert hub.requests == []


def test_licence_unknown(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = pruned_folder(tmp_path, card="no front matter")
    refused(folder, r"the license of owner/tiny is not known, so this may not be published\. .* such as --license apache-2\.0 ")
    assert hub.requests == []
    push(folder, REPO, token=TOKEN, license="mit", say=lambda line: None)
    assert b"\nlicense: mit\n" in hub.repos[REPO].files()["README.md"]


@pytest.mark.parametrize("name", ["model-00001-of-00003.safetensors", "config.json", "LICENSE"])
def test_a_file_that_is_not_what_the_manifest_says(hub: LoopbackHub, folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(folder, name.split(".")[0])
    assert nothing_sent(hub) and hub.repos == {}


def test_a_file_too_many(hub: LoopbackHub, folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    refused(folder, r"is not what its manifest says: 'notes\.txt' is not in the manifest\. See `hf-layerprune verify`")
    assert nothing_sent(hub)


def test_a_record_that_leads_out(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (folder / "layerprune" / "more.json").symlink_to(tmp_path / "secret.json")
    refused(folder, r"'layerprune/more\.json' is a link to .*, outside the checkpoint")
    assert hub.requests == []


@pytest.mark.parametrize("kind", ["out", "nowhere", "folder"])
def test_a_card_that_leads_out(hub: LoopbackHub, folder: Path, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "id_rsa"
    if kind == "out":
        secret.write_text("a key")
    (folder / "README.md").mkdir() if kind == "folder" else (folder / "README.md").symlink_to(secret)
    refused(folder, r"'README\.md' is (a link to .*, outside the checkpoint|a link that leads nowhere|a folder)")
    assert nothing_sent(hub)


def test_no_token(hub: LoopbackHub, folder: Path) -> None:
    refused(folder, r"^me/tiny-5L: there is no token to push with\. Log in \(hf auth login\)", token=None)
    assert nothing_sent(hub)


@pytest.mark.parametrize(
    ("account", "options", "message"),
    [
        (Account("me", "read"), {}, r"the token of me may read only\. Log in .*, or propose the change to its owner with --create-pr\.$"),
        (Account("me", "read"), {"create_pr": True}, r"the token of me may read only\. Log in .* or set HF_TOKEN\.$"),
        (Account("you"), {}, r"you is not me, nor a member of it"),
        (Account("me", "fineGrained"), {}, r"the token of me is fine-grained and has no right to write to repositories of me"),
        (Account("me", "fineGrained", scopes=(("me", ("repo.content.read",)), ("team", ("repo.write",)))), {}, r"has no right to write"),
    ],
)
def test_rights(hub: LoopbackHub, folder: Path, account: Account, options: dict[str, Any], message: str) -> None:
    hub.add(REPO)
    hub.accounts["hf_another"] = account
    refused(folder, message, token="hf_another", **options)
    assert nothing_sent(hub)


@pytest.mark.parametrize("scope", ["me", REPO])
def test_a_fine_grained_token_that_may(hub: LoopbackHub, folder: Path, scope: str) -> None:
    hub.accounts["hf_another"] = Account("me", "fineGrained", scopes=((scope, ("repo.write",)),))
    assert push(folder, REPO, token="hf_another", say=lambda line: None).uploaded


def test_of_a_team(hub: LoopbackHub, folder: Path) -> None:
    assert push(folder, "team/tiny", token=TOKEN, say=lambda line: None).created and "team/tiny" in hub.repos


def test_the_hub_knows_better(hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token without scopes of whom only the Hub knows what it may."""
    hub.add(REPO)
    monkeypatch.setattr(Account, "may_write", lambda self, repo: False)
    refused(folder, r"the Hub refuses this token \(403")
    assert nothing_sent(hub)


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_a_repository_of_another_type(hub: LoopbackHub, folder: Path, kind: str) -> None:
    hub.others = {REPO: kind}
    refused(folder, rf"^{REPO} is a {kind}, not a model\. Push to another name\.$")
    assert nothing_sent(hub)
    hub.others.clear()


@pytest.mark.parametrize(("option", "named"), [({"create_pr": True}, "--create-pr"), ({"revision": "next"}, "--revision")])
def test_a_repository_that_is_not_there(hub: LoopbackHub, folder: Path, option: dict[str, Any], named: str) -> None:
    refused(folder, rf"does not exist, or this token may not see it\. To create it, leave out {named}\.", **option)
    assert hub.repos == {} and nothing_sent(hub)


def test_a_revision_that_is_not_there(hub: LoopbackHub, folder: Path) -> None:
    hub.add(REPO)
    refused(folder, r"it has no such revision\. Create the branch first", revision="next")
    assert nothing_sent(hub)


def test_private_of_what_is_public(hub: LoopbackHub, folder: Path) -> None:
    hub.add(REPO)
    refused(folder, r"exists and is public, so --private cannot be honoured", private=True)
    assert nothing_sent(hub)


def test_somebodys_own_model(hub: LoopbackHub, folder: Path) -> None:
    hub.add(REPO).commit("main", {"config.json": b"{}", "model.safetensors": b"mine"}, "mine")
    refused(folder, r"holds a model that hf-layerprune did not push, which is not overwritten\. Push to another name\.$")
    assert nothing_sent(hub) and hub.repos[REPO].files()["model.safetensors"] == b"mine"


def test_weights_that_might_be_loaded_instead(hub: LoopbackHub, folder: Path) -> None:
    push(folder, REPO, token=TOKEN, say=lambda line: None)
    hub.repos[REPO].commit("main", {**hub.repos[REPO].files(), "model.safetensors": b"mine"}, "mine")
    hub.requests.clear()
    refused(folder, r"holds weights that hf-layerprune did not push \(1: 'model\.safetensors'\), which might be loaded in place of these")
    assert nothing_sent(hub)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.bin", "pytorch_model-00001-of-00002.bin", "old/model.pt", "model_index.json"]
)
def test_what_might_be_loaded_instead(hub: LoopbackHub, folder: Path, name: str) -> None:
    hub.add(REPO).commit("main", {name: b"{}"}, "mine")
    refused(folder, rf"holds weights that hf-layerprune did not push \(1: '{name}'\), which might be loaded in place of these")
    assert nothing_sent(hub)


def test_a_licence_that_the_hub_does_not_know(hub: LoopbackHub, folder: Path) -> None:
    expected = rf'^{REPO}: the Hub does not take the metadata of README\.md: "license" must be one of .*\. Correct it .* with --license'
    refused(folder, expected, license="foo")
    assert hub.repos == {} and nothing_sent(hub), "no empty repository is left"


@pytest.mark.parametrize(("asked", "real"), [("me/old", "team/new"), ("me/Tiny-5l", REPO)])
def test_a_repository_by_another_name(hub: LoopbackHub, folder: Path, asked: str, real: str) -> None:
    hub.add(real)
    hub.renamed = {asked: real}
    try:
        refused(folder, rf"^{asked} is {real} on the Hub, where it was renamed or is spelt so\. Push to {real}, if that is meant\.$", asked)
    finally:
        hub.renamed = {}
    assert nothing_sent(hub)


def test_an_owner_who_is_spelt_otherwise(hub: LoopbackHub, folder: Path) -> None:
    refused(folder, r"^Me/tiny: the Hub spells its owner me\. Push to me/tiny\.$", "Me/tiny")
    assert nothing_sent(hub)


def test_a_gated_repository_to_which_a_stranger_proposes(hub: LoopbackHub, folder: Path) -> None:
    repo = hub.add(REPO)
    repo.gated, repo.token = True, TOKEN
    refused(folder, rf"^{REPO}: it is gated: accept the terms at {hub.url}/{REPO}, then push again\.$", create_pr=True, token=OTHER)
    assert nothing_sent(hub)


def test_a_name_that_is_taken_by_what_one_may_not_see(hub: LoopbackHub, folder: Path) -> None:
    hub.add(REPO).token = "hf_somebody"
    refused(folder, rf"^{REPO}: the Hub says that this name is taken, and shows this token no such model: it is hidden from it")


def test_a_huge_record_on_the_hub_is_not_read(hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_layerprune.publishing.target.MAX_JSON_BYTES", 10)
    push(folder, REPO, token=TOKEN, say=lambda line: None)
    refused(folder, r"^me/tiny-5L/layerprune/manifest\.json: .* bytes, at most 10 are read")


@pytest.mark.parametrize("licence", ["unknown", "Unknown", "[mit, unknown]"])
def test_a_source_that_says_its_licence_is_unknown(hub: LoopbackHub, tmp_path: Path, licence: str) -> None:
    folder = pruned_folder(tmp_path, card=f"---\nlicense: {licence}\n---\n")
    refused(folder, r"the license of owner/tiny is not known, so this may not be published")
    assert nothing_sent(hub)
    push(folder, REPO, token=TOKEN, license="unknown", say=lambda line: None)  # a person may say so
    assert "license: unknown\n" in hub.repos[REPO].files()["README.md"].decode()


def test_texts_that_would_break_a_card(hub: LoopbackHub, tmp_path: Path) -> None:
    """A hostile licence from a source's card reaches the Hub as one YAML text."""
    card = "---\nlicense: other\nlicense_name: |\n  a: b\n  ---\n  <script>alert(1)</script>\n---\n"
    assert card != CARD
    folder = pruned_folder(tmp_path, card=card)
    push(folder, REPO, token=TOKEN, say=lambda line: None)
    text = hub.repos[REPO].files()["README.md"].decode()
    import yaml

    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "other" and "\n" not in front["license_name"] and json.dumps(front)


def test_no_token_is_in_a_repr() -> None:
    assert TOKEN not in repr(Target("a/b", "c" * 40, TOKEN)) + repr(RemoteRepo("a/b", "c" * 40, token=TOKEN))


def test_a_missing_pull_request_is_no_branch_to_create(hub: LoopbackHub, folder: Path) -> None:
    hub.add(REPO)
    refused(folder, rf"^{REPO} has no pull request refs/pr/9\. Open one with --create-pr\.$", revision="refs/pr/9")
