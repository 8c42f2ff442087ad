"""One study on one machine: the same two apps, run in this process or on Flower's simulation."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from flwr.app import Context, RecordDict

from client.app import app as client_app
from climb_model.atomic import write_text_atomic
from climb_model.origin import tell_origin
from climb_model.progress import watched_by
from climb_model.run_config import to_run_config
from climb_model.runs import RunError, RunFolder, RunObserver, check_name, study_name
from configs.schema import Settings
from server.app import app as server_app
from server.place import VARIABLE as SERVER_VARIABLE
from server.place import ServerPlace, write_place
from simulation.flower_engine import run_flower
from simulation.local_grid import RUN_ID, SERVER_NODE, LocalGrid, LocalNode

ENGINES = ("local", "flower")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `--resume` must know beside the run folder: local paths and the engine; `simulation.json`."""

    engine: str
    sites: dict[str, Path]
    central: Path
    weights: Path | None


def run(
    settings: Settings,
    *,
    sites: Mapping[str, Path],
    central: Path,
    out: Path,
    engine: str = "local",
    weights: Path | None = None,
    observer: RunObserver | None = None,
) -> dict[str, object]:
    """Run a whole study from its beginning.

    Args:
        sites: name to folder of each virtual hospital.
        central: folder of the server's own exams.
        out: the run folder; it must not hold a run.
        engine: `local`: in this process, one site at a time. `flower`: on Flower's simulation with Ray.
        weights: folder of the frozen encoders' model folders.

    Returns:
        The content of `summary.json`.

    Raises:
        RunError: if the run cannot start or go on.
        DataError: if the server's own exams cannot be used.
    """
    if engine not in ENGINES:
        raise RunError(f"engine must be one of {', '.join(ENGINES)}, got '{engine}'")
    for name in sites:
        check_name("site", name)
    out = out.resolve()
    RunFolder.create(out, settings, study_name(out))
    plan = Plan(
        engine=engine,
        sites={name: sites[name].resolve() for name in sorted(sites)},
        central=central.resolve(),
        weights=weights.resolve() if weights is not None else None,
    )
    _write_plan(out, plan)
    return _go(out, plan, observer)


def resume(run: Path, *, observer: RunObserver | None = None) -> dict[str, object]:
    """Go on with a run whose process ended; a complete run only gives its summary.

    Raises:
        RunError: as `run`, and if the folder holds no run.
    """
    run = run.resolve()
    summary = RunFolder.open(run).summary()
    if summary is None:
        return _go(run, _read_plan(run), observer)
    if observer is not None:
        observer.finished(summary)
    return summary


def _go(out: Path, plan: Plan, observer: RunObserver | None) -> dict[str, object]:
    folder = RunFolder.open(out)
    place = ServerPlace(
        data=plan.central,
        run=out,
        weights=plan.weights,
        num_sites=len(plan.sites),
        engine=plan.engine,
    )
    write_place(out / "server.json", place)
    nodes = [_node_config(folder, name, path, plan.weights) for name, path in plan.sites.items()]
    run_config = to_run_config(folder.settings, folder.study, folder.number)
    if plan.engine == "flower":
        run_flower(folder, nodes, run_config, observer)
    else:
        with watched_by(observer), _process(out / "server.json"):
            _run_local(nodes, run_config)
    summary = folder.summary()
    assert summary is not None, "the server's app ended without a summary or an error"
    tell_origin(folder, summary, plan.central)
    return summary


def _run_local(nodes: list[dict[str, str]], run_config: dict[str, str]) -> None:
    grid = LocalGrid(
        client_app,
        [LocalNode(number, config) for number, config in enumerate(nodes, start=SERVER_NODE + 1)],
        run_config,
    )
    context = Context(
        run_id=RUN_ID, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    server_app(grid, context)


@contextmanager
def _process(place: Path) -> Generator[None]:
    """Lend this process to the two apps and take it back as it was."""
    threads, flower = torch.get_num_threads(), logging.getLogger("flwr")
    level, before = flower.level, os.environ.get(SERVER_VARIABLE)
    os.environ[SERVER_VARIABLE] = str(place)
    flower.setLevel(logging.WARNING)
    try:
        yield
    finally:
        flower.setLevel(level)
        torch.set_num_threads(threads)
        os.environ.pop(SERVER_VARIABLE)
        if before is not None:
            os.environ[SERVER_VARIABLE] = before


def _node_config(folder: RunFolder, name: str, data: Path, weights: Path | None) -> dict[str, str]:
    config = {
        "name": name,
        "data": str(data),
        "private": str(folder.site(name)),
        "shared-generators": "true",  # virtual sites have no reports to protect from this machine
    }
    return config | ({"weights": str(weights)} if weights is not None else {})


def _write_plan(out: Path, plan: Plan) -> None:
    values = {
        "engine": plan.engine,
        "sites": {name: str(path) for name, path in plan.sites.items()},
        "central": str(plan.central),
        "weights": str(plan.weights) if plan.weights is not None else None,
    }
    write_text_atomic(out / "simulation.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _read_plan(run: Path) -> Plan:
    file = run / "simulation.json"
    if not file.is_file():
        raise RunError(f"{run} was not begun by a simulation: it has no simulation.json")
    values = json.loads(file.read_text("utf-8"))
    sites = cast(dict[str, str], values["sites"])
    return Plan(
        engine=values["engine"],
        sites={name: Path(path) for name, path in sites.items()},
        central=Path(values["central"]),
        weights=Path(values["weights"]) if values["weights"] else None,
    )
