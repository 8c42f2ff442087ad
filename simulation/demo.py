"""Four virtual hospitals learn together, beside what each learns alone and what labels would reach."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from client.alone import Stand, rounds_alone
from client.folders import TOKENS
from climb_model.data.folders import list_sites
from climb_model.data.synthetic import CENTRAL, RECORD, make_hospitals
from climb_model.encoders import frozen_encoders
from climb_model.evaluation.ceiling import supervised_ceiling
from climb_model.evaluation.labelled import LabelledExams
from climb_model.model.climb import build_model
from climb_model.prepare import ExamSet, prepare, read_exams
from climb_model.report.card import write_card
from climb_model.report.page import write_report
from climb_model.results import comparison_lines
from climb_model.runs import RunFolder
from climb_model.screen import LiveTable
from configs.load import load_settings
from configs.schema import Settings
from server.central import open_central
from simulation.engine import run

NUM_SITES = 4
EXAMS = 400
"""Breasts per hospital."""
CENTRAL_EXAMS = 300
"""Breasts of the server: a quarter validation, the rest test."""
WORKERS = 2

QUICK_EXAMS = 60
QUICK_ROUNDS = 2


@dataclass(frozen=True)
class Job:
    """One hospital: what a worker process needs."""

    site: str
    data: Path
    central: Path
    out: Path
    settings: Settings


def demo(out: Path, *, seed: int = 0, quick: bool = False) -> dict[str, object]:
    """Make the hospitals, train them together, and compare.

    Args:
        out: new run folder; the hospitals are drawn anew into `OUT.data` beside it.
        seed: of the model's first weights and the order of training; the hospitals stay the same.
        quick: few exams and rounds: shows that everything works, and no useful AUC.

    Returns:
        The content of `summary.json`, with the comparison.
    """
    begin = time.monotonic()
    settings = replace(load_settings("demo"), seed=seed)
    if quick:
        settings = replace(settings, federation=replace(settings.federation, num_rounds=QUICK_ROUNDS))
    data = out.with_name(out.name + ".data")
    exams = QUICK_EXAMS if quick else EXAMS
    central_exams = QUICK_EXAMS if quick else CENTRAL_EXAMS
    print(
        f"Drawing {NUM_SITES} hospitals of {exams} breasts "
        f"and the server's {central_exams} (no real patient) ..."
    )
    if (data / RECORD).exists():
        shutil.rmtree(data)  # of an earlier demo
    make_hospitals(
        data, num_sites=NUM_SITES, exams=exams, central_exams=central_exams, seed=0, workers=WORKERS
    )
    folders = list_sites(data)
    sites = {name: path for name, path in folders.items() if name != CENTRAL}
    jobs = [Job(name, path, folders[CENTRAL], out, settings) for name, path in sites.items()]
    print("Computing the slice tokens of all exams, once ...")
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        kept = [
            pool.submit(keep_central_tokens, jobs[0]),
            *(pool.submit(keep_all_tokens, job) for job in jobs),
        ]
        for done in kept:
            done.result()
    # Each hospital trains alone in a second process while the federation trains in this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        alone = {job.site: pool.submit(train_alone, job) for job in jobs}
        try:
            with LiveTable(study=out.name) as screen:
                summary = run(settings, sites=sites, central=folders[CENTRAL], out=out, observer=screen)
            print("Waiting for the hospitals that train alone for the same steps ...")
            reached = {name: future.result() for name, future in alone.items()}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after a failure: start no more trainings
    summary["comparison"] = compare(jobs, reached)
    summary["demo_seconds"] = round(time.monotonic() - begin, 1)
    folder = RunFolder.open(out)
    folder.write_summary(summary)
    write_card(folder)
    page = write_report(out)
    print("\n".join(comparison_lines(summary)))
    print(f"{summary['demo_seconds']:.0f} s in all; open {page}")
    return summary


def keep_all_tokens(job: Job) -> None:
    """Compute the tokens that this hospital's trainings and the ceiling open."""
    for split in ("train", "val"):
        open_split(job, split)


def keep_central_tokens(job: Job) -> None:
    """Compute the tokens of the server's exams."""
    central_of(job)


def compare(jobs: list[Job], alone: dict[str, float | None]) -> dict[str, object]:
    """The two yardsticks of a federation: the best hospital alone, and a ceiling with all labels."""
    best = max(alone, key=lambda name: alone[name] or 0.0)
    train, val = ([open_split(job, split) for job in jobs] for split in ("train", "val"))
    ceiling = supervised_ceiling(train, val, central_of(jobs[0]).exams, jobs[0].settings)
    return {
        "best_site": {"name": best, "mean_auc": alone[best]},
        "alone": alone,
        "supervised_ceiling": ceiling["mean_auc"],
        "supervised_ceiling_auc": ceiling["auc"],
    }


def train_alone(job: Job) -> float | None:
    """Mean zero-shot AUC of a hospital that trains alone, as long as it does in the federation."""
    central, exams = central_of(job), open_split(job, "train")
    model = build_model(job.settings, central.frozen.language_model)
    for _ in rounds_alone(model, exams, central.frozen.text, job.settings, start=Stand()):
        pass
    return central.aucs(model)[0]


def central_of(job: Job) -> LabelledExams:
    """The server's own exams, from the tokens that the run keeps."""
    return open_central(run_folder(job), job.central, None)


def open_split(job: Job, split: str) -> ExamSet:
    """A hospital's exams with labels: only a simulation may look at them."""
    site = read_exams(job.data, job.settings, job.site, need_reports=True, need_findings=True)
    frozen = frozen_encoders(job.settings, None)
    return prepare(site, split, frozen, job.settings, run_folder(job).site(job.site) / TOKENS)


def run_folder(job: Job) -> RunFolder:
    """The federation's run folder, which may not have begun."""
    return RunFolder(job.out, job.out.name, job.settings)
