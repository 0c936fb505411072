"""What other libraries log while they talk to the Hub, without tokens and signed addresses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from hf_layerprune.errors import redacted

TALKING = ("httpx", "httpcore", "huggingface_hub")  # and later versions, such as httpx2: it tells each address at INFO, a signed one too


@contextmanager
def redacted_log(secret: str | None) -> Iterator[None]:
    """Within the block the records of these libraries, which were imported before, are redacted before any handler gets them.

    Blocks of several threads may overlap in any order.
    """

    def clean(record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage(), secret), ()
        return True

    names = [name for name in [*logging.root.manager.loggerDict] if name.startswith(TALKING)]
    loggers = [logging.getLogger(name) for name in names]  # each: a filter of a logger does not see its children's records
    for logger in loggers:
        logger.addFilter(clean)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(clean)
