"""What is taken for an id on the Hub is what huggingface_hub takes for one."""

from __future__ import annotations

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st

from hf_layerprune.artifacts.model_facts import is_hub_id


@given(text=st.text("ab-_./é G", max_size=12) | st.from_regex(r"\A[\w.-]{1,5}/[\w.-]{90,100}\Z"))
@example(text="me/a--b")
@example(text="me/a..b")
@example(text="me/a.git")
@example(text="me/a.")
@example(text="-me/a")
@example(text="me/a\n")
@example(text="_me_/_a_")
def test_as_huggingface_hub_has_it(text: str) -> None:
    try:
        validate_repo_id(text)
        valid = text.count("/") == 1
    except HFValidationError:
        valid = False
    assert is_hub_id(text) is valid
