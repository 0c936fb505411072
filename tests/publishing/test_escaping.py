"""Untrusted text as code, as an argument of a command and as a literal: shown as it is, and nothing more."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_layerprune.publishing.escaping import MAX_TEXT, NotShown, argument, code, literal, place, plain
from hf_layerprune.publishing.facts import CardFacts
from hf_layerprune.publishing.merge import begin, end, find_parts
from hf_layerprune.publishing.template import render_card
from tests.publishing.test_card_text import PAGE, inside

LIKE = ["a->b.jsonl", "x" * 1000, "<!-- hf-layerprune:begin title -->", "-->", "'->'", "<!'--", "```", "~~~", "a'b\"c\\d", ""]


@given(text=st.text(max_size=300))
def test_a_code_span_shows_the_text_and_nothing_else(text: str) -> None:
    (inline,) = PAGE.parseInline(f"a {code(text)} b")
    assert inside(inline) == "text code_inline text "
    shown = "".join(token.content for token in (inline.children or [])[1:-1] if token.type != "html_inline")
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", plain(text))
    assert len(plain(text)) <= MAX_TEXT + 40 and "\n" not in plain(text) and "<!--" not in plain(text) and "-->" not in plain(text)


@given(text=st.text(st.sampled_from("\\\\|`<>b&;: ") | st.characters(), max_size=20))
def test_a_code_span_in_a_table_is_one_cell(text: str) -> None:
    tokens = PAGE.parse(f"| a | b | c |\n|---|---|---|\n| x | {code(text)} | z |\n")
    cells = [tokens[place + 1] for place, token in enumerate(tokens) if token.type == "td_open"]
    assert [inside(cell) for cell in cells] == ["text ", "code_inline ", "text "]
    # GitHub takes a backslash for the escape of what follows before it looks for pipes, so that \\| ends a cell: none may be left.
    assert "|" not in code(text)


def test_a_name_without_a_pipe_is_a_plain_code_span() -> None:
    assert code("a\\b") == "`a\\b`" and code("a`b") == "``a`b``" and code("a|b") == "`a`<code>&#124;</code>`b`"


def test_an_argument_is_one_word_of_a_shell() -> None:
    assert argument("$(rm -rf /)") == "'$(rm -rf /)'" and place("--help") == "./--help" and argument("a b") == "'a b'"


@given(
    text=st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=1000) | st.sampled_from(["a->b.jsonl", "x" * 1000, *LIKE])
)
def test_an_argument_is_what_it_quotes(text: str) -> None:
    assert shlex.split(argument(text)) == [text]
    fenced = f"```sh\nhf-layerprune heal {argument(text)}\n```\n"
    assert [token.type for token in PAGE.parse(fenced)] == ["fence"]
    assert find_parts(begin("a") + fenced + end("a")) and "<!--" not in fenced and "-->" not in fenced


@pytest.mark.parametrize("text", ["x" * 1001, "a\nb", "a\tb", "\u202eb", "\x00", "\ud800"])
def test_an_argument_that_cannot_be_shown_is_told_by_its_record(facts: CardFacts, text: str) -> None:
    with pytest.raises(NotShown):
        argument(text)
    assert facts.healing and facts.evaluation
    healing = replace(facts.healing, data=replace(facts.healing.data, sources=(replace(facts.healing.data.sources[0], spec=text),)))
    asked = replace(facts.evaluation, tasks=(replace(facts.evaluation.tasks[0], spec=text), *facts.evaluation.tasks[1:]))
    card = render_card(replace(facts, healing=healing, evaluation=asked))
    left = [line for line in card.splitlines() if line.startswith("# A command is left out here: an argument of it is too long, or")]
    assert [line.rpartition(" ")[2] for line in left] == ["layerprune/healing.json", "layerprune/eval.json"]
    assert "hf-layerprune heal" not in card and "hf-layerprune evaluate" not in card and "hf-layerprune apply" in card


@given(text=st.text(max_size=300))
def test_a_literal_is_what_it_quotes(text: str) -> None:
    assert ast.literal_eval(literal(text)) == text and "\n" not in literal(text) and not {*"<>"} & {*literal(text)}
