"""The demo: it starts at chance for any first weights, and runs to its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from climb_model.data.synthetic import (
    CENTRAL,
    CENTRAL_NUMBER,
    DrawJob,
    draw_exam,
    hospital,
    plan_exams,
    write_tables,
)
from climb_model.evaluation.statistics import auc
from climb_model.evaluation.zero_shot import zero_shot
from climb_model.model.climb import build_model
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import prepare, read_exams
from configs.load import load_settings
from simulation.demo import CENTRAL_EXAMS, demo

SEEDS = range(5)


@pytest.mark.long
def test_untrained_models_are_at_chance_on_the_demos_exams(tmp_path: Path) -> None:
    """Mean zero-shot AUC over five first weights, on the exams that the demo reports."""
    place = hospital(CENTRAL_NUMBER, 0)
    planned = plan_exams(place, CENTRAL_EXAMS, 0, (0.0, 0.25, 0.75))
    planned = [exam for exam in planned if exam.split == "test"]
    folder = tmp_path / CENTRAL
    jobs = [
        DrawJob(folder=folder, place=place, exam=exam, seed=0, difficulty=1.0, tissue=None)
        for exam in planned
    ]
    write_tables(folder, planned, [draw_exam(job)[0] for job in jobs])
    settings = load_settings("demo")
    frozen = FrozenEncoders.load(settings)
    site = read_exams(folder, settings, need_reports=False, need_findings=True)
    exams = prepare(site, "test", frozen, settings, tmp_path / "scratch")
    assert exams.num_exams >= 200
    assert min(exams.labels.sum(axis=0)) >= 20
    means: list[float] = []
    for seed in SEEDS:
        untrained = load_settings("demo", [f"seed={seed}"])
        found = zero_shot(build_model(untrained), exams, frozen.text, untrained)
        aucs = [auc(found.scores[:, k], found.labels[:, k]) for k in range(len(found.findings))]
        means.append(float(np.mean([value for value in aucs if value is not None])))
        assert None not in aucs
    sys.stdout.write(f"mean zero-shot AUC of untrained models {np.round(means, 3)}\n")
    assert 0.45 < np.mean(means) < 0.55, means


@pytest.mark.long
def test_the_quick_demo_ends_with_its_page_and_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    summary = demo(out, quick=True)
    stored = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(summary))
    comparison = stored["comparison"]
    assert set(comparison["alone"]) == {"SITE_A", "SITE_B", "SITE_C", "SITE_D"}
    best = comparison["best_site"]
    assert best["mean_auc"] == max(comparison["alone"].values()) == comparison["alone"][best["name"]]
    assert 0.5 < comparison["supervised_ceiling"] <= 1.0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert best["name"] in page
    assert "Radiäre Narbe" in page
    assert "research use" in page.lower()
    assert "model_card.md" in page
    card = (out / "model_card.md").read_text(encoding="utf-8")
    assert f"on labels of all sites: {comparison['supervised_ceiling']:.3f}" in card
    assert "all drawn from a seed" in card
    assert "http://" not in page.replace("http://www.w3.org", "")
    told = capsys.readouterr().out
    assert "report.html" in told
    assert best["name"] in told
