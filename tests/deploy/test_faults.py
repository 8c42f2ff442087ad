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
from harness import LONG, SAME, Federation, Hospitals, furthest, missing
from processes import command_line, cpu_seconds, descendants, signal_quietly, wait_until
from undisturbed import shared_weights

pytestmark = pytest.mark.deploy

SITES = ("A", "B", "C")
IN_TRAINING_S = 6.0
"""Of processor time: the app's libraries are loaded by then, and a `LONG` training is not over."""


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, hospitals: Hospitals) -> Iterator[Federation]:
    """One federation for all tests: each must leave it as sound as it was."""
    why = missing()
    if why:
        pytest.skip(why)
    federation = Federation(tmp_path_factory.mktemp("federation"), hospitals)
    try:
        federation.start_server()
        for site in SITES:
            federation.join(site)
        yield federation
    finally:
        federation.close()


@pytest.fixture
def federation(lasting: Federation, failed: Callable[[], bool]) -> Iterator[Federation]:
    """The federation with its server and its three sites online."""
    if lasting.server is None or lasting.server.code is not None:
        lasting.start_server()
    for site in SITES:
        if site not in lasting.sites or lasting.sites[site].code is not None:
            lasting.start_site(site)
    lasting.wait_online(*SITES)
    yield lasting
    if failed():
        print(lasting.logs())  # noqa: T201


@pytest.fixture
def study(request: pytest.FixtureRequest) -> str:
    """A study of the test's own."""
    return request.node.name.removeprefix("test_")[:40]


@pytest.fixture(scope="module")
def computed() -> dict[str, Any]:
    """Weights of studies where nothing failed, for the next test that wants the same."""
    return {}


@pytest.fixture
def reference(
    tmp_path: Path, hospitals: Hospitals, federation: Federation, study: str, computed: dict[str, Any]
) -> Callable[..., Any]:
    """Weights of the same study where nothing failed, with the sites that took part in each round."""

    def weights(*overrides: str) -> Any:
        absent: dict[int, list[str]] = {}
        late: dict[int, list[str]] = {}
        for record in federation.history(study)[1:]:
            for site in SITES:
                if site not in record["sites"]:
                    trained = f"round {record['round']}: " in trainings(federation, site)
                    (late if trained else absent).setdefault(record["round"], []).append(site)
        key = repr((overrides, absent, late))
        if key not in computed:
            computed[key] = shared_weights(
                tmp_path / "undisturbed", hospitals, SITES, *overrides, absent=absent, late=late
            )
        return computed[key]

    return weights


def process_of(federation: Federation, name: str) -> int:
    """The one process of the server whose program has a name."""
    assert federation.server is not None
    found = [pid for pid in federation.server.tree() if f"/{name} " in command_line(pid)]
    assert len(found) == 1, (name, [command_line(pid) for pid in federation.server.tree()])
    return found[0]


def wait_app(federation: Federation, study: str, site: str, round: int) -> list[int]:
    """Wait until a site works on a round; returns the processes of its app."""
    federation.wait_round(study, round - 1)
    apps: list[int] = []

    def at_work() -> bool:
        apps[:] = federation.app_processes(site)
        return bool(apps)

    wait_until(at_work, 300, f"site {site} works on round {round}", alive=[federation.sites[site]])
    return apps


def wait_training(federation: Federation, study: str, site: str, round: int) -> list[int]:
    """As `wait_app`, for `LONG` rounds: until the site is in the middle of its training."""
    apps = wait_app(federation, study, site, round)

    def in_training() -> bool:
        used = cpu_seconds(apps[0])
        assert used is not None, f"site {site} has ended its training of round {round} already"
        return used > IN_TRAINING_S

    wait_until(in_training, 300, f"site {site} trains in round {round}")
    return apps


def told(federation: Federation, study: str, round: int) -> dict[str, str]:
    """Site to reason of a round's dropped replies."""
    record = next(record for record in federation.history(study) if record["round"] == round)
    return {entry["site"]: entry["reason"] for entry in record["rejected"]}


def own_log(federation: Federation, site: str) -> str:
    """What a site has told its admin since the last first exchange."""
    return (federation.private(site) / "site.log").read_text("utf-8").rpartition("first exchange")[2]


def trainings(federation: Federation, site: str) -> str:
    """Lines of a site's own log about rounds that it finished, since the last first exchange."""
    return "\n".join(line for line in own_log(federation, site).splitlines() if " steps on " in line)


def test_nothing_fails(federation: Federation, study: str, reference: Callable[..., Any]) -> None:
    federation.submit(study, sites=3)
    summary = federation.wait_end(study)
    assert [sorted(record["sites"]) for record in federation.history(study)] == [[], *[list(SITES)] * 3]
    assert not any(record["rejected"] for record in federation.history(study))
    assert summary["exams"] == {"A": 36, "B": 40, "C": 46}
    assert furthest(federation.shared(study), reference()) <= SAME


def test_the_superlink_is_killed_in_a_round(
    federation: Federation, study: str, reference: Callable[..., Any]
) -> None:
    federation.submit(study, *LONG, sites=3)
    wait_training(federation, study, "A", round=2)
    killed = process_of(federation, "flower-superlink")
    signal_quietly(killed, signal.SIGKILL)
    federation.wait_end(study)
    assert process_of(federation, "flower-superlink") != killed
    assert [sorted(record["sites"]) for record in federation.history(study)] == [[], *[list(SITES)] * 3]
    assert furthest(federation.shared(study), reference(*LONG)) <= SAME


def test_the_servers_app_is_killed_and_the_study_resumed(
    federation: Federation, study: str, reference: Callable[..., Any]
) -> None:
    federation.submit(study, *LONG, sites=3)
    wait_training(federation, study, "A", round=2)
    signal_quietly(process_of(federation, "flwr-serverapp"), signal.SIGKILL)

    def over() -> bool:
        shown = federation.ask("climb-server", "status", study, "--home", federation.home)
        return f"study '{study}': running" not in shown

    print(f"noticed after {wait_until(over, 300, 'the run is over'):.0f} s")  # noqa: T201
    assert len(federation.history(study)) == 2
    assert federation.summary(study) is None
    federation.ask("climb-server", "resume", study, "--home", federation.home)
    federation.wait_end(study)
    assert [sorted(record["sites"]) for record in federation.history(study)] == [[], *[list(SITES)] * 3]
    assert furthest(federation.shared(study), reference(*LONG)) <= SAME


def test_a_site_is_killed_in_training_and_rejoins_with_its_private_state(
    federation: Federation, study: str, reference: Callable[..., Any]
) -> None:
    more = (*LONG, "federation.num_rounds=6")
    federation.submit(study, *more, sites=3)
    wait_training(federation, study, "A", round=2)
    federation.sites["A"].kill()
    federation.start_site("A")
    federation.wait_end(study)
    taking_part = {record["round"]: sorted(record["sites"]) for record in federation.history(study)}
    assert taking_part[1] == taking_part[6] == ["A", "B", "C"]
    assert {"B", "C"} <= set(taking_part[2])
    if "A" not in taking_part[2]:
        assert "A" in told(federation, study, 2)
    assert "no private state of an earlier round" not in own_log(federation, "A")
    assert furthest(federation.shared(study), reference(*more)) <= SAME


DEADLINE = ("federation.deadline_factor=2", "federation.min_deadline_s=25")
"""Short, so that a test need not wait for five minutes."""


def test_a_site_hangs_and_the_round_goes_on(
    federation: Federation, study: str, reference: Callable[..., Any]
) -> None:
    more = (*DEADLINE, "federation.num_rounds=4")
    federation.submit(study, *more, sites=3)
    apps = wait_app(federation, study, "A", round=2)
    for pid in apps:
        signal_quietly(pid, signal.SIGSTOP)
    began = time.monotonic()
    federation.wait_round(study, 2)
    print(f"round 2 ended {time.monotonic() - began:.0f} s after the site hung")  # noqa: T201
    assert "did not answer within" in told(federation, study, 2)["A"]
    federation.wait_end(study)
    history = federation.history(study)
    assert sorted(history[-1]["sites"]) == ["A", "B", "C"], "the site should take part again"
    assert "came too late" in own_log(federation, "A")
    assert not set(apps) & set(federation.sites["A"].tree()), "the process that hung should be ended"
    assert furthest(federation.shared(study), reference(*more)) <= SAME


def test_a_site_ten_times_slower_is_left_behind_and_told(
    federation: Federation, study: str, reference: Callable[..., Any]
) -> None:
    more = (*LONG, *DEADLINE)
    federation.submit(study, *more, sites=3)
    federation.wait_round(study, 1)
    with slowed(federation, "A"):
        federation.wait_round(study, 2)
    assert "did not answer within" in told(federation, study, 2)["A"]
    federation.wait_end(study)
    assert "came too late" in own_log(federation, "A")
    assert furthest(federation.shared(study), reference(*more)) <= SAME


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
