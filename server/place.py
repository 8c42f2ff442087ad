"""Where the server keeps what is its own; these paths never travel."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from climb_model.atomic import write_text_atomic
from climb_model.names import RunError, check_name

VARIABLE = "CLIMB_SERVER"
"""Environment variable that names a JSON file with the fields of `ServerPlace`, or a folder of such files.

In a folder `STUDY.json` is the place of a study.
"""

FAILURE = "failure.txt"
"""In the run folder: the one line with which the last attempt ended; for who started it elsewhere."""

LOCK = "lock"
"""In the run folder: held by the ServerApp while it runs the study."""


@dataclass(frozen=True, kw_only=True)
class ServerPlace:
    """The coordinator's folders and what the coordinator expects."""

    data: Path
    """ODELIA-layout folder of the server's own exams."""

    run: Path
    """Run folder, begun by `RunFolder.create`."""

    weights: Path | None = None
    """Folder of the frozen encoders' weights, if they are not in the tree."""

    num_sites: int | None = None
    """Sites to wait for before the first exchange; None: as many as `federation.min_sites`."""

    wait_s: float = 600.0
    """Seconds to wait for them."""

    engine: str = "flower"
    """Told in the summary."""

    members: Path | None = None
    """Folder of the registered sites' records, whose names count; None: each site has the name that it
    gives, as in simulation."""

    flower_runs: tuple[int, ...] = ()
    """Numbers of the study's runs on the SuperLink of a deployment, oldest first."""


def read_place(study: object, environment: Mapping[str, str] | None = None) -> ServerPlace:
    """The place of a study that `CLIMB_SERVER` names.

    Args:
        study: as the run settings name it; of use where the variable names a folder.

    Raises:
        RunError: if the variable or the file is missing or says something else.
    """
    name = (os.environ if environment is None else environment).get(VARIABLE, "")
    if not name:
        raise RunError(f"the server needs {VARIABLE}: the path of a JSON file with 'data' and 'run'")
    path = Path(name)
    return read_place_file(path / f"{check_name('study', study)}.json" if path.is_dir() else path)


def read_place_file(path: Path) -> ServerPlace:
    """What `write_place` wrote.

    Raises:
        RunError: if there is no such file or it says something else.
    """
    try:
        values = cast(dict[str, object], json.loads(path.read_text("utf-8")))
        weights, members = values.pop("weights", None), values.pop("members", None)
        flower_runs = cast(list[int], values.pop("flower_runs", []))
        return ServerPlace(
            data=Path(str(values.pop("data"))),
            run=Path(str(values.pop("run"))),
            weights=Path(str(weights)) if weights else None,
            members=Path(str(members)) if members else None,
            flower_runs=tuple(flower_runs),
            **values,  # type: ignore[arg-type]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} does not describe the server's place: {error}") from None


def write_place(path: Path, place: ServerPlace) -> None:
    """Write the file that `read_place_file` reads."""
    values = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(place).items()}
    write_text_atomic(path, json.dumps(values, indent=2) + "\n")
