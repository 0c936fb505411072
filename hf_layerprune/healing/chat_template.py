"""A checkpoint's own chat template: conversations as text, and which characters of it the assistant says.

The template is an untrusted program, which transformers runs in its sandbox. Where the assistant's words are is found by comparing
what it writes for growing parts of a conversation, so that it holds for any template, or is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hf_layerprune.data.records import UnusableRecord
from hf_layerprune.errors import ModelError, first_line
from hf_layerprune.healing.conversations import Conversation, Turn
from hf_layerprune.models.batches import reserved_tokens

Span = tuple[int, int]  # first character, and the one after the last


class ChatTemplate:
    """The template of a processor, and the control tokens that only it may write."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        added = processor.tokenizer.added_tokens_decoder.values()
        control = {token.content for token in added if token.special} | set(processor.tokenizer.all_special_tokens)
        control |= reserved_tokens(processor)
        self.control = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or r"(?!)")

    def written(self, conversation: Conversation) -> tuple[str, list[Span]]:
        """The text of a conversation, and the assistant's answers in it, each with the token that ends it.

        UnusableRecord if a text holds a control token, or the template does not write the answers in a way that shows where they are.
        """
        label, turns = conversation.label, conversation.turns
        if found := next((match for turn in turns if (match := self.control.search(turn.text))), None):
            raise UnusableRecord(f"{label}: the text contains the control token {found[0]!r}, which only the template may write")
        spans: list[Span] = []
        whole = self.render(turns)
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            before = self.render(turns[:number], add_generation_prompt=True)
            after = whole if number + 1 == len(turns) else self.render(turns[: number + 1])
            if not (after.startswith(before) and whole.startswith(after)):
                raise UnusableRecord(f"{label}: the chat template writes answer {len(spans) + 1} differently from when it is generated")
            start, end = len(before), self.control.search(after, len(before))  # the first control token ends the turn
            if end is None or after[end.end() :].strip() or not _bare(after[: end.start()]).endswith(_bare(turn.text)):
                raise UnusableRecord(f"{label}: the chat template does not write an answer unchanged and end it with a control token")
            spans.append((start, end.end()))
        return whole, spans

    def skeleton(self, conversation: Conversation) -> str:
        """The text of the same conversation with every text replaced by x, so that its control tokens are the template's own."""
        quiet = [Turn(turn.role, tuple("x" if isinstance(part, str) else part for part in turn.parts)) for turn in conversation.turns]
        return self.render(quiet)

    def render(self, turns: Sequence[Turn], add_generation_prompt: bool = False) -> str:
        """What the template makes of some turns; ModelError if it fails."""
        messages = [
            {
                "role": turn.role,
                "content": [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in turn.parts],
            }
            for turn in turns
        ]
        try:
            return str(self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
        except Exception as error:  # an untrusted template may raise anything
            raise ModelError(f"the checkpoint's chat template cannot be used: {first_line(error)}.") from error


def _bare(text: str) -> str:
    return "".join(text.split())
