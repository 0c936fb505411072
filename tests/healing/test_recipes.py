"""The recipes hold the papers' numbers, and take others where a person gives some."""

from __future__ import annotations

import pytest

from hf_layerprune.errors import UsageError
from hf_layerprune.healing.recipes import DOMAIN_AWARE, INTERLACE, RECIPES, changed, described, recipe_named


def test_the_domain_aware_papers_numbers() -> None:
    """Section 4.2 of arXiv 2603.20275."""
    recipe = DOMAIN_AWARE
    assert (recipe.method, recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout) == ("lora", 32, 64, 0.05)
    assert (recipe.learning_rate, recipe.batch_size, recipe.weight_decay, recipe.epochs, recipe.max_length) == (2e-5, 64, 0.1, 1, 8192)


def test_interlaces_numbers() -> None:
    """Section 3.4 and the appendix of arXiv 2511.19676: 16 a device with 2 accumulation steps."""
    recipe = INTERLACE
    assert (recipe.method, recipe.learning_rate, recipe.warmup_ratio, recipe.weight_decay) == ("layers", 1e-5, 0.03, 0)
    assert (recipe.micro_batch_size, recipe.batch_size, recipe.max_grad_norm) == (16, 16 * 2, 1.0)
    assert (recipe.precision, recipe.gradient_checkpointing, recipe.epochs) == ("bf16", "trained", 1)


def test_what_the_papers_leave_open_is_marked() -> None:
    for recipe in RECIPES.values():
        assert list(recipe.ours) == sorted(recipe.ours) and set(recipe.ours) <= set(described(recipe))
    assert "learning_rate" not in DOMAIN_AWARE.ours + INTERLACE.ours
    assert "warmup_ratio" in DOMAIN_AWARE.ours and "max_length" in INTERLACE.ours
    open_in_both = {"final_learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon"}
    assert open_in_both | {"optimizer", "lora_targets", "max_grad_norm"} <= set(DOMAIN_AWARE.ours)
    assert open_in_both <= set(INTERLACE.ours) and not {"optimizer", "warmup_ratio", "max_grad_norm", "precision"} & set(INTERLACE.ours)


def test_what_is_fixed_is_what_the_trainer_does() -> None:
    pytest.importorskip("torch")
    from hf_layerprune.healing.training import learning_rate
    from hf_layerprune.healing.weights import PROJECTIONS

    assert DOMAIN_AWARE.lora_targets.split() == [*PROJECTIONS] and INTERLACE.lora_targets == ""
    for recipe in RECIPES.values():
        assert learning_rate(1000, 1000, recipe) == recipe.final_learning_rate == 0


def test_any_setting_can_be_changed() -> None:
    found = changed(INTERLACE, {"learning_rate": "1e-3", "batch_size": "8", "gradient_checkpointing": "none"})
    assert (found.learning_rate, found.batch_size, found.gradient_checkpointing) == (1e-3, 8, "none")
    assert found.weight_decay == INTERLACE.weight_decay
    assert INTERLACE.learning_rate == 1e-5
    for recipe in RECIPES.values():
        settable = {name: getattr(recipe, name) for name, setting in described(recipe).items() if setting.kind}
        assert changed(recipe, settable) == recipe


@pytest.mark.parametrize(
    "recipe, setting, value, message",
    [
        ("interlace", "learning_rat", "1", r"no setting 'learning_rat'\. Did you mean 'learning_rate'\? Known: .*batch_size"),
        ("interlace", "lora_rank", "8", r"no setting 'lora_rank'"),
        ("interlace", "name", "x", r"no setting 'name'"),
        ("interlace", "method", "lora", r"no setting 'method'"),
        ("domain-aware", "optimizer", "SGD", r"no setting 'optimizer'"),
        ("domain-aware", "batch_size", "0", r"batch_size is 0, expected from 1 to below"),
        ("domain-aware", "batch_size", "2.5", r"setting 'batch_size' of recipe 'domain-aware' is '2.5': expected a whole number"),
        ("domain-aware", "learning_rate", "nan", r"'learning_rate' .* expected a finite number"),
        ("domain-aware", "learning_rate", "-1e-5", r"learning_rate is -1e-05, expected from 1e-12 to below 10"),
        ("domain-aware", "warmup_ratio", "1", r"warmup_ratio is 1\.0, expected from 0 to below 1"),
        ("domain-aware", "precision", "fp8", r"expected one of bf16, fp32"),
        ("domain-aware", "lora_rank", "0", r"lora_rank is 0"),
        ("domain-aware", "lora_alpha", "0", r"lora_alpha is 0"),
        ("interlace", "learning_rate", "0", r"learning_rate is 0"),
    ],
)
def test_settings_that_cannot_be(recipe: str, setting: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        changed(RECIPES[recipe], {setting: value})


def test_an_unknown_recipe() -> None:
    with pytest.raises(UsageError, match=r"no recipe 'interlase'\. Did you mean 'interlace'\? Known: domain-aware, interlace\."):
        recipe_named("interlase")
