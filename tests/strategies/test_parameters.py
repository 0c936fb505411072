"""NAME=VALUE to parameters: the right types, and one clear line for everything else."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pytest

from hf_layerprune.errors import StrategyError, UsageError
from hf_layerprune.strategies.cosine import MixedParameters
from hf_layerprune.strategies.plugins import STRATEGIES, parse_parameters


@dataclass(frozen=True)
class EveryType:
    count: int = 1
    share: float = 0.5
    word: str = "a"
    flag: bool = False
    side: Literal["left", "right"] = "left"

    def __post_init__(self) -> None:
        if self.word == "bad":
            raise ValueError("word may not\nbe bad")


@dataclass(frozen=True)
class Unreadable:
    layers: list[int] = field(default_factory=list)


class Typed:
    name = "typed"
    parameters: type = EveryType


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, EveryType()),
        ({"count": "3", "share": "0.25", "word": "b", "flag": "true", "side": "right"}, EveryType(3, 0.25, "b", True, "right")),
        ({"count": -3, "share": 1, "flag": False, "side": "left"}, EveryType(-3, 1.0)),
        ({"flag": "false", "share": "1e-3"}, EveryType(share=0.001)),
    ],
)
def test_text_and_python_values_are_read_alike(given: dict[str, object], expected: EveryType) -> None:
    parsed = parse_parameters(Typed(), given)  # type: ignore[arg-type]
    assert parsed == expected
    assert [type(getattr(parsed, item.name)) for item in fields(EveryType)] == [int, float, str, bool, str]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": "x"}, "parameter 'count' of strategy 'typed' is 'x': expected a whole number."),
        ({"count": "1.0"}, "parameter 'count' of strategy 'typed' is '1.0': expected a whole number."),
        ({"count": 1.0}, "parameter 'count' of strategy 'typed' is 1.0: expected a whole number."),
        ({"count": True}, "parameter 'count' of strategy 'typed' is True: expected a whole number."),
        ({"share": "lots"}, "parameter 'share' of strategy 'typed' is 'lots': expected a finite number."),
        ({"share": "nan"}, "parameter 'share' of strategy 'typed' is 'nan': expected a finite number."),
        ({"share": float("inf")}, "parameter 'share' of strategy 'typed' is inf: expected a finite number."),
        ({"share": True}, "parameter 'share' of strategy 'typed' is True: expected a finite number."),
        ({"share": None}, "parameter 'share' of strategy 'typed' is None: expected a finite number."),
        ({"share": 10**400}, None),
        ({"word": 3}, "parameter 'word' of strategy 'typed' is 3: expected text."),
        ({"flag": "yes"}, "parameter 'flag' of strategy 'typed' is 'yes': expected true or false."),
        ({"flag": 1}, "parameter 'flag' of strategy 'typed' is 1: expected true or false."),
        ({"side": "up"}, "parameter 'side' of strategy 'typed' is 'up': expected one of left, right."),
        ({"cuont": 1}, "strategy 'typed' has no parameter 'cuont'. Did you mean 'count'? Known: count, flag, share, side, word."),
        ({"word": "bad"}, "the parameters of strategy 'typed' are refused: 'word may not\\nbe bad'."),
    ],
)
def test_what_does_not_fit_is_a_usage_error_of_one_line(given: dict[str, object], message: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        parse_parameters(Typed(), given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
    assert message is None or str(caught.value) == message


def test_a_type_that_no_text_could_give_is_the_strategys_fault() -> None:
    class Strange(Typed):
        parameters = Unreadable

    with pytest.raises(StrategyError, match=r"parameter 'layers' of strategy 'typed' is declared list\[int\], expected int, float"):
        parse_parameters(Strange(), {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("mixed", {"alpha": "1.5"}, "alpha is 1.5: expected a number between 0 (math only) and 1 (non-math only), such as 0.7."),
        ("mixed", {"alpha": -0.1}, "alpha is -0.1: expected a number between 0 (math only) and 1 (non-math only), such as 0.7."),
        ("mixed", {"alfa": "0.5"}, "strategy 'mixed' has no parameter 'alfa'. Did you mean 'alpha'? Known: alpha."),
        ("math", {"alpha": "0.5"}, "strategy 'math' has no parameter 'alpha'. It takes none."),
        ("cka", {"activations": "both"}, "parameter 'activations' of strategy 'cka' is 'both': expected one of input, output."),
        ("random", {"seed": "-1"}, "seed is -1: expected 0 or more."),
        ("random", {"seed": "x"}, "parameter 'seed' of strategy 'random' is 'x': expected a whole number."),
    ],
)
def test_ours_refuse_what_they_cannot_honour(name: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_parameters(STRATEGIES[name], given)
    assert str(caught.value) == message


def test_alpha_nan_is_out_of_range_in_python_too() -> None:
    with pytest.raises(UsageError, match="alpha is nan"):
        MixedParameters(float("nan"))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_parameter_of_ours_has_a_default_and_help(name: str) -> None:
    kind: Any = STRATEGIES[name].parameters
    assert parse_parameters(STRATEGIES[name], {}) == kind()
    assert all(item.metadata["help"] for item in fields(kind))
