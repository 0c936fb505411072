"""The nine prompts, byte for byte as the paper's appendix has them."""

from __future__ import annotations

import hashlib

import pytest

from hf_layerprune.artifacts.prompts import DOMAINS, domain_of, prompts, subtasks

# the first 16 digits of the sha256 of each prompt's UTF-8 text in appendix A.2 of arXiv 2603.20275
DIGESTS = {
    "math-cot": "53be828a6c6173c0",
    "math-direct": "a6a22a8002a8d7e8",
    "math-rephrase": "037314fb46a65a14",
    "math-formalize": "a3f6b97b0d79a3b5",
    "math-verify": "7d4042dceeab44e0",
    "captioning": "683c59e5df40f6c8",
    "entity-listing": "000896d30cb2f597",
    "counting": "fcff011f4cbc6c4e",
    "grounding": "829a138f1f7d2450",
}


def test_every_prompt_is_the_papers() -> None:
    found = {task: hashlib.sha256(text.encode()).hexdigest()[:16] for domain in DOMAINS for task, text in prompts()[domain].items()}
    assert found == DIGESTS and list(found) == list(DIGESTS)
    assert [len(subtasks(domain)) for domain in DOMAINS] == [5, 4]
    assert all(domain_of(task) == domain for domain in DOMAINS for task in subtasks(domain))
    with pytest.raises(KeyError):
        domain_of("poetry")
    with pytest.raises(TypeError):
        prompts()["math"]["math-cot"] = "Solve."  # type: ignore[index]
