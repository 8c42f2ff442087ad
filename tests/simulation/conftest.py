"""A study small enough to run whole in a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from configs.load import load_settings
from configs.schema import Settings

TINY = ("training.num_threads=1", "evaluation.findings=[Zyste, Karzinom]", "evaluation.bootstrap=20")


@dataclass(frozen=True)
class Study:
    """Folders of hospitals A, B, C and of the server, and how to read settings for them."""

    sites: dict[str, Path]
    central: Path
    overrides: tuple[str, ...] = TINY

    def settings(self, *overrides: str) -> Settings:
        return load_settings("debug", [*self.overrides, *overrides])


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, make_site: Callable[..., Path]) -> Study:
    """Hospitals of different sizes, so that weights by exams differ from equal weights."""
    root = tmp_path_factory.mktemp("hospitals")
    sizes = {"A": 8, "B": 16, "C": 24}
    sites = {name: make_site(root, name, exams=exams) for name, exams in sizes.items()}
    return Study(sites, make_site(root, "CENTRAL", exams=24))
