"""Bookkeeping of studies, with a `flwr` that answers from a file instead of a SuperLink."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from climb_model.checkpoints import Checkpoint, save_checkpoint
from climb_model.lock import only_process
from climb_model.progress import Silent
from climb_model.runs import RoundRecord, RunFolder, SiteRound
from configs.load import load_settings, settings_hash
from server.cli import main
from server.deployment import flower, studies
from server.deployment.flower import (
    FlowerError,
    FlowerRun,
    contacts,
    nodes,
    register,
    runs,
    runs_and_contacts,
    unregister,
)
from server.deployment.home import Home, HomeSettings
from server.deployment.studies import StudyError, Watch, begin, follow, launch, names, resume, state, stop
from server.place import FAILURE, LOCK, ServerPlace, read_place_file

FAKE = """\
#!/bin/sh
cd {folder}
echo "$@" >> calls
test "$1" = run && ls "$2" > sent
test "$1" = supernode && verb=$2 || verb=$1
cat "answers/$verb" 2>/dev/null || echo '{{"success": false, "error-message": "no such verb"}}'
"""


class FakeFlower:
    """The answers of `flwr`, by verb, and what it was called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "flwr"
        (folder / "answers").mkdir()
        self.becomes(FAKE.format(folder=folder))
        self.say("list", {"runs": []})

    def becomes(self, text: str) -> None:
        self.program.write_text(text)
        self.program.chmod(0o700)

    def say(self, verb: str, answer: dict[str, Any]) -> None:
        (self.folder / "answers" / verb).write_text(json.dumps({"success": True, **answer}))

    def runs(self, **status: str) -> None:
        entries = [
            {"run-id": key[1:], "status": value, "status-details": ""} for key, value in status.items()
        ]
        self.say("list", {"runs": entries})

    @property
    def calls(self) -> list[list[str]]:
        file = self.folder / "calls"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeFlower:
    folder = tmp_path / "fake"
    folder.mkdir()
    one = FakeFlower(folder)
    monkeypatch.setattr(flower, "script", lambda _: [str(one.program)])
    monkeypatch.setattr(studies, "ENDING_S", 0.3)
    return one


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home.create(tmp_path_factory.mktemp("studies") / "home", HomeSettings(host="localhost"))


@pytest.fixture
def home(made: Home) -> Home:
    for file in made.studies.iterdir():
        file.unlink()
    return made


SETTINGS = load_settings("debug", ["federation.num_rounds=3", "evaluation.findings=[Zyste]"])


def place(tmp_path: Path) -> ServerPlace:
    return ServerPlace(data=tmp_path / "central", run=tmp_path / "run", num_sites=2, wait_s=5.0)


def begun(home: Home, tmp_path: Path, fake: FakeFlower, *, run: int = 11) -> RunFolder:
    begin(home, SETTINGS, "s", place(tmp_path))
    fake.say("run", {"run-id": str(run)})
    assert launch(home, "s") == run
    return RunFolder.open(tmp_path / "run")


def a_round(folder: RunFolder, number: int, **rejected: str) -> None:
    """Write a round of two sites as the ServerApp does: checkpoint first."""
    part = SiteRound(exams=6, steps=2, loss=0.5, seconds=1.0, bytes_up=1000, bytes_down=2000)
    record = RoundRecord(
        round=number,
        seconds=1.0,
        global_step=2 * number,
        sites={"A": part, "B": replace(part, bytes_up=10)} if number else {},
        mean_auc=0.5 + number / 10,
        rejected=tuple({"site": site, "reason": reason} for site, reason in rejected.items()),
    )
    history = (*folder.history(), record)
    checkpoint = Checkpoint(
        study=folder.study,
        settings=settings_hash(folder.settings),
        round=number,
        global_step=2 * number,
        exams={"A": 6, "B": 6},
        notices={},
        history=history,
        shared={"w": torch.zeros(1)},
        server={},
    )
    save_checkpoint(folder.checkpoints, checkpoint)
    folder.write_history(history)


def test_a_new_study_has_a_run_folder_a_record_and_a_run_of_flower(
    home: Home, tmp_path: Path, fake: FakeFlower
) -> None:
    folder = begun(home, tmp_path, fake)
    assert folder.study == "s"
    known = replace(place(tmp_path), flower_runs=(11,), members=home.sites)
    assert read_place_file(home.studies / "s.json") == known
    [call] = fake.calls
    assert (call[0], Path(call[1]).parent, call[2]) == ("run", home.path, "climb")
    sent = (fake.folder / "sent").read_text().split()
    assert sent == ["client", "climb_model", "configs", "pyproject.toml", "server", "strategies"]
    assert not Path(call[1]).exists()
    told = tomllib.loads((home.studies / "s.toml").read_text())
    assert (told["study"], told["study-number"], told["preset"]) == ("s", folder.number, "debug")
    assert call[call.index("--run-config") + 1] == str(home.studies / "s.toml")
    assert names(home) == ["s"]


def test_a_study_is_begun_once_but_one_that_flower_refused_may_be_begun_again(
    home: Home, tmp_path: Path, fake: FakeFlower
) -> None:
    begin(home, SETTINGS, "s", place(tmp_path))
    with pytest.raises(FlowerError, match="flwr run: no such verb"):
        launch(home, "s")
    assert state(home, "s", {}).state == "not started"
    begun(home, tmp_path, fake)
    with pytest.raises(StudyError, match="there is a study 's' already: climb-server resume s"):
        begin(home, SETTINGS, "s", place(tmp_path / "other"))


def test_a_study_goes_on_as_a_new_run_once_the_old_one_is_over(
    home: Home, tmp_path: Path, fake: FakeFlower
) -> None:
    folder = begun(home, tmp_path, fake)
    (folder.path / FAILURE).write_text("too few replies\n")
    fake.say("run", {"run-id": "12"})
    for status in ("pending", "starting", "running"):
        fake.runs(r11=status)
        with pytest.raises(StudyError, match=f"run 11 of study 's' is {status}: climb-server stop s"):
            resume(home, "s")
    fake.runs(r11="finished:failed")
    assert resume(home, "s", 3) == 12
    assert read_place_file(home.studies / "s.json") == replace(
        place(tmp_path), num_sites=3, flower_runs=(11, 12), members=home.sites
    )
    assert not (folder.path / FAILURE).exists()


def test_a_study_of_a_superlink_that_lost_its_database_goes_on(
    home: Home, tmp_path: Path, fake: FakeFlower
) -> None:
    begun(home, tmp_path, fake)
    fake.runs()
    assert state(home, "s", runs(home.flower)).state == "died"
    fake.say("run", {"run-id": "12"})
    assert resume(home, "s") == 12


def test_a_finished_study_is_said_so(home: Home, tmp_path: Path, fake: FakeFlower) -> None:
    folder = begun(home, tmp_path, fake)
    folder.write_summary({"rounds": 3})
    with pytest.raises(StudyError, match="study 's' is finished"):
        resume(home, "s")
    assert state(home, "s", {}).state == "finished"


def test_stop_ends_the_run_and_waits_for_its_server_app(home: Home, tmp_path: Path, fake: FakeFlower) -> None:
    folder = begun(home, tmp_path, fake)
    fake.runs(r11="running")
    fake.say("stop", {"run-id": "11"})
    assert stop(home, "s") == 11
    assert fake.calls[-1][:3] == ["stop", "11", "climb"]
    with (
        only_process(folder.path / "lock", what="runs"),
        pytest.raises(StudyError, match=r"runs study 's' still, 0\.3 s after it was told to stop"),
    ):
        stop(home, "s")
    fake.runs(r11="finished:stopped")
    with pytest.raises(StudyError, match="study 's' does not run"):
        stop(home, "s")


def test_an_unknown_study_is_told_with_those_that_there_are(
    home: Home, tmp_path: Path, fake: FakeFlower
) -> None:
    begun(home, tmp_path, fake)
    with pytest.raises(StudyError, match=r"there is no study 't' \(there are: s\)"):
        state(home, "t", {})


@pytest.mark.parametrize(
    ("status", "failure", "word", "detail"),
    [
        ("pending", "", "running", ""),
        ("running", "", "running", ""),
        ("finished:stopped", "", "stopped", "climb-server resume s goes on after round 1"),
        ("finished:failed", "", "died", "its ServerApp ended without a word (climb-server resume s goes on"),
        ("finished:failed", "too few replies\n", "failed", "too few replies (climb-server resume s goes on"),
        ("finished:completed", "", "died", "its ServerApp ended without a word"),
    ],
)
def test_how_a_study_stands(
    status: str, failure: str, word: str, detail: str, home: Home, tmp_path: Path, fake: FakeFlower
) -> None:
    folder = begun(home, tmp_path, fake)
    a_round(folder, 0)
    a_round(folder, 1, C="site 'C' did not answer")
    if failure:
        (folder.path / FAILURE).write_text(failure)
    with only_process(folder.path / LOCK, what="runs"):
        found = state(home, "s", {11: FlowerRun(run=11, status=status, details="")})
    assert found.state == word
    assert found.detail.startswith(detail)
    assert (found.round, found.num_rounds, found.mean_auc) == (1, 3, 0.6)
    assert found.rejected == ({"site": "C", "reason": "site 'C' did not answer"},)
    assert json.loads(json.dumps(found.to_json()))["sites"]["A"] == {
        "rounds": 1,
        "bytes_up": 1000,
        "bytes_down": 2000,
    }


def test_a_study_whose_server_app_is_gone_says_the_command_before_flower_notices(
    home: Home, tmp_path: Path, fake: FakeFlower
) -> None:
    folder = begun(home, tmp_path, fake)
    running = {11: FlowerRun(run=11, status="running", details="")}
    over = {11: FlowerRun(run=11, status="finished:failed", details="")}
    command = "climb-server resume s starts it again"
    assert state(home, "s", running).detail == (
        f"its ServerApp is starting, or died: then, a minute later, {command}"
    )
    found = state(home, "s", over)
    assert (found.state, found.detail) == ("died", f"its ServerApp ended without a word ({command})")
    a_round(folder, 0)
    assert state(home, "s", running).detail.endswith("climb-server resume s goes on after round 0")
    assert state(home, "s", over).detail.endswith("(climb-server resume s goes on after round 0)")


def test_the_two_questions_of_status_are_asked_at_the_same_time(home: Home, fake: FakeFlower) -> None:
    node = {"node-id": "2", "status": "online", "online-at": "2026-01-01 00:00:00Z", "offline-at": "N/A"}
    fake.becomes(
        f"""#!/bin/sh
cd {fake.folder}
touch "$1"
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20
do test -e list && test -e supernode && cat answers/both && exit
sleep 0.25; done
"""
    )
    entry = {"run-id": "11", "status": "running", "status-details": ""}
    fake.say("both", {"runs": [entry], "nodes": [node]})
    found = runs_and_contacts(home.flower)
    assert found == (
        {11: FlowerRun(run=11, status="running", details="")},
        {2: "online since 2026-01-01 00:00:00Z"},
    )


def test_who_only_looks_imports_no_torch(home: Home, tmp_path: Path, fake: FakeFlower) -> None:
    a_round(begun(home, tmp_path, fake), 0)
    code = (
        "import sys; from server.cli import main\n"
        f"code = main(['status', '--home', {str(home.path)!r}])\n"
        "print(code, sorted({'torch', 'flwr', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "study 's': server is down, round 0 of 3, mean AUC 0.500" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 []"


def test_a_study_whose_run_folder_is_gone_is_said_so_and_begun_anew_on_wish(
    home: Home, tmp_path: Path, fake: FakeFlower
) -> None:
    folder = begun(home, tmp_path, fake)
    shutil.rmtree(folder.path)
    found = state(home, "s", {})
    assert (found.state, found.run, found.flower_runs) == ("its run folder is missing", folder.path, (11,))
    remedy = f"put {folder.path} back from a backup, or climb-server run --study s begins the study anew"
    assert found.detail == remedy
    with pytest.raises(StudyError, match="the run folder of study 's' is missing: ") as caught:
        resume(home, "s")
    assert str(caught.value).endswith(remedy)
    fake.runs(r11="running")
    with pytest.raises(StudyError, match="run 11 of study 's' is running: climb-server stop s"):
        begin(home, SETTINGS, "s", place(tmp_path))
    fake.say("stop", {"run-id": "11"})
    assert stop(home, "s") == 11
    assert not folder.path.exists()
    fake.runs(r11="finished:stopped")
    again = begun(home, tmp_path, fake, run=12)
    assert again.number != folder.number
    assert read_place_file(home.studies / "s.json").flower_runs == (12,)


def test_a_study_of_which_anything_is_left_is_never_begun_anew(
    home: Home, tmp_path: Path, fake: FakeFlower
) -> None:
    folder = begun(home, tmp_path, fake)
    a_round(folder, 0)
    for name in ("run.json", "history.jsonl"):
        (folder.path / name).unlink()
        with pytest.raises(StudyError, match="there is a study 's' already"):
            begin(home, SETTINGS, "s", place(tmp_path / "other"))
    assert list(folder.checkpoints.iterdir())
    found = state(home, "s", {})
    assert found.state == "cannot be read"
    assert "it has no run.json" in found.detail


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "history.jsonl", "summary.json"])
@pytest.mark.parametrize("content", [b"\xff", b"{\n"])
def test_a_damaged_run_folder_is_one_line(
    name: str, content: bytes, home: Home, tmp_path: Path, fake: FakeFlower
) -> None:
    folder = begun(home, tmp_path, fake)
    a_round(folder, 0)
    (folder.path / name).write_bytes(content)
    found = state(home, "s", {})
    assert found.state == "cannot be read"
    assert found.detail.startswith(
        f"the run folder of study 's' cannot be read: put {folder.path} back as it was ("
    )
    with pytest.raises(StudyError, match="the run folder of study 's' cannot be read"):
        resume(home, "s")


def test_one_lost_study_hides_nothing_else(
    home: Home, tmp_path: Path, fake: FakeFlower, command: Callable[..., tuple[int, str, str]]
) -> None:
    folder = begun(home, tmp_path, fake)
    begin(home, SETTINGS, "whole", replace(place(tmp_path), run=tmp_path / "whole"))
    shutil.rmtree(folder.path)
    (home.studies / "torn.json").write_text("{")
    code, out, _ = command(main, "status", "--home", home.path)
    assert code == 0
    assert "certificate of the server: good until" in out
    assert "study 's': its run folder is missing\n  put " in out
    assert "study 'torn': cannot be read\n" in out
    assert "study 'whole': not started\n" in out
    code, out, _ = command(main, "status", "--home", home.path, "--json")
    assert code == 0
    assert [(each["name"], each["state"], each["run"]) for each in json.loads(out)["studies"]] == [
        ("s", "its run folder is missing", str(folder.path)),
        ("torn", "cannot be read", None),
        ("whole", "not started", str(tmp_path / "whole")),
    ]


def test_bytes_are_added_up_over_rounds_and_without_a_server_nothing_runs(
    home: Home, tmp_path: Path, fake: FakeFlower
) -> None:
    folder = begun(home, tmp_path, fake)
    for number in range(3):
        a_round(folder, number)
    found = state(home, "s", None)
    assert found.state == "server is down"
    assert {name: (part.rounds, part.bytes_up, part.bytes_down) for name, part in found.sites.items()} == {
        "A": (2, 2000, 4000),
        "B": (2, 20, 4000),
    }


class Ear(Silent):
    def __init__(self) -> None:
        self.told: list[int | str] = []

    def round_done(self, record: RoundRecord) -> None:
        self.told.append(record.round)

    def finished(self, summary: Mapping[str, object]) -> None:
        self.told.append(f"finished after {summary['rounds']}")


def test_a_watcher_hears_what_is_new(home: Home, tmp_path: Path, fake: FakeFlower) -> None:
    folder = begun(home, tmp_path, fake)
    a_round(folder, 0)
    ear = Ear()
    watch = Watch(folder, ear)
    a_round(folder, 1)
    watch.tell()
    watch.tell()
    assert ear.told == [1]
    assert not watch.ended()
    folder.write_summary({"rounds": 1})
    assert watch.ended()


def test_who_follows_hears_the_end_and_how_it_came(home: Home, tmp_path: Path, fake: FakeFlower) -> None:
    folder = begun(home, tmp_path, fake)
    a_round(folder, 0)
    fake.runs(r11="finished:failed")
    with pytest.raises(StudyError, match="study 's' died: its ServerApp ended without a word"):
        follow(home, "s", Ear(), poll_s=0.01, ask_s=0.0)
    folder.write_summary({"rounds": 1})
    ear = Ear()
    follow(home, "s", ear, poll_s=0.01, ask_s=0.0)
    assert ear.told == ["finished after 1"]


def test_nodes_are_registered_listed_and_taken_back(home: Home, tmp_path: Path, fake: FakeFlower) -> None:
    fake.say("register", {"node-id": 18285400445707705706})
    assert register(home.flower, tmp_path / "A.pub", "A") == 18285400445707705706
    assert fake.calls[-1] == [
        *("supernode", "register", str(tmp_path / "A.pub"), "climb", "--name", "A", "--format", "json")
    ]
    never = {"node-id": "1", "status": "registered", "online-at": "N/A", "offline-at": "N/A"}
    here = {**never, "node-id": "2", "status": "online", "online-at": "2026-01-01 00:00:00Z"}
    gone = {**here, "node-id": "3", "status": "offline", "offline-at": "2026-01-02 00:00:00Z"}
    fake.say("list", {"nodes": [never, here, gone]})
    assert [node.status for node in nodes(home.flower)] == ["registered", "online", "offline"]
    assert contacts(home.flower) == {
        2: "online since 2026-01-01 00:00:00Z",
        3: "offline since 2026-01-02 00:00:00Z",
    }
    fake.say("unregister", {"node-id": 2})
    unregister(home.flower, 2)
    assert fake.calls[-1][:4] == ["supernode", "unregister", "2", "climb"]


def test_what_flower_refuses_is_one_line(home: Home, fake: FakeFlower) -> None:
    fake.becomes("#!/bin/sh\nprintf 'usage:\\n  wrong' >&2\nexit 2\n")
    with pytest.raises(FlowerError, match=r"^flwr supernode list: usage: wrong$"):
        nodes(home.flower)
    fake.becomes("""#!/bin/sh\necho '{"success": false, "error-message": "a\\\\nb"}'\n""")
    with pytest.raises(FlowerError, match=r"^flwr list: a b$"):
        runs(home.flower)
