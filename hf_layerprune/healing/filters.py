"""What to leave out of healing data on purpose, as against what cannot be used."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from hf_layerprune.errors import UsageError
from hf_layerprune.healing.conversations import Conversation


@dataclass(frozen=True)
class Filters:
    """max_images, max_turns: conversations with more pictures or answers are left out; share: of each file or subset that part
    is taken, drawn uniformly. None: no limit."""

    max_images: int | None = None
    max_turns: int | None = None
    share: Decimal | None = None

    def __post_init__(self) -> None:
        if (self.max_images or 0) < 0 or (self.max_turns is not None and self.max_turns < 1):
            raise UsageError(f"{self}: expected no fewer than 0 pictures and 1 turn.")
        if self.share is not None and not 0 < self.share <= 1:
            raise UsageError(f"share {self.share}: expected a share above 0, at most 1.")

    def reason_against(self, conversation: Conversation) -> str | None:
        """Why a conversation is left out, None if it is not."""
        if self.max_images is not None and len(conversation.pictures) > self.max_images:
            return f"{conversation.label}: {len(conversation.pictures)} pictures, more than {self.max_images}"
        if self.max_turns is not None and conversation.exchanges > self.max_turns:
            return f"{conversation.label}: {conversation.exchanges} turns, more than {self.max_turns}"
        return None


NO_FILTERS = Filters()
INTERLACE = Filters(max_images=3, max_turns=5, share=Decimal("0.01"))  # arXiv 2511.19676, section 3.4
