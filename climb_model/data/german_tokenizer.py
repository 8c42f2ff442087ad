"""The demo's small German WordPiece tokenizer: lower case, umlauts kept, made from synthetic reports."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from climb_model.data.planted import QUADRANTS, Planted, clock_hours
from climb_model.data.synthetic_reports import write_report
from climb_model.data.wordings import CENTRAL, lexicon, load_wording

TOKENIZER_FILE = Path(__file__).with_name("german_tokenizer.json")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Their ids are 0 to 4."""

_ALPHABET = (
    "abcdefghijklmnopqrstuvwxyzäöüßàáâåçèéêëíîïñóôøúû0123456789"
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u00a7\u00b0\u00b1\u00b2\u00b3\u00b4\u00b5\u03bc\u00b7\u00ab\u00bb\u00bd\u00d7"
    "\u2013\u2014\u2018\u2019\u201a\u201c\u201d\u201e\u2022\u2026\u20ac\u2192\u2191\u2193\u2248\u2264\u2265\u2300"
)
_PIECES = 2_600
"""Largest size of the trained part, alphabet included."""

_HOSPITALS = (*range(12), CENTRAL)
_REPORTS = 150
"""Reports of each hospital that the pieces are learned from."""
_FEWEST = 3
"""A word of the reports seen less often is no example: it may be a typing error."""


def build_tokenizer() -> Tokenizer:
    """Train the tokenizer; the same result on every call and machine.

    No learned piece crosses the border of a finding's stem, so that greedy matching finds the stems:
    `Mammakarzinoms` is `mamma`, `##karzinom`, `##s`.
    """
    lists = {kind: text.split() for kind, text in load_wording("german_words").items()}
    stems = lists["stems"]
    border = re.compile("|".join(sorted(map(re.escape, stems), key=len, reverse=True)))
    counts = _word_counts()
    counts.update(lists["words"])
    seeded = [*stems, *(f"##{stem}" for stem in stems), *lists["prefixes"]]
    seeded += [f"##{suffix}" for suffix in lists["suffixes"]]
    seeded += [str(number) for number in range(10, 100)]
    for word in sorted(counts):
        if border.search(word):
            seeded += _around_stems(word, border)
    plain = {word: count for word, count in counts.items() if word.isalpha() and not border.search(word)}
    pieces = dict.fromkeys([*_letters(), *seeded, *_learned(plain)])
    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL_TOKENS, *pieces])}
    tokenizer = _untrained(vocabulary)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def tokenizer_json() -> str:
    """The file's content."""
    return build_tokenizer().to_str(pretty=False) + "\n"


def main() -> None:
    """Write the tokenizer beside this module."""
    TOKENIZER_FILE.write_text(tokenizer_json(), encoding="utf-8")


def _untrained(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    lower = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), lower])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _letters() -> list[str]:
    inside = [letter for letter in _ALPHABET if letter.isalnum() or not letter.isascii()]
    return [*_ALPHABET, *(f"##{letter}" for letter in inside)]


def _learned(counts: dict[str, int]) -> list[str]:
    """Pieces of the words, by the library's trainer.

    The letters are handed over as special tokens: else it numbers them in the order of a hash map, and
    ties between pairs fall differently in every process.
    """
    tokenizer = _untrained({"[UNK]": 0})
    trainer = trainers.WordPieceTrainer(
        vocab_size=_PIECES, special_tokens=["[UNK]", *_letters()], show_progress=False
    )
    texts = (" ".join([word] * counts[word]) for word in sorted(counts))
    tokenizer.train_from_iterator(texts, trainer)
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary.keys() - {"[UNK]"}, key=vocabulary.__getitem__)


def _around_stems(word: str, border: re.Pattern[str]) -> list[str]:
    """What stands before, between and after a word's stems, as pieces."""
    pieces: list[str] = []
    end = 0
    for match in border.finditer(word):
        pieces.append(word[end : match.start()])
        end = match.end()
    before, *inside = [*pieces, word[end:]]
    return [piece for piece in [before, *(f"##{part}" for part in inside if part)] if piece]


def _word_counts() -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in _reports():
        counts.update(re.findall(r"\w+", text.lower()))
    return Counter({word: count for word, count in counts.items() if count >= _FEWEST})


def _reports() -> Iterator[str]:
    for hospital in _HOSPITALS:
        rng = np.random.default_rng([20, hospital - CENTRAL])
        for index in range(_REPORTS):
            side = "left" if index % 2 else "right"
            present = [finding for finding in lexicon() if rng.random() < 0.2]
            planted = [_planted(finding, side, rng) for finding in present]
            yield write_report(planted, side=side, hospital=hospital, rng=rng)


def _planted(finding: str, side: str, rng: np.random.Generator) -> Planted:
    quadrant = QUADRANTS[int(rng.integers(len(QUADRANTS)))]
    hours = clock_hours(quadrant, side)
    return Planted(
        finding=finding,
        size_mm=float(rng.uniform(4, 30)),
        quadrant=quadrant,
        num=int(rng.integers(1, 4)),
        clock=hours[int(rng.integers(len(hours)))],
    )


if __name__ == "__main__":
    main()
