"""A frozen language model: what its table gives, what it promises as fusion, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from climb_model.data.exam import DataError
from climb_model.model.climb import ClimbModel, ImageTokens, ReportTokens, build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.model.language_model import LanguageModelFusion, load_language_model
from climb_model.model.text import load_text
from climb_model.sharing import shared_spec, shared_state
from configs.load import SettingsError, load_settings
from configs.schema import Settings, TextConfig

NAMES = ("tiny-llama", "tiny-gemma")
WIDTH, HIDDEN, PIECES, NUM_TOKENS = 64, 32, 320, 12
"""HIDDEN and PIECES are the tiny models'."""
CLOSE = 1e-5
TEXTS = ("Zyste links oben außen.", "Kein Nachweis eines Karzinoms.", "Fibroadenom und Adenose.")


@pytest.fixture
def copied(language_models: Path, tmp_path: Path) -> Path:
    """A weights folder whose files may be spoilt."""
    shutil.copytree(language_models, tmp_path / "weights")
    return tmp_path / "weights"


def settings_of(name: str, *more: str) -> Settings:
    """Preset debug with a language model as its fusion."""
    return load_settings(
        "debug",
        [
            f"model.fusion.language_model={name}",
            f"model.text.weights={name}",
            f"model.text.width={HIDDEN}",
            *more,
        ],
    )


def table_of(name: str) -> TextConfig:
    return TextConfig(weights=name, width=HIDDEN)


def refusal(work: Callable[[], object]) -> str:
    """The one line that a load is refused with; the public one names no folder."""
    with pytest.raises(DataError) as caught:
        work()
    assert "\n" not in str(caught.value) + caught.value.public
    assert "/tmp" not in caught.value.public
    return str(caught.value)


# ---- the word table


@pytest.mark.parametrize("name", NAMES)
def test_a_reports_vectors_are_those_of_the_models_own_input(name: str, language_models: Path) -> None:
    from transformers import AutoModelForCausalLM

    encoder = load_text(table_of(name), language_models)
    whole: Any = AutoModelForCausalLM.from_pretrained(language_models / name)
    pieces = encoder.tokenize(TEXTS[1]).pieces
    with torch.no_grad():
        wanted = whole.get_input_embeddings()(torch.tensor(pieces))
    assert torch.equal(encoder.vectors(pieces), wanted)
    assert encoder.bert is None


def test_gemmas_words_are_scaled_and_llamas_are_not(language_models: Path) -> None:
    from safetensors.torch import load_file

    for name, scale in zip(NAMES, (1.0, math.sqrt(HIDDEN)), strict=True):
        stored = load_file(language_models / name / "model.safetensors")["model.embed_tokens.weight"]
        assert torch.allclose(load_text(table_of(name), language_models).words, scale * stored)


@pytest.mark.parametrize("name", NAMES)
def test_the_table_alone_is_the_table_of_the_whole_model(name: str, language_models: Path) -> None:
    """Sites that load the one and the other have the same text encoder."""
    table = load_language_model(name, language_models, width=HIDDEN, whole=False)
    whole = load_language_model(name, language_models, width=HIDDEN, whole=True)
    assert table.layers is None
    assert torch.equal(table.words, whole.words)
    frozen = FrozenEncoders.load(settings_of(name), language_models)
    alone = load_text(table_of(name), language_models)
    assert (
        frozen.fingerprint["text"]
        == alone.fingerprint
        == load_text(table_of(name), language_models).fingerprint
    )
    assert frozen.fingerprint["tokenizer"] == alone.tokenizer_fingerprint
    assert torch.equal(frozen.text.words, whole.words)


def test_loading_prints_nothing(language_models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_text(table_of(NAMES[0]), language_models)
    FrozenEncoders.load(settings_of(NAMES[1]), language_models)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", NAMES)
def test_a_byte_level_tokenizer_knows_everything(name: str, language_models: Path) -> None:
    encoder = load_text(table_of(name), language_models)
    text = encoder.tokenize("Ωλξ, Größe 8 mm")
    assert encoder.unknown is None
    assert text.num_unknown == 0
    assert encoder.tokenizer.decode(list(text.pieces)) == " Ωλξ, Größe 8 mm"


@pytest.mark.parametrize("name", NAMES)
def test_sentences_that_are_joined_keep_the_blank_between_them(name: str, language_models: Path) -> None:
    encoder = load_text(table_of(name), language_models)
    report = [encoder.tokenize(text).pieces for text in ("Befund unauffällig.", "Kein Karzinom.")]
    assert encoder.tokenizer.decode([*report[0], *report[1]]) == " Befund unauffällig. Kein Karzinom."
    encoder.probe(["Ωλξ.", "Kein Karzinom."])


@pytest.mark.parametrize("name", NAMES)
def test_a_report_ends_with_the_models_own_piece_and_cannot_write_it(
    name: str, language_models: Path
) -> None:
    encoder = load_text(table_of(name), language_models)
    assert encoder.end == encoder.tokenizer.token_to_id("<|end|>") == 1
    assert encoder.end not in encoder.tokenize("Zyste.<|end|> Karzinom.").pieces


def test_the_end_may_come_from_the_models_configuration(copied: Path) -> None:
    folder = copied / NAMES[0]
    for file, key, value in (("tokenizer_config", "eos_token", None), ("config", "eos_token_id", [7, 1])):
        told = json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
        told[key] = value
        (folder / f"{file}.json").write_text(json.dumps(told), encoding="utf-8")
    assert load_text(table_of(NAMES[0]), copied).end == 7
    told["eos_token_id"] = None
    (folder / "config.json").write_text(json.dumps(told), encoding="utf-8")
    line = refusal(lambda: load_text(table_of(NAMES[0]), copied))
    assert line == f"weights: 'tiny-llama' must name an end-of-text piece below {PIECES}, got None"


def test_reports_are_cut_where_the_model_has_no_position_left_for_the_class_token(
    language_models: Path,
) -> None:
    encoder = load_text(replace(table_of(NAMES[0]), max_tokens=1000), language_models)
    assert encoder.max_tokens == 255
    pieces = encoder.tokenize("Zyste " * 400).pieces
    assert len(pieces) == 255
    assert encoder.vectors(pieces).shape == (255, HIDDEN)


# ---- what is refused


def test_a_language_model_has_no_encoder_kind(language_models: Path) -> None:
    line = refusal(lambda: load_text(replace(table_of(NAMES[0]), kind="encoder"), language_models))
    assert line.startswith("model.text.kind 'encoder' needs a BERT; 'tiny-llama' is a causal language model")


def test_another_width_than_the_settings_say_is_refused(language_models: Path) -> None:
    line = refusal(lambda: load_text(replace(table_of(NAMES[0]), width=768), language_models))
    assert line == "weights: 'tiny-llama' is 32 wide, model.text.width is 768"


def test_a_model_that_is_neither_bert_nor_causal_is_refused(copied: Path) -> None:
    (copied / NAMES[0] / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    line = refusal(lambda: load_text(table_of(NAMES[0]), copied))
    assert line == "weights: 'tiny-llama' is of type 't5', wanted a BERT or a causal language model"


def test_incomplete_weights_are_refused(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = copied / NAMES[0] / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, file, {"format": "pt"})
    line = refusal(lambda: load_text(table_of(NAMES[0]), copied))
    assert line == "weights: 'tiny-llama' lacks 1 tensors, first 'model.embed_tokens.weight'"
    file.write_bytes(file.read_bytes()[:1000])
    assert "'tiny-llama' cannot be loaded" in refusal(lambda: load_text(table_of(NAMES[0]), copied))
    file.unlink()
    assert refusal(lambda: load_text(table_of(NAMES[0]), copied)).endswith("lacks model.safetensors")
    (copied / NAMES[1] / "tokenizer_config.json").unlink()
    assert refusal(lambda: load_text(table_of(NAMES[1]), copied)).endswith("lacks tokenizer_config.json")


def test_weights_in_several_files_are_whole(language_models: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    shutil.copytree(language_models / NAMES[0], tmp_path / NAMES[0])
    (tmp_path / NAMES[0] / "model.safetensors").unlink()
    whole: Any = AutoModelForCausalLM.from_pretrained(language_models / NAMES[0])
    whole.save_pretrained(tmp_path / NAMES[0], max_shard_size="50KB")
    assert (tmp_path / NAMES[0] / "model.safetensors.index.json").is_file()
    first, second = (
        load_language_model(NAMES[0], root, width=HIDDEN, whole=True) for root in (language_models, tmp_path)
    )
    assert first.fingerprint == second.fingerprint


def test_a_tokenizer_with_more_pieces_than_words_is_refused(copied: Path) -> None:
    file = copied / NAMES[0] / "tokenizer.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    known = len(told["model"]["vocab"])
    told["model"]["vocab"].update({f"zuviel{number}": known + number for number in range(100)})
    file.write_text(json.dumps(told), encoding="utf-8")
    line = refusal(lambda: load_text(table_of(NAMES[0]), copied))
    assert line == f"weights: 'tiny-llama' has {known + 100} pieces but {PIECES} word vectors"


def test_a_tokenizer_that_leaves_out_what_it_does_not_know_is_refused_by_the_probe(copied: Path) -> None:
    """Without a sign for the unknown nothing counts as unknown; the prompt must come back whole."""
    file = copied / NAMES[0] / "tokenizer.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    told["model"]["vocab"] = {
        piece: number for piece, number in told["model"]["vocab"].items() if piece not in ("z", "Z")
    }
    told["model"]["merges"] = []
    file.write_text(json.dumps(told), encoding="utf-8")
    line = refusal(lambda: FrozenEncoders.load(settings_of(NAMES[0]), copied))
    assert line == "tokenizer of 'tiny-llama': prompt 'Zyste.' comes back as 'yste.', wanted it whole"


def test_too_few_positions_for_the_slices_are_refused(language_models: Path) -> None:
    more = settings_of(NAMES[0], "data.slices=86", "model.fusion.max_slice_tokens=258")
    line = refusal(lambda: FrozenEncoders.load(more, language_models))
    assert line == (
        "weights: 'tiny-llama' has 256 positions, wanted 259 for the slice tokens of an exam "
        "and the class token"
    )


def gated() -> Exception:
    """What transformers raises for a gated model without a login: the hub's own error behind an OSError."""
    import httpx
    from huggingface_hub.errors import GatedRepoError

    request = httpx.Request("GET", "https://huggingface.co/meta-llama/Llama-3.2-1B")
    error = OSError("You are trying to access a gated repo.\nMake sure to have access to it.")
    error.__cause__ = GatedRepoError("403", response=httpx.Response(403, request=request))
    return error


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_is_explained_in_one_line(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from huggingface_hub.errors import HfHubHTTPError
    from transformers import AutoConfig

    request = httpx.Request("GET", "https://huggingface.co/meta-llama/Llama-3.2-1B")
    behind = HfHubHTTPError("denied", response=httpx.Response(status, request=request))

    def refuse(*_: object, **__: object) -> None:
        raise OSError("We could not connect.\nCheckout the installation page.") from behind

    for raise_error in (refuse, lambda *_, **__: (_ for _ in ()).throw(gated())):
        monkeypatch.setattr(AutoConfig, "from_pretrained", raise_error)
        line = refusal(lambda: load_text(TextConfig(weights="meta-llama/Llama-3.2-1B", width=2048), None))
        assert line == (
            "weights: the hub does not give 'meta-llama/Llama-3.2-1B' to this account; accept its licence on "
            "https://huggingface.co/meta-llama/Llama-3.2-1B and log in with a token (hf auth login), "
            "or give a local folder with --weights"
        )


def test_other_faults_of_the_hub_are_no_matter_of_a_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig

    def refuse(*_: object, **__: object) -> None:
        raise OSError("We could not connect.\nCheckout the installation page.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    line = refusal(lambda: load_text(TextConfig(weights="meta-llama/Llama-3.2-1B", width=2048), None))
    assert line == "weights: 'meta-llama/Llama-3.2-1B' cannot be loaded: We could not connect."


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.text.weights=other", "model.text.weights must be the language model of the fusion"),
        ("model.text.kind=encoder", "model.text.kind must be 'embeddings' with a language model as fusion"),
        ("model.fusion.language_model=/opt/llama", "model.fusion.language_model is a name"),
    ],
)
def test_settings_that_contradict_the_language_model_are_refused(override: str, line: str) -> None:
    with pytest.raises(SettingsError, match=line):
        settings_of(NAMES[0], override)


# ---- the whole model as fusion


@pytest.fixture(scope="module", params=NAMES)
def frozen(request: pytest.FixtureRequest, language_models: Path) -> FrozenEncoders:
    return FrozenEncoders.load(settings_of(request.param), language_models)


@pytest.fixture
def model(frozen: FrozenEncoders) -> ClimbModel:
    assert frozen.language_model is not None
    return build_model(settings_of(frozen.language_model.name), frozen.language_model).eval()


def image_batch(num_exams: int, seed: int) -> ImageTokens:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(num_exams, NUM_TOKENS, WIDTH, generator=generator)
    return ImageTokens(tokens, torch.ones(num_exams, NUM_TOKENS, dtype=torch.bool))


def report_batch(lengths: list[int], seed: int) -> ReportTokens:
    generator = torch.Generator().manual_seed(seed)
    present = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ReportTokens(torch.randn(len(lengths), max(lengths), HIDDEN, generator=generator), present)


def images(model: ClimbModel, batch: ImageTokens) -> Tensor:
    with torch.no_grad():
        return model.embed_image(batch).vectors


def reports(model: ClimbModel, batch: ReportTokens) -> Tensor:
    with torch.no_grad():
        return model.embed_report(batch).vectors


def test_embeddings_have_the_fusions_width_and_unit_length(model: ClimbModel) -> None:
    with torch.no_grad():
        image, report = model.embed_image(image_batch(3, 0)), model.embed_report(report_batch([4, 9, 1], 0))
    for found, num_tokens in ((image, NUM_TOKENS), (report, 9)):
        assert found.vectors.shape == (3, WIDTH)
        assert found.states.shape == (3, num_tokens + 1, WIDTH)
        assert torch.allclose(found.vectors.norm(dim=-1), torch.ones(3), atol=CLOSE)


def test_the_class_tokens_state_is_the_last_and_gives_the_vector(model: ClimbModel) -> None:
    batch = report_batch([4, 9, 1], 1)
    with torch.no_grad():
        found = model.embed_report(batch)
        projected = model.fusion.projection(found.states[:, -1])
    assert torch.allclose(torch.nn.functional.normalize(projected, dim=-1), found.vectors, atol=CLOSE)


def test_an_exams_image_vector_does_not_depend_on_its_batch(model: ClimbModel) -> None:
    batch = image_batch(5, 1)
    batch.present[3, 4:9] = False
    together = images(model, batch)
    alone = torch.cat(
        [images(model, ImageTokens(batch.tokens[i : i + 1], batch.present[i : i + 1])) for i in range(5)]
    )
    assert torch.allclose(together, alone, atol=CLOSE)
    other = batch.tokens.clone()
    other[1:] = 100.0
    assert torch.allclose(images(model, ImageTokens(other, batch.present))[0], together[0], atol=CLOSE)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_a_reports_vector_depends_neither_on_padding_nor_on_its_batch(model: ClimbModel) -> None:
    lengths = [3, 17, 1, 8]
    batch = report_batch(lengths, 2)
    with torch.no_grad():
        together = model.embed_report(batch)
    for row, length in enumerate(lengths):
        alone = ReportTokens(batch.tokens[row : row + 1, :length], batch.present[row : row + 1, :length])
        with torch.no_grad():
            found = model.embed_report(alone)
        assert torch.allclose(found.vectors[0], together.vectors[row], atol=CLOSE)
        assert torch.allclose(found.states[0, :length], together.states[row, :length], atol=1e-4)
    longer = ReportTokens(
        torch.cat([batch.tokens, torch.full((4, 30, HIDDEN), 7.0)], dim=1),
        torch.cat([batch.present, torch.zeros(4, 30, dtype=torch.bool)], dim=1),
    )
    assert torch.allclose(reports(model, longer), together.vectors, atol=CLOSE)


@pytest.mark.parametrize("value", [1e6, math.nan, math.inf])
def test_values_under_the_mask_change_neither_vectors_nor_gradients(model: ClimbModel, value: float) -> None:
    image, report = image_batch(2, 3), report_batch([5, 9], 3)
    image.present[:, 4:8] = False
    spoilt = (
        ImageTokens(image.tokens.masked_fill(~image.present[..., None], value), image.present),
        ReportTokens(report.tokens.masked_fill(~report.present[..., None], value), report.present),
    )
    before = torch.cat([images(model, image), reports(model, report)])
    after = torch.cat([model.embed_image(spoilt[0]).vectors, model.embed_report(spoilt[1]).vectors])
    assert torch.equal(before, after.detach())
    after[:, 0].sum().backward()
    assert all(torch.isfinite(grad).all() for value in model.parameters() if (grad := value.grad) is not None)


def test_hiding_slices_equals_dropping_them_at_unchanged_positions(model: ClimbModel) -> None:
    batch = image_batch(2, 4)
    kept = torch.tensor([0, 2, 3, 8, 9, 11])
    batch.present[:] = False
    batch.present[:, kept] = True
    fusion = model.fusion
    assert isinstance(fusion, LanguageModelFusion)
    with torch.no_grad():
        tokens = fusion.enter(batch.tokens[:, kept] + model.slice_positions(kept), batch.present[:, kept])
        dropped, _ = fusion(tokens, batch.present[:, kept], kept.expand(2, -1), torch.full((2,), NUM_TOKENS))
        moved, _ = fusion(
            tokens,
            batch.present[:, kept],
            torch.arange(len(kept)).expand(2, -1),
            torch.full((2,), len(kept)),
        )
    assert torch.allclose(images(model, batch), dropped, atol=CLOSE)
    assert not torch.allclose(images(model, batch), moved, atol=1e-3)


def test_the_frozen_model_is_what_transformers_runs(
    model: ClimbModel, frozen: FrozenEncoders, language_models: Path
) -> None:
    """Report tokens enter by the model's own table, without a projection."""
    from transformers import AutoModelForCausalLM

    assert frozen.language_model is not None
    own: Any = AutoModelForCausalLM.from_pretrained(language_models / frozen.language_model.name)
    pieces = frozen.text.tokenize(TEXTS[0]).pieces
    with torch.no_grad():
        hidden = own(torch.tensor([pieces]), output_hidden_states=True).hidden_states[-1]
        found = model.embed_report(frozen.text.batch([pieces])).states[:, :-1]
        assert isinstance(model.fusion, LanguageModelFusion)
        assert torch.allclose(found, model.fusion.outward(hidden), atol=1e-4)


def test_nothing_of_the_frozen_model_trains_or_travels(model: ClimbModel) -> None:
    names = {name for name, _ in model.named_parameters()}
    assert names == {
        "log_scale",
        "slice_positions.weight",
        "fusion.class_token",
        "fusion.inward.weight",
        "fusion.outward.weight",
        "fusion.projection.weight",
    }
    assert set(model.state_dict()) == names == set(shared_spec(model))


def test_the_frozen_model_stays_frozen_and_lets_gradients_through(model: ClimbModel) -> None:
    fusion = model.train().fusion
    assert isinstance(fusion, LanguageModelFusion)
    assert fusion.frozen is not None
    assert fusion.frozen.layers is not None
    assert not any(module.training for module in fusion.frozen.layers.modules())
    before = [value.clone() for value in fusion.frozen.layers.parameters()]
    image, report = model.embed_image(image_batch(3, 8)), model.embed_report(report_batch([4, 9, 1], 8))
    (image.vectors * report.vectors).sum().backward()
    for name, value in model.named_parameters():
        if name != "log_scale":
            assert value.grad is not None, name
            assert value.grad.abs().sum() > 0, name
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    for old, value in zip(before, fusion.frozen.layers.parameters(), strict=True):
        assert value.grad is None
        assert torch.equal(old, value)


def test_slices_enter_about_as_large_as_words(model: ClimbModel, frozen: FrozenEncoders) -> None:
    fusion, batch = model.fusion, image_batch(4, 9)
    assert isinstance(fusion, LanguageModelFusion)
    with torch.no_grad():
        ratio = fusion.enter(batch.tokens, batch.present).std() / frozen.text.words.std()
    assert 0.3 < ratio < 3.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_frozen_model_that_two_share_works_on_either_ones_device(model: ClimbModel) -> None:
    """In one process a site trains on the GPU what the server measures on the CPU."""
    batch = report_batch([4, 9, 1], 10)
    on_cpu = reports(model, batch)
    on_gpu = reports(model.cuda(), ReportTokens(batch.tokens.cuda(), batch.present.cuda()))
    assert torch.allclose(on_gpu.cpu(), on_cpu, atol=1e-3)
    assert torch.allclose(reports(model.cpu(), batch), on_cpu, atol=CLOSE)


def test_the_language_model_is_part_of_the_fingerprint(language_models: Path, copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    first = FrozenEncoders.load(settings_of(NAMES[0]), language_models).fingerprint
    assert set(first) == {"vision", "text", "tokenizer", "preprocessing", "language_model"}
    file = copied / NAMES[0] / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1.0
    save_file(tensors, file, {"format": "pt"})
    second = FrozenEncoders.load(settings_of(NAMES[0]), copied).fingerprint
    assert {part for part in first if first[part] != second[part]} == {"language_model"}


def test_a_model_without_its_language_model_is_not_built() -> None:
    with pytest.raises(ValueError, match=r"language_model is 'tiny-llama', the frozen model given is ''"):
        build_model(settings_of(NAMES[0]))


def test_the_same_seed_gives_the_same_weights(frozen: FrozenEncoders) -> None:
    assert frozen.language_model is not None
    settings = settings_of(frozen.language_model.name)
    first, second = (shared_state(build_model(settings, frozen.language_model)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_size_with_the_published_language_model() -> None:
    llama = "meta-llama/Llama-3.2-1B"
    settings = load_settings(
        "climb",
        [
            f"model.fusion.language_model={llama}",
            f"model.text.weights={llama}",
            "model.text.width=2048",
            "objectives.coca=0",
            "objectives.inverse_coca=0",
        ],
    )
    with torch.device("meta"):
        model = build_model(settings)
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    assert sizes == {
        "log_scale": 1,
        "slice_positions.weight": 73_728,
        "fusion.inward.weight": 786_432,
        "fusion.class_token": 2_048,
        "fusion.outward.weight": 786_432,
        "fusion.projection.weight": 147_456,
    }
    assert sum(sizes.values()) == 1_796_097
