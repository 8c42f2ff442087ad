"""Frozen encoders: what names them, what they promise about a slice, and weights that are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from climb_model.data.exam import DataError
from climb_model.model.frozen import FrozenEncoders
from climb_model.model.text import ReportEncoder, load_text
from climb_model.model.vision import load_vision
from configs.load import load_settings
from configs.schema import Settings

REAL = (
    "model.vision.weights=dinov2-small",
    "model.vision.width=384",
    "model.text.weights=e5-small-german",
    "model.text.width=384",
    "model.fusion.width=384",
    "data.rows=56",
    "data.columns=56",
    "evaluation.findings=[Zyste, Karzinom]",
)


def debug(*overrides: str) -> Settings:
    return load_settings("debug", list(overrides))


def slices(num_slices: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_slices, size, size, generator=torch.Generator().manual_seed(seed))


def refusal(settings: Settings, weights: Path) -> str:
    """The one line that a load is refused with; both forms are single lines."""
    with pytest.raises(DataError) as caught:
        FrozenEncoders.load(settings, weights)
    assert "\n" not in str(caught.value) + caught.value.public
    assert str(weights) not in caught.value.public
    return str(caught.value)


def test_builtin_fingerprints_are_the_same_on_every_load() -> None:
    first, second = FrozenEncoders.load(debug()), FrozenEncoders.load(debug())
    assert first.fingerprint == second.fingerprint
    assert set(first.fingerprint) == {"vision", "text", "tokenizer", "preprocessing"}
    assert all(len(value) == 64 for value in first.fingerprint.values())


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.spacing_mm=[8.0, 4.0, 3.0]", {"preprocessing"}),
        ("data.clip_percentiles=[1.0, 99.0]", {"preprocessing"}),
        ("data.sequences=[Pre, T2]", {"preprocessing"}),
        ("data.num_views=2", {"preprocessing"}),
        ("data.spacing_mm=[8.0, 3.0, 4.0]", {"preprocessing", "vision"}),  # filters are in millimetres
        ("model.text.width=32", {"text"}),
        ("seed=7", set()),
        ("training.batch_size=8", set()),
    ],
)
def test_fingerprint_names_the_part_that_differs(override: str, parts: set[str]) -> None:
    first, second = FrozenEncoders.load(debug()).fingerprint, FrozenEncoders.load(debug(override)).fingerprint
    assert {part for part in first if first[part] != second[part]} == parts


def test_another_width_of_slice_tokens_is_another_encoder() -> None:
    wide = debug("model.vision.width=128", "model.fusion.width=128")
    first, second = FrozenEncoders.load(debug()), FrozenEncoders.load(wide)
    assert first.fingerprint["vision"] != second.fingerprint["vision"]
    assert second.vision(slices(2)).shape == (2, 128)


def test_a_slice_alone_gives_the_token_it_gives_in_a_batch() -> None:
    encoder = load_vision(debug().model.vision, debug().data, None)
    batch = slices(11)
    together = encoder(batch)
    assert together.dtype == torch.float32
    assert together.shape == (11, 64)
    assert torch.allclose(together, torch.cat([encoder(batch[i : i + 1]) for i in range(11)]), atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def test_a_report_is_encoded_alone_and_padded_under_the_mask() -> None:
    encoder = load_text(debug().model.text, None)
    short, long = (encoder.tokenize(text).pieces for text in ("Zyste.", "Kein Nachweis eines Karzinoms."))
    batch = encoder.batch([short, long])
    assert batch.present.sum(dim=1).tolist() == [len(short), len(long)]
    assert torch.equal(batch.tokens[0, : len(short)], encoder.vectors(short))
    assert torch.equal(batch.tokens[1], encoder.vectors(long))
    assert not batch.tokens[0, len(short) :].any()


def test_builtin_german_has_no_encoder_to_run() -> None:
    with pytest.raises(DataError, match=r"model\.text\.kind 'encoder' needs a BERT"):
        load_text(replace(debug().model.text, kind="encoder"), None)


def test_a_bert_tokenizer_without_the_signs_around_a_text_is_refused() -> None:
    whole = load_text(debug().model.text, None)
    bare = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    with pytest.raises(DataError, match="'builtin:german' has no pieces <s> and </s>"):
        ReportEncoder(whole.config, bare, whole.words, whole.positions, None, "bare")


def test_a_prompt_with_unknown_words_is_refused_naming_the_prompt() -> None:
    with pytest.raises(DataError, match=r"prompt 'Ωλξ\.' has \d+ unknown tokens of \d+, wanted none"):
        FrozenEncoders.load(debug("evaluation.findings=[Zyste, Ωλξ]"))


class TinyBert(torch.nn.Module):
    """Takes as many pieces as it has positions, as a BERT does."""

    def __init__(self, num_positions: int) -> None:
        super().__init__()
        self.positions = torch.nn.Embedding(num_positions, 64)

    def forward(self, *, input_ids: torch.Tensor) -> SimpleNamespace:
        """The positions alone."""
        return SimpleNamespace(last_hidden_state=self.positions(torch.arange(input_ids.shape[1]))[None])


def test_a_whole_bert_leaves_room_for_the_signs_around_a_text() -> None:
    tables = load_text(debug().model.text, None)
    bert = TinyBert(12)
    whole = ReportEncoder(tables.config, tables.tokenizer, tables.words, tables.positions[:12], bert, "tiny")
    text = whole.tokenize("Zyste " * 20)
    assert (len(text.pieces), text.num_cut) == (whole.max_tokens, 10)
    assert whole.max_tokens == 10
    assert torch.equal(whole.vectors(text.pieces), bert.positions.weight[1:-1])


def test_a_prompt_without_room_is_refused_naming_the_prompt() -> None:
    """Cut, it would be the prompt of another finding."""
    line = r"prompt 'Duktales Karzinom in situ\.' has 6 tokens, model\.text\.max_tokens leaves room for 4$"
    with pytest.raises(DataError, match=line):
        FrozenEncoders.load(
            debug("model.text.max_tokens=4", "evaluation.findings=[Duktales Karzinom in situ]")
        )


def test_no_weights_folder_falls_back_to_another_encoder(tmp_path: Path) -> None:
    """Each name is asked for by name; the builtin ones never stand in."""
    line = refusal(debug("model.vision.weights=facebook/dinov2-small"), tmp_path)
    assert "wanted a folder 'dinov2-small' for 'facebook/dinov2-small'" in line
    line = refusal(debug("model.text.weights=GerMedBERT/medbert-512"), tmp_path)
    assert "wanted a folder 'medbert-512'" in line


def test_a_folder_that_lacks_files_is_refused_naming_them(tmp_path: Path) -> None:
    (tmp_path / "dinov2-small").mkdir()
    (tmp_path / "dinov2-small" / "config.json").write_text("{}", encoding="utf-8")
    line = refusal(debug("model.vision.weights=facebook/dinov2-small"), tmp_path)
    assert line.endswith("lacks model.safetensors")
    (tmp_path / "bert").mkdir()
    line = refusal(debug("model.text.weights=bert"), tmp_path)
    assert line.endswith("lacks config.json, model.safetensors, tokenizer.json")


# ---- real weights


@pytest.fixture(scope="module")
def weights(assets: Path) -> Path:
    return assets / "weights"


@pytest.fixture
def copied(weights: Path, tmp_path: Path) -> Path:
    """A weights folder whose files may be spoilt: links, replaced one by one."""
    for model in ("dinov2-small", "e5-small-german"):
        (tmp_path / model).mkdir()
        for file in (weights / model).iterdir():
            (tmp_path / model / file.name).symlink_to(file)
    return tmp_path


def test_real_weights_load_and_a_slice_gives_a_float32_token(weights: Path) -> None:
    settings = debug(*REAL)
    frozen = FrozenEncoders.load(settings, weights)
    grey = slices(2, 56)
    tokens = frozen.vision(grey)
    assert tokens.dtype == torch.float32
    assert tokens.shape == (2, 384)
    assert torch.isfinite(tokens).all()
    assert torch.allclose(frozen.vision(grey[1:]), tokens[1:], atol=1e-4)
    assert not torch.allclose(tokens[0], tokens[1], atol=0.1)
    assert frozen.fingerprint != FrozenEncoders.load(debug()).fingerprint
    with pytest.raises(ValueError, match="multiples of 14"):
        frozen.vision(slices(1, 50))


def test_tables_and_whole_encoder_are_two_text_encoders(weights: Path) -> None:
    tables = load_text(debug(*REAL).model.text, weights)
    whole = load_text(debug(*REAL, "model.text.kind=encoder").model.text, weights)
    pieces = tables.tokenize("Kein Nachweis eines Karzinoms.").pieces
    assert pieces == whole.tokenize("Kein Nachweis eines Karzinoms.").pieces
    assert tables.tokenizer_fingerprint == whole.tokenizer_fingerprint
    assert tables.fingerprint != whole.fingerprint
    of_tables, of_whole = tables.vectors(pieces), whole.vectors(pieces)
    assert of_tables.shape == of_whole.shape == (len(pieces), 384)
    assert of_tables.dtype == of_whole.dtype == torch.float32
    assert not torch.allclose(of_tables, of_whole, atol=0.01)
    # layers see the neighbours, tables do not
    other = tables.tokenize("Kein Nachweis eines Fibroadenoms.").pieces
    assert torch.equal(tables.vectors(other)[0], of_tables[0])
    assert not torch.allclose(whole.vectors(other)[0], of_whole[0], atol=1e-3)
    for encoder in (tables, whole):
        text = encoder.tokenize("Zyste " * 600)
        assert torch.isfinite(encoder.vectors(text.pieces)).all()


@pytest.mark.parametrize("model", ["dinov2-small", "e5-small-german"])
def test_a_truncated_weights_file_is_refused(copied: Path, model: str) -> None:
    file = copied / model / "model.safetensors"
    whole = file.resolve()
    file.unlink()
    file.write_bytes(whole.read_bytes()[:1_000_000])
    line = refusal(debug(*REAL), copied)
    assert model in line
    assert "cannot be loaded" in line


def test_weights_of_another_model_are_refused(copied: Path) -> None:
    """A BERT's file in DINOv2's folder has none of the tensors that are wanted."""
    file = copied / "dinov2-small" / "model.safetensors"
    file.unlink()
    shutil.copyfile((copied / "e5-small-german" / "model.safetensors").resolve(), file)
    line = refusal(debug(*REAL), copied)
    assert "'dinov2-small' lacks" in line
    assert "tensors, first" in line


def test_another_width_than_the_settings_say_is_refused(weights: Path) -> None:
    wide = [value for value in REAL if "width" not in value]
    line = refusal(debug(*wide, "model.vision.width=64", "model.text.width=384"), weights)
    assert "gives tokens of width 384, model.vision.width is 64" in line
    line = refusal(debug("model.text.weights=e5-small-german", "model.text.width=768"), weights)
    assert "is 384 wide, model.text.width is 768" in line


def test_a_tokenizer_that_knows_nothing_is_refused_by_the_probe(copied: Path) -> None:
    """A tokenizer that lost its vocabulary answers with unknown tokens, in silence."""
    file = copied / "e5-small-german" / "tokenizer.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    unknown = "[UNK]" if "[UNK]" in json.dumps(told) else "<unk>"
    file.unlink()
    Tokenizer(WordLevel({unknown: 0}, unk_token=unknown)).save(str(file))
    line = refusal(debug(*REAL), copied)
    assert "e5-small-german" in line
    assert "unknown tokens" in line
