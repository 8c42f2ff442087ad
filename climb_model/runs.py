"""The run folder: what a study leaves on disk, the same from simulation, server and local training."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from climb_model.atomic import write_atomic, write_text_atomic
from climb_model.names import RunError, check_name
from climb_model.run_config import new_number
from configs.load import settings_from_file, settings_hash, to_yaml
from configs.schema import Settings

if TYPE_CHECKING:  # who only looks at a run does without torch
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SiteRound:
    """One site's part of one round, as its sound reply said and the server measured."""

    exams: int
    """Training exams: the weight of the reply."""

    steps: int
    loss: float
    """Mean training loss of the round, in nats."""

    seconds: float
    bytes_up: int
    """Size of the reply (site to server) in bytes."""

    bytes_down: int
    wall_s: float | None = None
    """From sending to the whole reply, as the server measured: training and both ways. None where sites are
    asked one by one in one process."""


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """A line of `history.jsonl`. Round 0 is the state before training."""

    round: int
    seconds: float
    global_step: int
    sites: dict[str, SiteRound] = field(default_factory=dict[str, SiteRound])
    mean_auc: float | None = None
    """Over the findings whose AUC is defined on the reported exams: the server's own in a federation."""

    auc: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    rejected: tuple[dict[str, str], ...] = ()
    """`site` and `reason` of each reply that was dropped and of each site that could not be asked; round 0:
    of each site that was not admitted."""

    deadline_s: float | None = None
    """Seconds that the sites had for their replies; None where nobody waited."""

    notices: tuple[str, ...] = ()
    """What else happened, in the server's own words: who joined or was asked again, whose versions differ."""

    def to_json(self) -> dict[str, object]:
        """The record as JSON's types."""
        lists = {"rejected": [dict(entry) for entry in self.rejected], "notices": list(self.notices)}
        return {**dataclasses.asdict(self), **lists}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> RoundRecord:
        """The record that `to_json` gave."""
        sites = cast(Mapping[str, Mapping[str, object]], values["sites"])
        rest = {key: value for key, value in values.items() if key not in ("sites", "rejected", "notices")}
        return cls(
            **rest,  # type: ignore[arg-type]
            sites={name: SiteRound(**site) for name, site in sites.items()},  # type: ignore[arg-type]
            rejected=tuple(cast(Sequence[dict[str, str]], values["rejected"])),
            notices=tuple(cast(Sequence[str], values["notices"])),
        )


@runtime_checkable
class RunObserver(Protocol):
    """Who watches a run. Callbacks come from the thread that trains; they must not raise."""

    def started(self, settings: Settings, sites: Mapping[str, int]) -> None:
        """The admitted sites and their training exams are known."""

    def preparing(self, site: str, done: int, total: int) -> None:
        """A site has computed the slice tokens of so many exams."""

    def site_progress(self, site: str, round: int, step: int, steps: int, loss: float) -> None:
        """A site has taken a training step."""

    def round_done(self, record: RoundRecord) -> None:
        """A round is averaged, evaluated and on disk; round 0 first."""

    def finished(self, summary: Mapping[str, object]) -> None:
        """The run is complete."""


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run; `docs/architecture.md` lists them."""

    path: Path
    study: str
    settings: Settings
    number: str = ""
    """By which the study is told from an earlier one of its name; no result depends on it."""

    @classmethod
    def create(cls, path: Path, settings: Settings, study: str) -> RunFolder:
        """Begin a new run.

        Raises:
            RunError: if the folder already holds a run, or the study has no usable name. A run that
                failed before round 0 holds nothing yet and is begun again; its slice tokens are kept.
        """
        check_name("study", study)
        if (path / "history.jsonl").exists() or (path / "checkpoints").exists():
            raise RunError(f"{path} already holds a run: go on with --resume, or choose another --out")
        write_text_atomic(path / "config.yaml", to_yaml(settings))
        number = new_number()
        marker = {"study": study, "number": number, "settings": settings_hash(settings)}
        write_text_atomic(path / "run.json", _dumps(marker))
        return cls(path, study, settings, number)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a run that `create` began.

        Raises:
            RunError: if there is none, or its settings were changed by hand.
        """
        marker = path / "run.json"
        if not marker.is_file():
            raise RunError(f"{path} is no run folder: it has no run.json")
        values = json.loads(marker.read_text("utf-8"))
        settings = settings_from_file(path / "config.yaml")
        if settings_hash(settings) != values["settings"]:
            raise RunError(
                f"{path / 'config.yaml'} was changed after the run began (settings "
                f"{values['settings']} then, {settings_hash(settings)} now): start a new run with --out"
            )
        return cls(path, values["study"], settings, values.get("number", ""))

    @property
    def checkpoints(self) -> Path:
        """Folder of the server's checkpoints."""
        return self.path / "checkpoints"

    @property
    def central(self) -> Path:
        """Scratch for the slice tokens of the server's own exams."""
        return self.path / "central"

    def site(self, name: str) -> Path:
        """Private folder of a site that trains on this machine: a virtual one, or one that trains alone."""
        return self.path / "sites" / name

    def history(self) -> list[RoundRecord]:
        """The rounds on disk so far, from round 0."""
        file = self.path / "history.jsonl"
        lines = file.read_text("utf-8").splitlines() if file.is_file() else []
        return [RoundRecord.from_json(json.loads(line)) for line in lines]

    def write_history(self, history: Sequence[RoundRecord]) -> None:
        """Replace the history as a whole."""
        lines = [json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False) for record in history]
        write_text_atomic(self.path / "history.jsonl", "".join(f"{line}\n" for line in lines))

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write what the run ended with; its presence says that the run is complete."""
        write_text_atomic(self.path / "summary.json", _dumps(summary))

    def summary(self) -> dict[str, object] | None:
        """What the run ended with, or None while it has not ended."""
        file = self.path / "summary.json"
        return json.loads(file.read_text("utf-8")) if file.is_file() else None

    def write_predictions(
        self,
        uids: Sequence[str],
        patients: Sequence[str],
        findings: Sequence[str],
        labels: np.ndarray,
        scores: np.ndarray,
    ) -> None:
        """Write `predictions.csv` of the reported exams: one line an exam and finding.

        Args:
            labels: (exam, finding) 1, 0, or nan for unknown, which is written as an empty cell.
            scores: (exam, finding) the higher, the more likely present.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["uid", "patient", "finding", "label", "score"])
        for row, (uid, patient) in enumerate(zip(uids, patients, strict=True)):
            for column, finding in enumerate(findings):
                label = float(labels[row, column])
                writer.writerow(
                    [
                        uid,
                        patient,
                        finding,
                        "" if math.isnan(label) else int(label),
                        repr(float(scores[row, column])),
                    ]
                )
        write_text_atomic(self.path / "predictions.csv", text.getvalue())

    def write_shared(self, tensors: Mapping[str, Tensor], round: int, fingerprint: Mapping[str, str]) -> None:
        """Write the final shared weights with what is needed to use them."""
        from safetensors.torch import save as safetensors_bytes

        metadata = {
            "round": str(round),
            "config_hash": settings_hash(self.settings),
            "fingerprint": json.dumps(dict(fingerprint), sort_keys=True),
        }
        write_atomic(self.path / "shared.safetensors", safetensors_bytes(dict(tensors), metadata))


def study_name(path: Path) -> str:
    """A study's name after its run folder's."""
    return re.sub(r"[^\w.\-]", "_", path.name)[:64].strip(".-") or "run"


def _dumps(values: Mapping[str, object]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
