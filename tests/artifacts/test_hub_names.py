"""A repository of the Hub by its id, its address, or hf://."""

from __future__ import annotations

import pytest

from hf_layerprune.artifacts.model_facts import HubName, hub_name
from hf_layerprune.errors import UsageError

NAMED: tuple[tuple[str, tuple[str, str | None, str | None] | None], ...] = (
    ("owner/name", ("owner/name", None, None)),
    ("owner/name/", ("owner/name", None, None)),
    ("owner/name@v1.0", ("owner/name", None, "v1.0")),
    ("owner/name@refs/pr/3", ("owner/name", None, "refs/pr/3")),
    ("hf://owner/name", ("owner/name", "model", None)),
    ("hf://owner/name@refs/pr/3/", ("owner/name", "model", "refs/pr/3")),
    ("hf://datasets/owner/name@main", ("owner/name", "dataset", "main")),
    ("https://huggingface.co/owner/name", ("owner/name", "model", None)),
    ("http://www.huggingface.co/owner/name/", ("owner/name", "model", None)),
    ("huggingface.co/owner/name", ("owner/name", "model", None)),
    ("https://hf.co/owner/name?library=transformers#files", ("owner/name", "model", None)),
    ("https://huggingface.co/owner/name/tree/v1.0", ("owner/name", "model", "v1.0")),
    ("https://huggingface.co/owner/name/tree/refs%2Fpr%2F3", ("owner/name", "model", "refs/pr/3")),
    ("https://huggingface.co/owner/name/blob/main/config.json", ("owner/name", "model", "main")),
    ("https://huggingface.co/owner/name/commit/0123abc", ("owner/name", "model", "0123abc")),
    ("https://huggingface.co/owner/name/discussions/7", ("owner/name", "model", None)),
    ("https://huggingface.co/datasets/owner/name/tree/main", ("owner/name", "dataset", "main")),
    ("https://huggingface.co/spaces/owner/name", ("owner/name", "space", None)),
    ("http://localhost:8080/hub/owner/name/tree/v2", ("owner/name", "model", "v2")),  # of HF_ENDPOINT
    *((text, None) for text in ("", "/", "mini", "mini@v1", "./name@v1", "/data/name", "a/b/c@v1", "https://example.org/a/b")),
    *((text, None) for text in ("https://huggingface.co/", "https://huggingface.co/gpt2", "hf://", "hf.co/models", "owner/na--me")),
)


@pytest.mark.parametrize(("text", "expected"), NAMED)
def test_how_a_repository_may_be_named(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, str | None, str | None] | None
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost:8080/hub")
    found = hub_name(text)
    assert found == (expected and HubName(*expected))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("owner/name@", "no revision follows"),
        ("https://huggingface.co/owner/name/tree/main/checkpoint-500", "names 'checkpoint-500' within owner/name"),
        ("hf://owner/name/checkpoint-500", "names 'checkpoint-500' within owner/name"),
    ],
)
def test_what_names_no_whole_repository(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        hub_name(text)
