"""Layer numbers as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.artifacts.model_facts import ModelFacts, SourceRef
from hf_layerprune.errors import UsageError
from hf_layerprune.strategies.options import format_layers, parse_layers, protected_layers


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3-5,9", (3, 4, 5, 9)), ("9,3-5", (3, 4, 5, 9)), ("0", (0,)), ("7-7", (7,)), ("11,17, 20", (11, 17, 20)), ("0-34", tuple(range(35)))],
)
def test_numbers_and_ranges_are_read(text: str, expected: tuple[int, ...]) -> None:
    assert parse_layers(text, 36) == expected


VALID = "Expected numbers from 0 to 15 and ranges of them, such as 3-5,9."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3,3", "--layers: layer 3 is named twice. Name every layer once."),
        ("3-5,4", "--layers: layer 4 is named twice. Name every layer once."),
        ("16", f"--layers: 16 is no layer of this model. {VALID}"),
        ("14-99", f"--layers: 16 is no layer of this model. {VALID}"),
        ("0-999999", f"--layers: 16 is no layer of this model. {VALID}"),
        ("40-50", f"--layers: 40 is no layer of this model. {VALID}"),
        ("-3", f"--layers '-3': '-3' is no layer. {VALID}"),
        ("5-3", "--layers '5-3': the range 5-3 runs backwards; write 3-5."),
        ("3-", f"--layers '3-': '3-' is no layer. {VALID}"),
        ("3..5", f"--layers '3..5': '3..5' is no layer. {VALID}"),
        ("abc", f"--layers 'abc': 'abc' is no layer. {VALID}"),
        ("3,,5", f"--layers '3,,5': '' is no layer. {VALID}"),
        ("", f"--layers '': '' is no layer. {VALID}"),
        ("٣", f"--layers '٣': '٣' is no layer. {VALID}"),
        ("0-15", "--layers: 16 of 16 layers are named; at least one must go and one must stay."),
    ],
)
def test_everything_else_is_refused_with_the_valid_range(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_layers(text, 16)
    assert str(caught.value) == message


@pytest.mark.parametrize("chosen", [[3, 3], [16], [-1], ["3"], [3.0], [True], []])
def test_a_list_from_python_is_checked_alike(chosen: list[object]) -> None:
    with pytest.raises(UsageError, match="--layers: "):
        parse_layers(chosen, 16)  # type: ignore[arg-type]


@given(st.sets(st.integers(0, 39), min_size=1))
def test_formatting_is_the_inverse_of_parsing(layers: set[int]) -> None:
    assert parse_layers(format_layers(layers), 41) == tuple(sorted(layers))


def test_neighbours_are_written_as_ranges() -> None:
    assert format_layers([9, 3, 4, 5]) == "3-5,9"
    assert format_layers([]) == "none"


TWELVE = ModelFacts(SourceRef("tiny", None, "0" * 64), "qwen3_vl", 12, 32, 3)
PROTECTED = {
    "default": (0, 1, 2, 11),
    "none": (),
    "first": (0,),
    "first,last": (0, 11),
    "deepstack": (0, 1, 2),
    "first, last, 7,9-10": (0, 7, 9, 10, 11),
    "5,5,4-6": (4, 5, 6),
    "0-11": tuple(range(12)),
}


@pytest.mark.parametrize(("protect", "layers"), PROTECTED.items(), ids=PROTECTED)
def test_protected(protect: str, layers: tuple[int, ...]) -> None:
    assert protected_layers(TWELVE, protect) == layers


@pytest.mark.parametrize(
    "protect", ["", "first,", "frist", "12", "3-12", "5-3", "-1", "1-2-3", "1.5", "none,first", "²", "9" * 5000, "a\nb"]
)
def test_not_protected(protect: str) -> None:
    with pytest.raises(UsageError, match="layers from 0 to 11") as caught:
        protected_layers(TWELVE, protect)
    assert "\n" not in str(caught.value)
