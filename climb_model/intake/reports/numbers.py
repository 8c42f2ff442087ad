"""Accession and patient numbers of a table, found also where leading zeros were lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from climb_model.data.tables import folded


@dataclass(frozen=True)
class NumberIndex:
    """Where a number stands in the table."""

    rows: dict[str, list[int]]
    bare: dict[str, list[str]]
    """Number without leading zeros to the numbers of the table."""

    @staticmethod
    def of(cells: Iterable[str]) -> NumberIndex:
        rows: dict[str, list[int]] = {}
        bare: dict[str, list[str]] = {}
        for place, cell in enumerate(cells):
            if cell and cell not in rows:
                bare.setdefault(cell.lstrip("0"), []).append(cell)
            if cell:
                rows.setdefault(cell, []).append(place)
        return NumberIndex(rows, bare)

    def find(self, key: str, known: Counter[str]) -> tuple[list[int], bool]:
        """The rows of a number, and whether it was found only without its leading zeros.

        That is tried only if neither the table nor the import has a second number like it.
        """
        if key in self.rows:
            return self.rows[key], False
        bare = key.lstrip("0")
        near = self.bare.get(bare, []) if bare else []
        return (self.rows[near[0]], True) if len(near) == 1 and known[bare] <= 1 else ([], False)


def is_same_number(cell: str, number: str) -> bool:
    """Whether a cell of the table and a number of the export may be one: leading zeros get lost."""
    return not cell or not number or folded(cell).lstrip("0") == folded(number).lstrip("0")
