"""Four virtual hospitals learn together, beside what each learns alone and what labels would reach."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch

from climb_model.data.folders import list_sites, read_site
from climb_model.data.synthetic import CENTRAL, RECORD, make_hospitals
from climb_model.evaluation.ceiling import supervised_ceiling
from climb_model.evaluation.statistics import auc
from climb_model.evaluation.zero_shot import zero_shot
from climb_model.model.climb import build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import ExamSet, prepare
from climb_model.report.page import write_report
from climb_model.results import comparison_lines
from climb_model.runs import RunFolder
from climb_model.screen import LiveTable
from climb_model.training.trainer import OptimizerState, train_round
from configs.load import load_settings
from configs.schema import Settings
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
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        print("Waiting for the hospitals that train alone for the same steps ...")
        reached = {name: future.result() for name, future in alone.items()}
    summary["comparison"] = compare(jobs, reached)
    summary["demo_seconds"] = round(time.monotonic() - begin, 1)
    RunFolder.open(out).write_summary(summary)
    page = write_report(out)
    print("\n".join(comparison_lines(summary)))
    print(f"{summary['demo_seconds']:.0f} s in all; open {page}")
    return summary


def keep_all_tokens(job: Job) -> None:
    """Compute the tokens that this hospital's trainings and the ceiling open."""
    frozen = FrozenEncoders.load(job.settings)
    for split in ("train", "val"):
        open_split(job.site, job.data, split, frozen, job.settings, job.out)


def keep_central_tokens(job: Job) -> None:
    """Compute the tokens of the server's exams."""
    open_central(job.central, FrozenEncoders.load(job.settings), job.settings, job.out)


def compare(jobs: list[Job], alone: dict[str, float]) -> dict[str, object]:
    """The two yardsticks of a federation: the best hospital alone, and a ceiling with all labels."""
    best = max(alone, key=lambda name: alone[name])
    settings, out = jobs[0].settings, jobs[0].out
    frozen = FrozenEncoders.load(settings)
    train = [open_split(job.site, job.data, "train", frozen, settings, job.out) for job in jobs]
    val = [open_split(job.site, job.data, "val", frozen, settings, job.out) for job in jobs]
    ceiling = supervised_ceiling(train, val, open_central(jobs[0].central, frozen, settings, out), settings)
    return {
        "best_site": {"name": best, "mean_auc": alone[best]},
        "alone": alone,
        "supervised_ceiling": ceiling["mean_auc"],
        "supervised_ceiling_auc": ceiling["auc"],
    }


def train_alone(job: Job) -> float:
    """Mean zero-shot AUC of a hospital that trains alone, as long as it does in the federation."""
    settings = job.settings
    frozen = FrozenEncoders.load(settings)
    exams = open_split(job.site, job.data, "train", frozen, settings, job.out)
    model = build_model(settings)
    optimizer: OptimizerState | None = None
    global_step = 0
    for number in range(1, settings.federation.num_rounds + 1):
        report, optimizer = train_round(
            model, optimizer, exams, frozen.text, settings, round=number, global_step=global_step
        )
        global_step += report.num_steps
    torch.set_num_threads(1)
    test = open_central(job.central, frozen, settings, job.out)
    found = zero_shot(model, test, frozen.text, settings)
    aucs = [auc(found.scores[:, k], found.labels[:, k]) for k in range(len(found.findings))]
    defined = [value for value in aucs if value is not None]
    return sum(defined) / len(defined)


def open_split(
    name: str, folder: Path, split: str, frozen: FrozenEncoders, settings: Settings, out: Path
) -> ExamSet:
    """A hospital's exams with labels: only a simulation may look at them."""
    site = read_site(
        folder,
        name,
        need_reports=True,
        need_findings=True,
        sequences=settings.data.sequences,
        findings=settings.evaluation.findings,
    )
    return prepare(site, split, frozen, settings, out / "sites" / name / "tokens")


def open_central(folder: Path, frozen: FrozenEncoders, settings: Settings, out: Path) -> ExamSet:
    """The server's own exams, from the tokens that the run has kept."""
    site = read_site(
        folder,
        need_reports=False,
        need_findings=True,
        sequences=settings.data.sequences,
        findings=settings.evaluation.findings,
    )
    return prepare(site, settings.evaluation.split, frozen, settings, out / "central")
