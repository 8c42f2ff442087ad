"""What the fusion transformer promises: its size, and that an exam's vector depends on that exam only."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from climb_model.model.climb import MAX_LOG_SCALE, ClimbModel, ImageTokens, ReportTokens, build_model
from climb_model.sharing import PRIVATE_PARTS, SHARED_PARTS, shared_spec, shared_state
from configs.load import SettingsError, load_settings, preset_names

DEBUG = load_settings("debug")
WIDTH, NUM_TOKENS = 64, 12
CLOSE = 1e-5


@pytest.fixture(scope="module")
def model() -> ClimbModel:
    """Debug model with a class token and norms that matter."""
    found = build_model(DEBUG).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in found.parameters():
            value += 0.05 * torch.randn(value.shape, generator=generator)
    return found


def image_batch(num_exams: int, seed: int) -> ImageTokens:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(num_exams, NUM_TOKENS, WIDTH, generator=generator)
    return ImageTokens(tokens, torch.ones(num_exams, NUM_TOKENS, dtype=torch.bool))


def report_batch(lengths: list[int], seed: int) -> ReportTokens:
    generator = torch.Generator().manual_seed(seed)
    present = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ReportTokens(torch.randn(len(lengths), max(lengths), WIDTH, generator=generator), present)


def images(model: ClimbModel, batch: ImageTokens) -> Tensor:
    with torch.no_grad():
        return model.embed_image(batch).vectors


def reports(model: ClimbModel, batch: ReportTokens) -> Tensor:
    with torch.no_grad():
        return model.embed_report(batch).vectors


def size(part: nn.Module | nn.Parameter) -> int:
    return (
        part.numel() if isinstance(part, nn.Parameter) else sum(value.numel() for value in part.parameters())
    )


def test_published_size_of_every_part() -> None:
    with torch.device("meta"):
        model = ClimbModel(load_settings("climb"))
    assert size(model.fusion.layers) == 5_901_696
    assert size(model.text_projection) == 294_912
    assert size(model.fusion.projection) == 147_456
    assert size(model.slice_positions) == 73_728
    assert size(model.fusion.class_token) == 384
    assert size(model.log_scale) == 1
    assert sum(map(math.prod, shared_spec(model).values())) == 6_418_177


def test_the_released_codes_variant_has_exactly_its_number_of_parameters_all_of_them_shared() -> None:
    with torch.device("meta"):
        model = ClimbModel(load_settings("climb-code"))
    assert size(model) == sum(map(math.prod, shared_spec(model).values())) == 6_566_017


@pytest.mark.parametrize("preset", preset_names())
def test_every_parameter_is_listed_as_shared_or_as_private(preset: str) -> None:
    with torch.device("meta"):
        model = ClimbModel(load_settings(preset))
    for name, _ in model.named_parameters():
        assert name.startswith(SHARED_PARTS) != name.startswith(PRIVATE_PARTS), name


def test_the_generators_change_no_shared_weight_of_the_untrained_model() -> None:
    alone = load_settings("debug")
    both = load_settings("debug", ["objectives.coca=1", "objectives.inverse_coca=1"])
    one, two = shared_state(build_model(alone)), shared_state(build_model(both))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_embeddings_have_unit_length(model: ClimbModel) -> None:
    for vectors in (images(model, image_batch(3, 0)), reports(model, report_batch([4, 9, 1], 0))):
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(3), atol=CLOSE)


def test_an_exams_image_vector_does_not_depend_on_its_batch(model: ClimbModel) -> None:
    batch = image_batch(5, 1)
    batch.present[3, 4:9] = False
    together = images(model, batch)
    alone = torch.cat(
        [images(model, ImageTokens(batch.tokens[i : i + 1], batch.present[i : i + 1])) for i in range(5)]
    )
    assert torch.allclose(together, alone, atol=CLOSE)
    order = torch.tensor([4, 2, 0, 3, 1])
    shuffled = images(model, ImageTokens(batch.tokens[order], batch.present[order]))
    assert torch.allclose(shuffled, together[order], atol=CLOSE)
    other = batch.tokens.clone()
    other[1:] = 100.0
    assert torch.allclose(images(model, ImageTokens(other, batch.present))[0], together[0], atol=CLOSE)


def test_a_reports_vector_depends_neither_on_padding_nor_on_its_batch(model: ClimbModel) -> None:
    lengths = [3, 17, 1, 8]
    batch = report_batch(lengths, 2)
    together = reports(model, batch)
    for row, length in enumerate(lengths):
        alone = ReportTokens(batch.tokens[row : row + 1, :length], batch.present[row : row + 1, :length])
        assert torch.allclose(reports(model, alone)[0], together[row], atol=CLOSE)
    longer = ReportTokens(
        torch.cat([batch.tokens, torch.full((4, 30, WIDTH), 7.0)], dim=1),
        torch.cat([batch.present, torch.zeros(4, 30, dtype=torch.bool)], dim=1),
    )
    assert torch.allclose(reports(model, longer), together, atol=CLOSE)


@pytest.mark.parametrize("value", [1e6, math.nan, math.inf])
def test_values_under_the_mask_change_nothing(model: ClimbModel, value: float) -> None:
    image, report = image_batch(2, 3), report_batch([5, 9], 3)
    image.present[:, 4:8] = False  # the second sequence is absent
    before = images(model, image), reports(model, report)
    after = (
        images(model, ImageTokens(image.tokens.masked_fill(~image.present[..., None], value), image.present)),
        reports(
            model, ReportTokens(report.tokens.masked_fill(~report.present[..., None], value), report.present)
        ),
    )
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new)


def test_hiding_slices_equals_dropping_them_at_unchanged_positions(model: ClimbModel) -> None:
    """An absent slice, a padded one and an absent sequence are the same thing: not there."""
    batch = image_batch(2, 4)
    kept = torch.tensor([0, 2, 3, 8, 9, 11])
    batch.present[:] = False
    batch.present[:, kept] = True
    with torch.no_grad():
        dropped, _ = model.fusion(
            batch.tokens[:, kept] + model.slice_positions(kept),
            batch.present[:, kept],
            kept.expand(2, -1),
            torch.full((2,), NUM_TOKENS),
        )
        moved, _ = model.fusion(
            batch.tokens[:, kept] + model.slice_positions(kept),
            batch.present[:, kept],
            torch.arange(len(kept)).expand(2, -1),
            torch.full((2,), len(kept)),
        )
    assert torch.allclose(images(model, batch), dropped, atol=CLOSE)
    assert not torch.allclose(images(model, batch), moved, atol=1e-3)  # compacted positions would differ


def test_a_hidden_slice_does_change_the_vector(model: ClimbModel) -> None:
    batch = image_batch(1, 5)
    whole = images(model, batch)
    batch.present[0, 6] = False
    assert not torch.allclose(images(model, batch), whole, atol=1e-3)


def test_the_class_token_stands_right_behind_the_last_real_token(
    model: ClimbModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rotary position given to the class token is the number of real tokens."""
    seen: list[Tensor] = []
    original = model.fusion.encode

    def spy(tokens: Tensor, present: Tensor, index: Tensor, **rest: bool) -> Tensor:
        seen.append(index)
        return original(tokens, present, index, **rest)

    monkeypatch.setattr(model.fusion, "encode", spy)
    reports(model, report_batch([3, 7], 6))
    hidden = image_batch(1, 6)
    hidden.present[0, 5] = False
    images(model, hidden)
    assert seen[0][:, -1].tolist() == [3, 7]
    assert seen[0][0, :-1].tolist() == list(range(7))
    assert seen[1][0].tolist() == list(range(NUM_TOKENS + 1))


def test_the_order_of_slices_matters(model: ClimbModel) -> None:
    batch = image_batch(1, 7)
    turned = ImageTokens(batch.tokens.flip(1), batch.present)
    assert not torch.allclose(images(model, batch), images(model, turned), atol=1e-3)


def test_another_number_of_slice_tokens_is_refused(model: ClimbModel) -> None:
    wrong = ImageTokens(torch.zeros(1, 9, WIDTH), torch.ones(1, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="takes 12 slice tokens an exam, got 9"):
        model.embed_image(wrong)


@pytest.mark.parametrize(("before", "after"), [(-3.0, 0.0), (1.5, 1.5), (50.0, math.log(100.0))])
def test_temperature_is_kept_in_its_range(before: float, after: float) -> None:
    model = build_model(DEBUG)
    assert model.log_scale.item() == pytest.approx(math.log(1 / 0.07))
    with torch.no_grad():
        model.log_scale.fill_(before)
    model.clamp_temperature()
    assert model.log_scale.item() == pytest.approx(after)
    assert pytest.approx(4.60517, abs=1e-5) == MAX_LOG_SCALE


def test_the_same_seed_gives_the_same_weights_whatever_ran_before() -> None:
    first = shared_state(build_model(DEBUG))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    torch.rand(17)
    state = torch.get_rng_state()
    second = shared_state(build_model(DEBUG))
    assert torch.equal(torch.get_rng_state(), state)  # and leaves the process's own numbers alone
    assert not torch.equal(before, state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = shared_state(build_model(load_settings("debug", ["seed=1"])))
    assert not torch.equal(first["slice_positions.weight"], other["slice_positions.weight"])


def test_more_slice_tokens_than_the_position_table_are_refused_by_the_settings() -> None:
    load_settings("climb", ["data.slices=64"])
    with pytest.raises(SettingsError, match="192"):
        load_settings("climb", ["data.slices=65"])
