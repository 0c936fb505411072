"""One line names a source: read back as it was written, and a slip of the pen is named."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.data.tables import DataSpec
from hf_layerprune.errors import UsageError

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)
optional = st.none() | names
weights = st.decimals("0.001", "1000", allow_nan=False)


@given(st.builds(DataSpec, names, optional, optional, st.none() | st.integers(1), weights, optional))
def test_read_back(spec: DataSpec) -> None:
    assert DataSpec.parse(str(spec)) == spec


def test_all_keys() -> None:
    spec = DataSpec.parse("lmms-lab/LLaVA-OneVision-Data,subset=CLEVR-Math(MathV360K),split=val,count=100,weight=0.5,revision=v1")
    assert spec == DataSpec("lmms-lab/LLaVA-OneVision-Data", "CLEVR-Math(MathV360K)", "val", 100, Decimal("0.5"), "v1")
    assert DataSpec.parse("math.jsonl") == DataSpec("math.jsonl", None, None, None, Decimal(1), None)


def test_a_record_names_what_others_can_find_and_no_place_on_a_disk() -> None:
    def recorded(text: str, commit: str | None = None) -> str:
        return str(DataSpec.parse(text).as_recorded(commit))

    assert recorded("me/set,subset=a,,b,count=5", "c" * 40) == f"me/set,subset=a,,b,count=5,revision={'c' * 40}"
    assert recorded("me/set,revision=main", "c" * 40) == f"me/set,revision={'c' * 40}"
    assert recorded("/home/alice/my data/math.jsonl,weight=2") == "math.jsonl,weight=2" == recorded("../../math.jsonl,weight=2")
    assert recorded("/home/alice/homework/") == "homework" and recorded("mini,count=5") == "mini,count=5" and recorded("/") == "/"


def test_odd_names() -> None:
    assert DataSpec.parse("my data/a=b (1).jsonl,count=2") == DataSpec("my data/a=b (1).jsonl", count=2)
    assert DataSpec.parse("a,,b.jsonl,subset=c,,d") == DataSpec("a,b.jsonl", "c,d")
    assert DataSpec.parse("count=3") == DataSpec("count=3")
    assert DataSpec.parse("a.jsonl,subset=x=y") == DataSpec("a.jsonl", "x=y")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.jsonl,cuont=5", "no key 'cuont'. Did you mean 'count'"),
        ("a.jsonl,sub=x", "no key 'sub'"),
        ("a.jsonl,5", "'5' is not key=value"),
        ("a.jsonl,count=100,000", "'000' is not key=value.*written twice"),
        ("a.jsonl,", "'' is not key=value"),
        ("a.jsonl,count=1,count=2", "count is given twice"),
        ("a.jsonl,count=0", "count=0.*at least 1"),
        ("a.jsonl,count=-1", "at least 1"),
        ("a.jsonl,count=1.5", "count=1.5: expected a whole number"),
        ("a.jsonl,count=1%", "count=1%: expected a whole number"),
        ("a.jsonl,count=٣", "expected a whole number"),
        ("a.jsonl,weight=0", "weight=0.*above 0"),
        ("a.jsonl,weight=-1", "above 0"),
        ("a.jsonl,weight=nan", "weight=NaN"),
        ("a.jsonl,weight=inf", "above 0"),
        ("a.jsonl,weight=x", "weight=x: expected a number"),
        ("a.jsonl,subset=", "subset= is empty"),
        ("", "has no name"),
        (",count=1", "has no name"),
        ("a\0b", "has no name"),
    ],
)
def test_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        DataSpec.parse(text)
    assert "\n" not in str(caught.value)
