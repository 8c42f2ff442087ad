"""What a model consists of."""

from __future__ import annotations

import pytest

from climb_model.model.climb import build_model
from climb_model.sharing import shared_spec, shared_state
from configs.load import load_settings
from simulation.describe import describe, to_text


@pytest.mark.parametrize("overrides", [[], ["model.fusion.depth=2"], ["model.text.width=32"]])
def test_the_numbers_are_those_of_the_model_that_trains(overrides: list[str]) -> None:
    settings = load_settings("debug", overrides)
    model = build_model(settings)
    found = describe(settings)
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert found.trainable_parameters == trained
    assert found.shared_parameters == sum(value.numel() for value in shared_state(model).values())
    assert found.shared_tensors == shared_spec(model)
    assert sum(part.parameters for part in found.parts) == sum(value.numel() for value in model.parameters())


def test_the_published_text_projection_and_positions_have_their_known_sizes() -> None:
    sizes = {part.name: part.parameters for part in describe(load_settings("climb")).parts}
    assert sizes["text_projection"] == 294_912
    assert sizes["slice_positions"] == 73_728
    assert sizes["log_scale"] == 1


def test_the_table_ends_with_what_travels() -> None:
    found = describe(load_settings("debug"))
    last = to_text(found).splitlines()[-1]
    assert last.startswith(f"{len(found.shared_tensors)} tensors are shared: ")
    assert "MB in float32" in last
