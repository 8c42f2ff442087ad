"""What fails often: programs that are killed, sites that hang. Each on a federation of real processes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import LONG, SAME, Federation, Hospitals, furthest
from processes import command_line, descendants, signal_quietly, wait_until
from undisturbed import shared_weights

pytestmark = pytest.mark.deploy

STUDY = "study"
Make = Callable[..., Federation]


@pytest.fixture
def reference(tmp_path: Path, hospitals: Hospitals) -> Callable[..., Any]:
    """Weights of the same study where nothing failed, with the sites that took part in each round."""

    def weights(federation: Federation, *overrides: str) -> Any:
        sites = sorted(federation.sites)
        absent = {
            record["round"]: [site for site in sites if site not in record["sites"]]
            for record in federation.history(STUDY)
            if record["round"]
        }
        return shared_weights(tmp_path / "undisturbed", hospitals, sites, *overrides, absent=absent)

    return weights


def begun(make_federation: Make, *sites: str) -> Federation:
    """A federation whose sites are online."""
    federation = make_federation()
    federation.start_server()
    for site in sites:
        federation.join(site)
        federation.start_site(site)
    federation.wait_online(*sites)
    return federation


def process_of(federation: Federation, name: str) -> int:
    """The one process of the server whose program has a name."""
    assert federation.server is not None
    found = [pid for pid in federation.server.tree() if f"/{name} " in command_line(pid)]
    assert len(found) == 1, (name, [command_line(pid) for pid in federation.server.tree()])
    return found[0]


def wait_training(federation: Federation, site: str, round: int) -> list[int]:
    """Wait until a site trains in a round; returns the processes of its app."""
    federation.wait_round(STUDY, round - 1)
    apps: list[int] = []

    def at_work() -> bool:
        apps[:] = federation.app_processes(site)
        return bool(apps)

    wait_until(at_work, 300, f"site {site} trains in round {round}", alive=[federation.sites[site]])
    time.sleep(1)  # into the training itself
    return apps


def told(federation: Federation, round: int) -> dict[str, str]:
    """Site to reason of a round's dropped replies."""
    record = next(record for record in federation.history(STUDY) if record["round"] == round)
    return {entry["site"]: entry["reason"] for entry in record["rejected"]}


def test_nothing_fails(make_federation: Make, reference: Callable[..., Any]) -> None:
    federation = begun(make_federation, "A", "B", "C")
    federation.submit(STUDY, sites=3)
    summary = federation.wait_end(STUDY)
    assert [sorted(record["sites"]) for record in federation.history(STUDY)] == [[], *[["A", "B", "C"]] * 3]
    assert not any(record["rejected"] for record in federation.history(STUDY))
    assert summary["exams"] == {"A": 36, "B": 40, "C": 46}
    assert furthest(federation.shared(STUDY), reference(federation)) <= SAME


def test_the_superlink_is_killed_in_a_round(make_federation: Make, reference: Callable[..., Any]) -> None:
    federation = begun(make_federation, "A", "B")
    federation.submit(STUDY, *LONG, sites=2)
    wait_training(federation, "A", round=2)
    killed = process_of(federation, "flower-superlink")
    signal_quietly(killed, signal.SIGKILL)
    federation.wait_end(STUDY)
    assert process_of(federation, "flower-superlink") != killed
    assert [sorted(record["sites"]) for record in federation.history(STUDY)] == [[], *[["A", "B"]] * 3]
    assert furthest(federation.shared(STUDY), reference(federation, *LONG)) <= SAME


def test_the_servers_app_is_killed_and_the_study_resumed(
    make_federation: Make, reference: Callable[..., Any]
) -> None:
    federation = begun(make_federation, "A", "B")
    federation.submit(STUDY, *LONG, sites=2)
    wait_training(federation, "A", round=2)
    signal_quietly(process_of(federation, "flwr-serverapp"), signal.SIGKILL)

    def over() -> bool:
        return "running" not in federation.ask("climb-server", "status", "--home", federation.home)

    print(f"noticed after {wait_until(over, 120, 'the run is over'):.0f} s")  # noqa: T201
    assert len(federation.history(STUDY)) == 2
    assert federation.summary(STUDY) is None
    federation.ask("climb-server", "resume", STUDY, "--home", federation.home)
    federation.wait_end(STUDY)
    assert [sorted(record["sites"]) for record in federation.history(STUDY)] == [[], *[["A", "B"]] * 3]
    assert furthest(federation.shared(STUDY), reference(federation, *LONG)) <= SAME


def test_a_site_is_killed_in_training_and_rejoins_with_its_private_state(
    make_federation: Make, reference: Callable[..., Any]
) -> None:
    federation = begun(make_federation, "A", "B", "C")
    more = (*LONG, "federation.num_rounds=4")
    federation.submit(STUDY, *more, sites=3)
    wait_training(federation, "A", round=2)
    federation.sites["A"].kill()
    federation.start_site("A")
    federation.wait_end(STUDY)
    taking_part = {record["round"]: sorted(record["sites"]) for record in federation.history(STUDY)}
    assert taking_part[1] == taking_part[4] == ["A", "B", "C"]
    assert {"B", "C"} <= set(taking_part[2])
    if "A" not in taking_part[2]:
        assert "A" in told(federation, 2)
    log = (federation.private("A") / "site.log").read_text()
    assert "no private state of an earlier round" not in log
    assert furthest(federation.shared(STUDY), reference(federation, *more)) <= SAME


DEADLINE = ("federation.deadline_factor=2", "federation.min_deadline_s=25")
"""Short, so that a test need not wait for five minutes."""


def test_a_site_hangs_and_the_round_goes_on(make_federation: Make, reference: Callable[..., Any]) -> None:
    federation = begun(make_federation, "A", "B", "C")
    more = (*DEADLINE, "federation.num_rounds=4")
    federation.submit(STUDY, *more, sites=3)
    apps = wait_training_now(federation, "A", round=2)
    for pid in apps:
        signal_quietly(pid, signal.SIGSTOP)
    began = time.monotonic()
    federation.wait_round(STUDY, 2)
    print(f"round 2 ended {time.monotonic() - began:.0f} s after the site hung")  # noqa: T201
    assert "did not answer within" in told(federation, 2)["A"]
    federation.wait_end(STUDY)
    history = federation.history(STUDY)
    assert sorted(history[-1]["sites"]) == ["A", "B", "C"], "the site should take part again"
    assert "came too late" in (federation.private("A") / "site.log").read_text()
    assert not set(apps) & set(federation.sites["A"].tree()), "the process that hung should be ended"
    assert furthest(federation.shared(STUDY), reference(federation, *more)) <= SAME


def test_a_site_ten_times_slower_is_left_behind_and_told(
    make_federation: Make, reference: Callable[..., Any]
) -> None:
    federation = begun(make_federation, "A", "B", "C")
    more = (*LONG, *DEADLINE)
    federation.submit(STUDY, *more, sites=3)
    federation.wait_round(STUDY, 1)
    with slowed(federation, "A"):
        federation.wait_round(STUDY, 2)
    assert "did not answer within" in told(federation, 2)["A"]
    federation.wait_end(STUDY)
    assert "came too late" in (federation.private("A") / "site.log").read_text()
    assert furthest(federation.shared(STUDY), reference(federation, *more)) <= SAME


def wait_training_now(federation: Federation, site: str, round: int) -> list[int]:
    """As `wait_training`, for short rounds: as soon as the process is there."""
    federation.wait_round(STUDY, round - 1)
    apps: list[int] = []

    def at_work() -> bool:
        apps[:] = federation.app_processes(site)
        return bool(apps)

    wait_until(at_work, 300, f"site {site} trains in round {round}", alive=[federation.sites[site]])
    return apps


@contextmanager
def slowed(federation: Federation, site: str) -> Iterator[None]:
    """Let a site's app run one tenth of the time."""
    ends = threading.Event()

    def slow() -> None:
        while not ends.is_set():
            apps = [other for pid in federation.app_processes(site) for other in (pid, *descendants(pid))]
            for pid in apps:
                signal_quietly(pid, signal.SIGSTOP)
            ends.wait(0.45)
            for pid in apps:
                signal_quietly(pid, signal.SIGCONT)
            time.sleep(0.05)

    thread = threading.Thread(target=slow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join(5)
