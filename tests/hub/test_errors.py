"""The table of errors: every row gives one line with a next step, and no token; what the package says itself stays."""

from __future__ import annotations

import json
import logging

import pytest
from huggingface_hub import errors

from hf_layerprune.errors import DataError, PublishError, SourceError, UsageError
from hf_layerprune.hub.errors import (
    AGAIN,
    LOG_IN,
    TABLE,
    Call,
    explain,
    hub_errors,
    redacted,
    redacted_log,
    redacted_reason,
    transport_error,
)

TOKEN = "hf_" + "me" * 17
REPO = "me/model"
READ, PUSH = Call(REPO, token=TOKEN), Call(REPO, token=TOKEN, push=True)


def answer(status: int, kind: type[errors.HfHubHTTPError] = errors.HfHubHTTPError, **headers: str) -> errors.HfHubHTTPError:
    """What huggingface_hub raises for an answer of the Hub."""
    import importlib

    client = importlib.import_module(transport_error().__module__.partition(".")[0])
    request = client.Request("GET", f"http://127.0.0.1/{REPO}?X-Amz-Signature=signed")
    return kind(f"Client error {TOKEN}", response=client.Response(status, request=request, headers=headers), server_message=f"no {TOKEN}")


RAISED: dict[str, BaseException] = {
    **{str(status): answer(status) for status in (400, 401, 403, 404, 409, 412, 418, 429, 500, 503)},
    "gated": answer(403, errors.GatedRepoError),
    "missing": answer(401, errors.RepositoryNotFoundError),
    "revision": answer(404, errors.RevisionNotFoundError),
    "no token": errors.LocalTokenNotFoundError(TOKEN),
    "offline": errors.OfflineModeIsEnabled(TOKEN),
    "not cached": errors.LocalEntryNotFoundError(TOKEN),
    "unresolved": errors.RevisionResolutionError(TOKEN),
    "dropped": transport_error()(f"reset by peer {TOKEN}"),
    "disk": OSError(28, "No space left on device"),
    "xet": RuntimeError(f"CAS error {TOKEN}\nmore"),
    "no JSON": json.JSONDecodeError("Expecting value", TOKEN, 0),
}


@pytest.mark.parametrize("push", [False, True], ids=["read", "push"])
@pytest.mark.parametrize("name", RAISED)
def test_one_line_with_a_next_step(name: str, push: bool) -> None:
    line = explain(RAISED[name], Call(REPO, "v9", TOKEN, push=push))
    assert line and line.startswith(REPO) and "\n" not in line and TOKEN not in line and "signed" not in line
    assert "{" not in line and line.endswith(".") and "None" not in line


def test_no_row_says_nothing() -> None:
    assert all(any(texts) for texts in TABLE.values())
    fields = dict.fromkeys("the local revision endpoint page status wait said reason kept again log_in".split(), "x")
    for texts in TABLE.values():
        assert all(text.format(repo=REPO, **fields).endswith((".", "x")) for text in texts if text)


LINES: dict[str, tuple[BaseException, Call, str]] = {
    "401, read": (answer(401), Call(REPO), "the Hub did not accept the token. Log in again"),
    "401, push": (answer(401), Call(REPO, push=True), rf"hides the repository from it (401). {LOG_IN}, and check the name."),
    "403 says why": (answer(403), Call(REPO, push=True), "refuses this token (403: no ***). Use one that may write there"),
    "429, in seconds": (answer(429, **{"Retry-After": "37"}), Call(REPO, push=True), f"(429). Wait 37 seconds. {AGAIN}"),
    "429, read": (answer(429), Call(REPO), "(429). Wait some minutes and run again: what was fetched is kept."),
    "5xx": (answer(502), Call(REPO, push=True), f"answered with error 502. Wait some minutes. {AGAIN}"),
    "of a dataset nothing is kept": (answer(500), Call(REPO, dataset=True), "answered with error 500. Try again later."),
    "a dataset's page": (answer(403, errors.GatedRepoError), Call(REPO, dataset=True), f"/datasets/{REPO}, then log in"),
    "a dataset, whatever is raised": (KeyError("x"), Call(REPO, dataset=True), "cannot be read as a dataset: 'x'. If the network failed"),
    "cache only": (RAISED["not cached"], Call(REPO, cache_only=True), "not, or not wholly, in the cache. Fetch it once online"),
    "a pull request": (answer(500), Call(REPO, push=True, again="Go on with refs/pr/3."), "Wait some minutes. Go on with refs/pr/3."),
}


@pytest.mark.parametrize("name", LINES)
def test_lines(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    error, call, expected = LINES[name]
    assert expected in str(explain(error, call))


@pytest.mark.parametrize(("dataset", "kind"), [(False, SourceError), (True, DataError)], ids=["a model", "a dataset"])
def test_what_is_raised_instead(dataset: bool, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="error 500") as raised, hub_errors(Call(REPO, token=TOKEN, dataset=dataset)):
        raise answer(500)
    assert isinstance(raised.value.__cause__, errors.HfHubHTTPError)
    with pytest.raises(UsageError, match="of ours"), hub_errors(Call(REPO, token=TOKEN, dataset=dataset)):
        raise UsageError("of ours") from answer(500)


def test_an_answer_is_told_and_not_what_it_was_raised_from() -> None:
    with pytest.raises(PublishError, match=r"does not take it \(400: no \*\*\*\)"), hub_errors(PUSH):
        raise answer(400, errors.BadRequestError) from transport_error()("Client error")


def test_a_status_behind_a_missing_file_is_told() -> None:
    """As huggingface_hub wraps what it got, where the cache has no copy."""
    with pytest.raises(SourceError, match="error 503"), hub_errors(READ):
        raise errors.LocalEntryNotFoundError("cannot find it") from answer(503)


def test_a_fault_of_ours_is_no_answer_of_the_hub() -> None:
    for fault in (KeyError("x"), ValueError("x")):
        with pytest.raises(type(fault)), hub_errors(READ):
            raise fault


def test_a_push_rewords_what_its_reading_said() -> None:
    with pytest.raises(PublishError, match=r"refuses this token \(403"), hub_errors(PUSH), hub_errors(READ):
        raise answer(403)
    with pytest.raises(UsageError, match=r"^of ours$"), hub_errors(PUSH):
        raise UsageError("of ours")
    with (
        pytest.raises(PublishError, match=r"^of ours\. Go on with refs/pr/3\.$"),
        hub_errors(Call(REPO, push=True, again="Go on with refs/pr/3.")),
    ):
        raise PublishError(f"of ours. {AGAIN}")


def test_secrets() -> None:
    text = f"'Bearer {TOKEN}' abc https://s3.example/x?X-Amz-Signature=abc&y=1 'https://x/y?z' hf_api secret"
    assert redacted(text, "secret", None) == "'Bearer ***' abc https://s3.example/x?*** 'https://x/y?***' hf_api ***"
    for name in ("/src/hf_layerprune/model.safetensors", "python -m hf_layerprune push", "me/hf_models", "hf_models_of_everybody_in_2026"):
        assert redacted(name) == redacted_reason(OSError(name), None) == name


def test_a_log_is_redacted_within_the_block(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("httpx.of_a_test")
    with caplog.at_level(logging.INFO), redacted_log("secret"):
        logger.info("GET %s with %s and secret", "https://x/y?signed", TOKEN)
    assert caplog.messages == ["GET https://x/y?*** with *** and ***"] and not logger.filters
