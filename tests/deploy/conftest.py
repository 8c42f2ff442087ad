"""Real processes, links that fail, and machines of their own: what the failure tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for harness, relay and the like, which are no tests

from harness import Federation, Hospitals, missing

EXAMS = {"A": 48, "B": 52, "C": 60}
"""Breasts of each hospital; three quarters train, more than the policy's minimum."""


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory, make_site: Callable[..., Path]) -> Hospitals:
    """Three hospitals and the coordinator's own exams."""
    root = tmp_path_factory.mktemp("hospitals")
    sites = {name: make_site(root, name, exams=exams) for name, exams in EXAMS.items()}
    return Hospitals(sites, make_site(root, "CENTRAL", exams=24))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Let fixtures know whether the test failed."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


_FAILED = pytest.StashKey[bool]()


@pytest.fixture
def failed(request: pytest.FixtureRequest) -> Callable[[], bool]:
    """Whether the test has failed; for what comes after it."""
    return lambda: request.node.stash.get(_FAILED, True)


@pytest.fixture
def make_federation(
    failed: Callable[[], bool], tmp_path: Path, hospitals: Hospitals
) -> Iterator[Callable[..., Federation]]:
    """Make federations: `make_federation(**options)`; their processes end with the test."""
    why = missing()
    if why:
        pytest.skip(why)
    made: list[Federation] = []

    def make(name: str = "federation", **options: object) -> Federation:
        made.append(Federation(tmp_path / name, options.pop("hospitals", hospitals), **options))
        return made[-1]

    yield make
    for federation in made:
        federation.close()
        if failed():
            print(federation.logs())  # noqa: T201
