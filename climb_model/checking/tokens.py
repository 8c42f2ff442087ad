"""Reports as the study's tokenizer sees them: how long, and how much of them it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from climb_model.checking.result import Finding, found
from climb_model.data.exam import DataError
from climb_model.model.text import GERMAN_TOKENIZER, UNKNOWN
from climb_model.model.weights import weights_source
from configs.schema import BUILTIN_GERMAN, Settings

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What tokenizing all reports gave."""

    lengths: Mapping[str, int] = field(repr=False)
    """UID to tokens; empty where no tokenizer is at hand."""

    findings: tuple[Finding, ...]


def count_tokens(texts: Mapping[str, str], settings: Settings, weights: Path | None) -> Tokens:
    """Tokenize all reports with what is on this machine; nothing is downloaded.

    Args:
        texts: UID to text.
        weights: folder of model folders.
    """
    tokenizer = _tokenizer(settings, weights)
    if tokenizer is None:
        return Tokens(lengths={}, findings=tuple(found("reports.not_tokenized", count=len(texts))))
    encoded = tokenizer.encode_batch(list(texts.values()), add_special_tokens=False)
    lengths = {uid: len(one.ids) for uid, one in zip(texts, encoded, strict=True)}
    unknown = tokenizer.token_to_id(UNKNOWN)
    if unknown is None:
        unknown = tokenizer.token_to_id("<unk>")
    num_unknown = 0 if unknown is None else sum(one.ids.count(unknown) for one in encoded)
    share, most = num_unknown / max(sum(lengths.values()), 1), settings.evaluation.max_unknown_share
    long = [uid for uid, length in lengths.items() if length > settings.model.text.max_tokens]
    findings = found("reports.long", long)
    if share > most:
        told = f"{share:.1%}, at most {most:.1%} wanted"
        findings += found("reports.unknown_words", count=num_unknown, detail=told)
    return Tokens(lengths=lengths, findings=tuple(findings))


def _tokenizer(settings: Settings, weights: Path | None) -> Tokenizer | None:
    name = settings.model.fusion.language_model or settings.model.text.weights
    path = GERMAN_TOKENIZER
    if name != BUILTIN_GERMAN:
        if weights is None:
            return None
        try:
            path = Path(weights_source(name, weights, (TOKENIZER_FILE,))) / TOKENIZER_FILE
        except DataError:
            return None
    tokenizer = load_tokenizer(path)
    if tokenizer is None:
        return None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer | None:
    """A tokenizer's file, or None for one that is damaged: `check_weights` tells of it."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # the library raises nothing narrower
        return None
