"""Does each objective help? The same federation trained with one, two and all three, over several seeds.

    python benchmarks/ablation.py --seeds 0 1 2 [--out runs/ablation] [key=value ...]

Prints the mean AUC of each and writes `OUT/ablation.json`. Hours on a slow machine: not a test.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

from client.folders import TOKENS
from climb_model.data.folders import list_sites
from climb_model.data.synthetic import CENTRAL, make_hospitals
from climb_model.progress import Silent
from configs.load import load_settings
from simulation.demo import CENTRAL_EXAMS, EXAMS, NUM_SITES
from simulation.engine import run

OBJECTIVES = {
    "clip": ["objectives.coca=0", "objectives.inverse_coca=0"],
    "clip + coca": ["objectives.coca=1", "objectives.inverse_coca=0"],
    "clip + coca + inverse coca": ["objectives.coca=1", "objectives.inverse_coca=1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--preset", default="demo")
    arguments, overrides = parser.parse_known_args()
    data = arguments.out / "data"
    if not data.exists():
        make_hospitals(data, num_sites=NUM_SITES, exams=EXAMS, central_exams=CENTRAL_EXAMS, seed=0, workers=2)
    folders = list_sites(data)
    sites = {name: path for name, path in folders.items() if name != CENTRAL}
    found: dict[str, dict[int, float]] = {name: {} for name in OBJECTIVES}
    kept: Path | None = None
    for seed in arguments.seeds:
        for name, objectives in OBJECTIVES.items():
            settings = replace(load_settings(arguments.preset, [*objectives, *overrides]), seed=seed)
            out = arguments.out / f"{name.replace(' + ', '-').replace(' ', '-')}-{seed}"
            if kept is not None and not out.exists():  # the tokens do not depend on the objectives
                shutil.copytree(kept / "central", out / "central")
                for site in sites:
                    shutil.copytree(kept / "sites" / site / TOKENS, out / "sites" / site / TOKENS)
            summary = run(settings, sites=sites, central=folders[CENTRAL], out=out, observer=Silent())
            kept = kept or out
            found[name][seed] = float(str(summary["mean_auc"]))
            print(
                f"seed {seed}  {name:<28} mean AUC {found[name][seed]:.3f}  {summary['seconds']:.0f} s",
                flush=True,
            )
    for name, values in found.items():
        mean = statistics.fmean(values.values())
        spread = statistics.stdev(values.values()) if len(values) > 1 else 0.0
        print(f"{name:<28} {mean:.3f} ± {spread:.3f} (standard deviation over {len(values)} seeds)")
    (arguments.out / "ablation.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
