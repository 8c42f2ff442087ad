"""`climb-server start`, `run`, `status`, `stop` and `resume`: the server's programs and its studies."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cli import DONE, Tool, existing_folder, whole_number
from configs.errors import UsageError
from configs.load import load_settings, preset_names
from server.deployment.member_cli import add_home, open_home

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from climb_model.supervisor import ServiceState
    from server.deployment.home import Home
    from server.deployment.members import Member
    from server.deployment.start import ServerStatus
    from server.deployment.studies import StudyState


def add_studies(tool: Tool) -> None:
    """Add the five verbs."""
    _add_start(tool)
    _add_run(tool)
    _add_status(tool)
    _add_stop(tool)
    _add_resume(tool)


def _add_start(tool: Tool) -> None:
    parser = tool.verb(
        "start", _start, does="run the server until SIGTERM or Ctrl-C: SuperLink, superexec and public port"
    )
    add_home(parser)


def _start(arguments: argparse.Namespace) -> int:
    home = open_home(arguments)
    from server.deployment.start import start, stop_on_signals

    start(home, lambda line: print(line, flush=True), stop_on_signals())
    return DONE


def _add_run(tool: Tool) -> None:
    parser = tool.verb("run", _run, does="begin a study with the sites that are admitted", settings=True)
    parser.add_argument("--preset", required=True, metavar="NAME", help=", ".join(preset_names()))
    parser.add_argument(
        "--central", type=Path, required=True, metavar="DIR", help="the server's own exams with findings"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="new run folder")
    parser.add_argument(
        "--study", metavar="NAME", help="the study's name; that of the run folder unless told"
    )
    parser.add_argument(
        "--sites",
        type=whole_number(1),
        metavar="N",
        help="sites to wait for; federation.min_sites unless told",
    )
    parser.add_argument(
        "--wait", type=whole_number(0), default=600, metavar="S", help="seconds to wait for them; 600"
    )
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of model folders")
    parser.add_argument("--follow", action="store_true", help="show the rounds until the study ends")
    add_home(parser)


def _run(arguments: argparse.Namespace) -> int:
    home = open_home(arguments)
    settings = load_settings(arguments.preset, arguments.overrides)
    central = existing_folder(arguments.central, "--central")
    weights = None if arguments.weights is None else existing_folder(arguments.weights, "--weights")
    _need_server(home)
    from climb_model.runs import study_name
    from server.deployment.studies import begin, launch
    from server.place import ServerPlace

    out: Path = arguments.out.resolve()
    study: str = arguments.study or study_name(out)
    place = ServerPlace(
        data=central.resolve(),
        run=out,
        weights=weights.resolve() if weights is not None else None,
        num_sites=arguments.sites,
        wait_s=float(arguments.wait),
    )
    begin(home, settings, study, place)
    print(f"study '{study}' runs as Flower's run {launch(home, study)} in {out}", flush=True)
    return _after_launch(home, study, follow=arguments.follow)


def _add_resume(tool: Tool) -> None:
    parser = tool.verb(
        "resume", _resume, does="go on with a study that was stopped or died, from its last round"
    )
    parser.add_argument("study", metavar="STUDY")
    parser.add_argument("--sites", type=whole_number(1), metavar="N", help="sites to wait for from now on")
    parser.add_argument("--follow", action="store_true", help="show the rounds until the study ends")
    add_home(parser)


def _resume(arguments: argparse.Namespace) -> int:
    home = open_home(arguments)
    _need_server(home)
    from server.deployment.studies import resume

    run = resume(home, arguments.study, arguments.sites)
    print(f"study '{arguments.study}' goes on as Flower's run {run}", flush=True)
    return _after_launch(home, arguments.study, follow=arguments.follow)


def _after_launch(home: Home, study: str, *, follow: bool) -> int:
    if not follow:
        print(f"next: climb-server status {study}")
        return DONE
    from climb_model.screen import LiveTable
    from server.deployment.studies import follow as follow_study

    try:
        with LiveTable(study=study) as table:
            follow_study(home, study, table)
    except KeyboardInterrupt:
        print(f"the study goes on without you: climb-server status {study}, climb-server stop {study}")
    return DONE


def _add_stop(tool: Tool) -> None:
    parser = tool.verb("stop", _stop, does="end a study's run; what is done so far is kept for resume")
    parser.add_argument("study", metavar="STUDY")
    add_home(parser)


def _stop(arguments: argparse.Namespace) -> int:
    home = open_home(arguments)
    _need_server(home)
    from server.deployment.studies import stop

    print(f"stopped run {stop(home, arguments.study)} of study '{arguments.study}'")
    print(f"next: climb-server resume {arguments.study} goes on from its last round")
    return DONE


def _add_status(tool: Tool) -> None:
    parser = tool.verb(
        "status", _status, does="the server's programs, certificates, sites and how each study stands"
    )
    parser.add_argument("study", nargs="?", metavar="STUDY", help="all unless told")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_home(parser)


def _status(arguments: argparse.Namespace) -> int:
    home = open_home(arguments)
    from server.deployment.flower import runs_and_contacts
    from server.deployment.home import expiries
    from server.deployment.members import members, to_json
    from server.deployment.start import status
    from server.deployment.studies import names, state
    from server.deployment.superlink import connect

    server = status(home)
    flower_runs = seen = None
    if server.ready("superlink"):
        connect(home)
        flower_runs, seen = runs_and_contacts(home.flower)
    studies = [
        state(home, name, flower_runs)
        for name in ([arguments.study] if arguments.study is not None else names(home))
    ]
    if arguments.json:
        values = {
            "server": server.to_json(),
            "certificates": {each.what: each.until and each.until.isoformat() for each in expiries(home)},
            "sites": [to_json(member, seen) for member in members(home)],
            "studies": [study.to_json() for study in studies],
        }
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return DONE
    lines = server_lines(server)
    lines += [each.line for each in expiries(home)]
    lines += ["", *site_lines(members(home), seen)]
    for study in studies:
        lines += ["", *study_lines(study)]
    print("\n".join(lines))
    return DONE


def server_lines(server: ServerStatus) -> list[str]:
    """Whether the server runs, and its programs."""
    if server.pid is None:
        return ["server: does not run (climb-server start)"]
    return [
        f"server: runs (process {server.pid})",
        *(f"  {name:<10} {service_text(service)}" for name, service in server.services.items()),
    ]


def service_text(service: ServiceState) -> str:
    """One program in words."""
    from climb_model.kit import time_text

    if service.since is None:
        return "not started yet"
    from datetime import UTC, datetime

    since = time_text(datetime.fromtimestamp(service.since, UTC))
    word = "runs" if service.ready else "starts" if service.pid is not None else "ended"
    again = f", started again {service.restarts} times" if service.restarts else ""
    last = f", the last ended with {service.last_exit}" if service.last_exit is not None else ""
    return f"{word} since {since}{again}{last}"


def site_lines(found: Sequence[Member], seen: Mapping[int, str] | None) -> list[str]:
    """The sites with their last contact."""
    from server.deployment.members import table

    return table(found, seen) if found else ["no site is invited (climb-server invite NAME)"]


def study_lines(study: StudyState) -> list[str]:
    """How a study stands."""
    from climb_model.results import auc_text, printable

    where = "" if study.round is None else f", round {study.round} of {study.num_rounds}"
    auc = "" if study.mean_auc is None else f", mean AUC {auc_text(study.mean_auc)}"
    lines = [f"study '{study.name}': {study.state}{where}{auc}"]
    lines += [f"  {printable(study.detail)}"] if study.detail else []
    for name, part in study.sites.items():
        lines.append(
            f"  site {printable(name)}: {part.rounds} rounds, {part.bytes_up / 1e6:.1f} MB up, "
            f"{part.bytes_down / 1e6:.1f} MB down"
        )
    for entry in study.rejected:
        lines.append(
            f"  rejected in round {study.round}: {printable(entry['site'])}: {printable(entry['reason'])}"
        )
    return lines


def _need_server(home: Home) -> None:
    from server.deployment.start import status
    from server.deployment.superlink import connect

    if not status(home).ready("superlink"):
        raise UsageError(f"the server of {home.path} does not run: climb-server start comes first")
    connect(home)
