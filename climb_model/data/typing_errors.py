"""Typing errors as they stand in hastily written reports."""

from __future__ import annotations

import numpy as np

_SHARE = 0.01
"""Of all words; shorter words, numbers and those with punctuation stay right."""
_SHORTEST = 5
_SPARED = ("kein", "nicht", "ohne", "weder", "noch", "recht", "link")
"""Words no typing error touches: they decide what a report says."""


def with_typing_errors(text: str, rng: np.random.Generator) -> str:
    """Swap two neighbouring letters, or drop one, in about one word of a hundred; never the first."""
    words = text.split(" ")
    for index, chance in enumerate(rng.random(len(words))):
        if chance < _SHARE and _may_err(words[index]):
            mistyped = _mistyped(words[index], rng)
            if not mistyped.lower().startswith(_SPARED):  # as "wieder" would become "weder"
                words[index] = mistyped
    return " ".join(words)


def _may_err(word: str) -> bool:
    return len(word) >= _SHORTEST and word.isalpha() and not word.lower().startswith(_SPARED)


def _mistyped(word: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(1, len(word) - 2))
    pair = word[at + 1] + word[at] if rng.random() < 0.5 else word[at + 1]
    return word[:at] + pair + word[at + 2 :]
