"""The studies of a server: how each is begun, ended, gone on with, and how it stands.

A study is one run folder and, over time, one or more runs of Flower; `studies/NAME.json` joins them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from climb_model.lock import LockedError, is_held, only_process
from climb_model.names import RunError, check_name
from climb_model.run_config import to_run_config
from climb_model.runs import RoundRecord, RunFolder, RunObserver
from configs.errors import UserError
from configs.schema import Settings
from server.deployment.flower import FlowerRun, app_folder, runs, start_run, stop_run, write_run_config
from server.deployment.home import Home
from server.place import FAILURE, LOCK, ServerPlace, read_place_file, write_place

ENDING_S = 60.0
"""Seconds that a ServerApp may need to leave its run folder after its run was stopped."""

_RUN_FILES = ("run.json", "history.jsonl", "checkpoints", "summary.json", "shared.safetensors")
"""A folder with none of these holds nothing of a run."""


class StudyError(UserError):
    """A study that cannot be begun, ended or gone on with; one line."""


@dataclass(frozen=True, kw_only=True)
class Travelled:
    """What a site's sound replies of all rounds came to, in bytes."""

    rounds: int
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, kw_only=True)
class StudyState:
    """How a study stands."""

    name: str
    state: str
    """`not started`, `running`, `finished`, `stopped`, `failed` (with a line), `died` (without one),
    `server is down`, `its run folder is missing`, or `cannot be read` (its record or run folder)."""

    detail: str
    """A line for people, or nothing."""

    run: Path | None = None
    """Its run folder; None where the record cannot be read."""

    flower_runs: tuple[int, ...] = ()
    num_rounds: int | None = None
    """None where the run folder cannot be read."""

    round: int | None = None
    """The last that is averaged and evaluated; None before round 0."""

    mean_auc: float | None = None
    """After that round."""

    sites: Mapping[str, Travelled] = field(default_factory=dict[str, Travelled])
    rejected: tuple[Mapping[str, str], ...] = ()
    """`site` and `reason` of each reply that was dropped in that round."""

    def to_json(self) -> dict[str, object]:
        """The state as JSON's types."""
        return {
            **asdict(self),
            "run": None if self.run is None else str(self.run),
            "rejected": [dict(entry) for entry in self.rejected],
        }


def begin(home: Home, settings: Settings, study: str, place: ServerPlace) -> None:
    """Make a new study's run folder and record; nothing runs yet.

    A study whose run folder is gone is begun anew, under a new number.

    Raises:
        StudyError: if there is such a study, or a run of it that is not over.
        RunError: if the run folder holds a run, or the name can be no file's name.
    """
    check_name("study", study)
    file = _file(home, study)
    if file.is_file():
        before = read_place_file(file)
        if before.flower_runs and not _is_gone(before.run):
            raise StudyError(
                f"there is a study '{study}' already: climb-server resume {study} goes on with it, "
                "--study NAME begins another"
            )
        _need_over(home, study, before)
    RunFolder.create(place.run, settings, study)
    write_place(file, place)


def launch(home: Home, study: str) -> int:
    """Start a run of Flower for a study, from its newest checkpoint if there is one; returns its number.

    Raises:
        StudyError: if there is no such study, or its run folder is missing or cannot be read.
        FlowerError: if the SuperLink does not run.
    """
    from server.deployment.bundle import staged  # imports flwr

    place = _place(home, study)
    folder = _folder(study, place)
    (place.run / FAILURE).unlink(missing_ok=True)
    run_config = home.studies / f"{study}.toml"
    write_run_config(run_config, to_run_config(folder.settings, folder.study, folder.number))
    place = replace(place, members=home.sites)
    write_place(_file(home, study), place)  # before the ServerApp, which may start at once
    with staged(app_folder(), home.path) as app:
        run = start_run(home.flower, app, run_config)
    write_place(_file(home, study), replace(place, flower_runs=(*place.flower_runs, run)))
    return run


def resume(home: Home, study: str, num_sites: int | None = None) -> int:
    """Go on with a study that does not run, as a new run of Flower; returns its number.

    Args:
        num_sites: sites to wait for from now on; None: as before.

    Raises:
        StudyError: if it is finished or runs, or its run folder is missing or cannot be read.
        FlowerError: if the SuperLink does not run.
    """
    place = _place(home, study)
    if _folder(study, place).summary() is not None:
        raise StudyError(f"study '{study}' is finished: its result is {place.run}")
    _need_over(home, study, place)
    if num_sites is not None:
        write_place(_file(home, study), replace(place, num_sites=num_sites))
    return launch(home, study)


def stop(home: Home, study: str) -> int:
    """End a study's run and wait until its ServerApp has left the run folder; returns the run's number.

    Raises:
        StudyError: if it does not run, or the ServerApp does not end within a minute.
        FlowerError: if the SuperLink does not run.
    """
    place = _place(home, study)
    last = _last_run(home, place)
    if last is None or last.over:
        raise StudyError(f"study '{study}' does not run: climb-server status {study} tells how it stands")
    stop_run(home.flower, last.run)
    if not place.run.is_dir():  # nor is its lock there
        return last.run
    try:
        with only_process(place.run / LOCK, what=f"runs study '{study}' still", wait_s=ENDING_S):
            return last.run
    except LockedError as error:
        raise StudyError(f"{error}, {ENDING_S:g} s after it was told to stop") from None


def names(home: Home) -> list[str]:
    """All studies, sorted."""
    return sorted(file.stem for file in home.studies.glob("*.json") if file.is_file())


def state(home: Home, study: str, flower_runs: Mapping[int, FlowerRun] | None) -> StudyState:
    """How a study stands.

    Args:
        flower_runs: what the SuperLink says of its runs; None: it does not run.

    Raises:
        StudyError: if there is no such study.
    """
    file = _record(home, study)
    try:
        place = read_place_file(file)
    except RunError as error:
        return StudyState(name=study, state="cannot be read", detail=str(error))
    if _is_gone(place.run):
        return StudyState(
            name=study,
            state="its run folder is missing",
            detail=_anew(study, place),
            run=place.run,
            flower_runs=place.flower_runs,
        )
    try:
        folder = _folder(study, place)
    except StudyError as error:
        return StudyState(
            name=study,
            state="cannot be read",
            detail=str(error),
            run=place.run,
            flower_runs=place.flower_runs,
        )
    history = folder.history()
    last = history[-1] if history else None
    word, detail = _word(study, folder, place, flower_runs, last)
    return StudyState(
        name=study,
        state=word,
        detail=detail,
        run=place.run,
        flower_runs=place.flower_runs,
        num_rounds=folder.settings.federation.num_rounds,
        round=last.round if last else None,
        mean_auc=last.mean_auc if last else None,
        sites=_travelled(history),
        rejected=last.rejected if last else (),
    )


class Watch:
    """Tells an observer of what another process writes into a run folder."""

    def __init__(self, folder: RunFolder, observer: RunObserver) -> None:
        """What the folder holds already is not told."""
        self._folder = folder
        self._observer = observer
        self._num_told = len(folder.history())
        self._started = False

    def ended(self) -> bool:
        """Whether the server wrote how the study ended."""
        return self._folder.summary() is not None or (self._folder.path / FAILURE).is_file()

    def tell(self) -> None:
        """Pass on what is new since the last call."""
        history = self._folder.history()
        if len(history) > self._num_told and not self._started:
            from climb_model.checkpoints import newest_checkpoint  # imports torch

            checkpoint = newest_checkpoint(self._folder.checkpoints)
            self._observer.started(self._folder.settings, checkpoint.exams if checkpoint else {})
            self._started = True
        for record in history[self._num_told :]:
            self._observer.round_done(record)
        self._num_told = max(self._num_told, len(history))


def follow(
    home: Home, study: str, observer: RunObserver, *, poll_s: float = 1.0, ask_s: float = 10.0
) -> None:
    """Tell an observer of a study's rounds until it is finished.

    Args:
        poll_s: seconds between looks into the run folder.
        ask_s: seconds between questions to the SuperLink.

    Raises:
        StudyError: if it ends otherwise.
        FlowerError: if the SuperLink does not run.
    """
    folder = _folder(study, _place(home, study))
    watch = Watch(folder, observer)
    asked = time.monotonic()
    while not watch.ended():
        watch.tell()
        time.sleep(poll_s)
        if time.monotonic() - asked >= ask_s:
            asked = time.monotonic()
            last = _last_run(home, _place(home, study))
            if last is None or last.over:
                break
    watch.tell()
    now = state(home, study, runs(home.flower))
    summary = folder.summary()
    if summary is None:
        raise StudyError(f"study '{study}' {now.state}: {now.detail}")
    observer.finished(summary)


def _word(
    study: str,
    folder: RunFolder,
    place: ServerPlace,
    flower_runs: Mapping[int, FlowerRun] | None,
    last: RoundRecord | None,
) -> tuple[str, str]:
    where = f"goes on after round {last.round}" if last else "starts it again"
    go_on = f"climb-server resume {study} {where}"
    if folder.summary() is not None:
        return "finished", f"its result is {place.run}"
    if not place.flower_runs:
        return "not started", f"climb-server resume {study} starts it"
    if flower_runs is None:
        return "server is down", "climb-server start comes first"
    run = flower_runs.get(place.flower_runs[-1])
    if run is not None and not run.over and not is_held(folder.path / LOCK):
        return "running", f"its ServerApp is starting, or died: then, a minute later, {go_on}"
    if run is not None and not run.over:
        return "running", "" if last else "the server reads its exams and waits for sites"
    if run is not None and run.status.endswith("stopped"):
        return "stopped", go_on
    failure = folder.path / FAILURE
    if failure.is_file():
        return "failed", f"{failure.read_text('utf-8', 'replace').strip()} ({go_on})"
    return "died", f"its ServerApp ended without a word ({go_on})"


def _travelled(history: list[RoundRecord]) -> dict[str, Travelled]:
    found: dict[str, Travelled] = {}
    for record in history:
        for name, part in record.sites.items():
            before = found.get(name, Travelled(rounds=0, bytes_up=0, bytes_down=0))
            found[name] = Travelled(
                rounds=before.rounds + 1,
                bytes_up=before.bytes_up + part.bytes_up,
                bytes_down=before.bytes_down + part.bytes_down,
            )
    return dict(sorted(found.items()))


def _last_run(home: Home, place: ServerPlace) -> FlowerRun | None:
    """What the SuperLink knows of the study's newest run; None: nothing."""
    return runs(home.flower).get(place.flower_runs[-1]) if place.flower_runs else None


def _need_over(home: Home, study: str, place: ServerPlace) -> None:
    last = _last_run(home, place)
    if last is not None and not last.over:
        raise StudyError(
            f"run {last.run} of study '{study}' is {last.status}: climb-server stop {study} ends it (Flower "
            "takes a ServerApp that died for running until a minute has passed)"
        )


def _folder(study: str, place: ServerPlace) -> RunFolder:
    """The study's run folder, of which everything can be read."""
    if _is_gone(place.run):
        raise StudyError(f"the run folder of study '{study}' is missing: {_anew(study, place)}")
    try:
        folder = RunFolder.open(place.run)
        folder.history()
        folder.summary()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudyError(
            f"the run folder of study '{study}' cannot be read: put {place.run} back as it was ({error})"
        ) from None
    return folder


def _is_gone(run: Path) -> bool:
    """Whether nothing is left of a run; False where that cannot be seen."""
    try:
        return not any((run / name).exists() for name in _RUN_FILES)
    except OSError:
        return False


def _anew(study: str, place: ServerPlace) -> str:
    return f"put {place.run} back from a backup, or climb-server run --study {study} begins the study anew"


def _file(home: Home, study: str) -> Path:
    return home.studies / f"{study}.json"


def _record(home: Home, study: str) -> Path:
    """The file of a study that there is."""
    file = _file(home, check_name("study", study))
    if not file.is_file():
        known = ", ".join(names(home)) or "none"
        raise StudyError(f"there is no study '{study}' (there are: {known})")
    return file


def _place(home: Home, study: str) -> ServerPlace:
    return read_place_file(_record(home, study))
