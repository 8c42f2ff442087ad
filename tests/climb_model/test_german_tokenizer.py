"""Facts about the demo's German tokenizer."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from climb_model.data.german_tokenizer import SPECIAL_TOKENS, TOKENIZER_FILE, tokenizer_json
from climb_model.data.synthetic_reports import QUADRANTS, Planted, clock_hours, write_report
from climb_model.data.wordings import lexicon
from configs.schema import EvaluationConfig

STEMS = (
    "karzinom zyste zyst fibroadenom adenose lymphknoten nekrose duktektasie "
    "narbe radiär dcis in situ duktal kein keine"
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZER_FILE))


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text, add_special_tokens=False).tokens


def test_the_committed_file_is_what_the_script_makes() -> None:
    assert TOKENIZER_FILE.read_text(encoding="utf-8") == tokenizer_json()


def test_the_file_is_small(tokenizer: Tokenizer) -> None:
    assert TOKENIZER_FILE.stat().st_size < 120_000
    assert 2_000 <= tokenizer.get_vocab_size() <= 3_000


def test_special_tokens_come_first_and_frame_the_text(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert tokenizer.encode("Zyste").tokens == ["[CLS]", "zyste", "[SEP]"]


def test_ids_have_no_gaps(tokenizer: Tokenizer) -> None:
    assert sorted(tokenizer.get_vocab().values()) == list(range(tokenizer.get_vocab_size()))


@pytest.mark.parametrize("stem", STEMS.split())
def test_stems_are_single_pieces(tokenizer: Tokenizer, stem: str) -> None:
    assert pieces(tokenizer, stem) == [stem]
    assert pieces(tokenizer, stem.upper()) == [stem]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("Karzinoms", ["karzinom", "##s"]),
        ("Karzinome", ["karzinom", "##e"]),
        ("Mammakarzinoms", ["mamma", "##karzinom", "##s"]),
        ("Zysten", ["zyste", "##n"]),
        ("zystische", ["zyst", "##ische"]),
        ("Fibroadenome", ["fibroadenom", "##e"]),
        ("Fettgewebsnekrosen", ["fettgewebs", "##nekrose", "##n"]),
        ("Fettnekrose", ["fett", "##nekrose"]),
        ("Adenoseherde", ["adenose", "##herde"]),
        ("radiäre Narben", ["radiär", "##e", "narbe", "##n"]),
        ("Lymphknotenmetastase", ["lymphknoten", "##metastase"]),
        ("Duktales", ["duktal", "##es"]),
    ],
)
def test_inflections_share_their_stem(tokenizer: Tokenizer, word: str, expected: list[str]) -> None:
    assert pieces(tokenizer, word) == expected


def test_prompts_have_no_unknown_token_and_all_differ(tokenizer: Tokenizer) -> None:
    evaluation = EvaluationConfig()
    templates = evaluation.positive_prompts + evaluation.negative_prompts
    prompts = [template.format(finding=finding) for finding in evaluation.findings for template in templates]
    encoded = [tuple(pieces(tokenizer, prompt)) for prompt in prompts]
    assert all("[UNK]" not in tokens for tokens in encoded)
    assert len(set(encoded)) == len(prompts) == 18


def test_umlauts_are_kept_however_they_are_encoded(tokenizer: Tokenizer) -> None:
    assert pieces(tokenizer, "radia\u0308r") == pieces(tokenizer, "radiär") == ["radiär"]
    assert pieces(tokenizer, "mäßig") != pieces(tokenizer, "massig")


@settings(deadline=None, derandomize=True, max_examples=300)
@given(text=st.text(st.sampled_from("abcxyzäöüßÄÖÜẞABCXYZ0189 .,;:!?()[]-/%+*=<>\"'&_@#°µ±×≥≤²½„“–…é\n")))
def test_german_text_has_no_unknown_token(tokenizer: Tokenizer, text: str) -> None:
    words = " ".join(re.findall(r".{1,60}", text))  # the library calls words above 100 letters unknown
    assert "[UNK]" not in pieces(tokenizer, words)


@pytest.mark.parametrize("hospital", [0, 1, 2, 3, 25, -1])
def test_reports_are_short_in_tokens(tokenizer: Tokenizer, hospital: int) -> None:
    rng = np.random.default_rng(77)
    ratios = []
    for index in range(60):
        side = ("left", "right")[index % 2]
        hour = clock_hours(QUADRANTS[0], side)[1]
        planted = [
            Planted(finding=finding, size_mm=9.0, quadrant=QUADRANTS[0], num=1, clock=hour)
            for finding in lexicon()
            if rng.random() < 0.2
        ]
        text = write_report(planted, side=side, hospital=hospital, rng=rng)
        tokens = pieces(tokenizer, text)
        assert "[UNK]" not in tokens
        ratios.append(len(tokens) / len(re.findall(r"\w+|[^\w\s]", text)))
    assert np.mean(ratios) < 1.35


def test_the_file_is_plain_wordpiece_without_accent_stripping() -> None:
    content = json.loads(TOKENIZER_FILE.read_text(encoding="utf-8"))
    assert content["model"]["type"] == "WordPiece"
    assert content["model"]["unk_token"] == "[UNK]"
    lower = content["normalizer"]["normalizers"][1]
    assert (lower["type"], lower["lowercase"], lower["strip_accents"]) == ("BertNormalizer", True, False)
