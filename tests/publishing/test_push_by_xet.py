"""Large files that go by Xet, and files that change while they are sent."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_layerprune.errors import PublishError
from hf_layerprune.publishing.push import Pushed
from tests.hub.loopback import LoopbackHub
from tests.hub.pushing import AGAIN, REPO, TOKEN, pruned_folder, push
from tests.hub.state import Fault


@pytest.fixture
def by_xet(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Large files go by Xet, as to the real Hub; hf_xet gives up soon on a storage that does not answer."""
    from huggingface_hub.utils._xet import abort_xet_session

    pytest.importorskip("hf_xet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms")
    abort_xet_session()
    yield
    abort_xet_session()


def test_a_storage_that_does_not_answer(hub: LoopbackHub, folder: Path, pushed: Callable[..., Pushed], by_xet: None) -> None:
    """hf_xet itself, against an address where nobody listens."""
    with pytest.raises(PublishError, match=rf"^{REPO}: reading or sending failed \(Network error: .*\)\. {AGAIN}$"):
        pushed()
    assert hub.repos[REPO].summaries == []


@pytest.mark.parametrize("kind", ["RuntimeError", "ConnectionError", "TimeoutError", "XetAuthenticationError", "XetObjectNotFoundError"])
def test_what_hf_xet_raises(
    hub: LoopbackHub, pushed: Callable[..., Pushed], by_xet: None, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Versions of it raise one or the other, all without a cause."""
    import hf_xet

    def failing(**asked: Any) -> None:
        raise (getattr(hf_xet, kind, None) or getattr(builtins, kind))(f"Data processing error: CAS: connection reset {TOKEN}")

    monkeypatch.setattr("huggingface_hub._commit_api._upload_xet_files", failing)
    with pytest.raises(PublishError, match=rf"^{REPO}: .*{AGAIN}$") as raised:
        pushed()
    assert TOKEN not in str(raised.value) and "Correct that" not in str(raised.value)


def test_a_file_that_changes_before_it_is_sent_by_xet(
    hub: LoopbackHub, pushed: Callable[..., Pushed], by_xet: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Xet's store believes a given sha256: none is given, so that what is listed is what was sent, and not what was to be sent."""
    folder = pruned_folder(tmp_path)
    name = "model-00002-of-00003.safetensors"
    given: list[str] = []

    def upload(*, additions: list[Any], **asked: Any) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-1] + b"!")
        for added in additions:
            given.extend([added.path_in_repo] if added.upload_info.is_hashed else [])
            content = Path(added.path_or_fileobj).read_bytes()
            added.upload_info.sha256 = hashlib.sha256(content).digest()  # as huggingface_hub does with what hf_xet found
            hub.objects[added.upload_info.sha256.hex()] = content

    monkeypatch.setattr("huggingface_hub._commit_api._upload_xet_files", upload)
    with pytest.raises(PublishError, match=rf"^{REPO} @ \w{{7}}: '{name}' is .* expected .*; the Hub does not hold what was"):
        push(folder, REPO, token=TOKEN, say=lambda line: None)
    assert given == []


def test_a_small_file_that_changes_before_it_is_sent(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = pruned_folder(tmp_path)
    hub.faults = [Fault("POST .*/preupload/", before=lambda: (folder / "LICENSE").write_text("All rights!"))]
    with pytest.raises(PublishError, match=rf"^{REPO} @ \w{{7}}: 'LICENSE' is .* expected .*; the Hub does not hold what was"):
        push(folder, REPO, token=TOKEN, say=lambda line: None)
