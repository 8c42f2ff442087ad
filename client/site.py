"""A hospital's own folders: the only code of the federation that reads local paths."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from client.folders import SITE_LOG, TOKENS
from climb_model.encoders import frozen_encoders
from climb_model.model.frozen import FrozenEncoders
from climb_model.prepare import ExamSet, prepare_watched, read_exams
from climb_model.runs import check_name
from climb_model.training.devices import AUTO, parse_devices
from configs.errors import UserError
from configs.schema import Settings

VARIABLE = "CLIMB_SITES"
"""Environment variable that names a JSON file with the virtual sites of a simulation, sorted by name."""

screen = logging.getLogger("climb.site")
"""The site's own screen: what is written here never travels."""


class PolicyError(UserError):
    """A study that this site does not want to take part in; the line may travel."""


class SiteError(UserError):
    """A site that is not set up; for its own screen, since the line may name folders."""


@dataclass(frozen=True)
class Site:
    """One hospital, real or virtual."""

    name: str
    data: Path = field(repr=False)
    private: Path = field(repr=False)
    """Weights, optimizer and slice tokens that stay here."""

    weights: Path | None = field(repr=False)
    devices: str = field(default=AUTO, repr=False)
    """Where this site trains: `auto`, `cpu` or such as `cuda:0,cuda:1`."""

    chunk_size: int | None = field(default=None, repr=False)
    """This site's own `training.chunk_size`, for its own memory; None takes the study's."""

    shared_generators: bool = field(default=False, repr=False)
    """Whether this site takes part in studies that share what writes reports."""

    def say(self, line: str, *, fault: bool = False) -> None:
        """Tell the site's own admin: in `site.log` of the private folder, faults also on the screen."""
        self.private.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(self.private / SITE_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(file, "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} process {os.getpid()}: {line}\n")
        if fault:
            screen.error("%s", line)


def site_of(node_config: Mapping[str, object], environment: Mapping[str, str] | None = None) -> Site:
    """The site that a SuperNode's settings name.

    A deployed node and the local engine give `name`, `data`, `private` and, if needed, `weights`,
    `devices`, `chunk-size` and `shared-generators`.
    Flower's simulation gives only `partition-id`, an index into the sites of `CLIMB_SITES`.

    Raises:
        SiteError: if a setting is missing.
    """
    if "name" in node_config or "data" in node_config:
        return _site(node_config)
    name = (os.environ if environment is None else environment).get(VARIABLE, "")
    if "partition-id" not in node_config or not name:
        raise SiteError(
            f"a site needs --node-config with name, data and private (in a simulation: {VARIABLE})"
        )
    try:
        sites = cast(list[dict[str, object]], json.loads(Path(name).read_text("utf-8")))
        return _site(sites[int(str(node_config["partition-id"]))])
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise SiteError(f"{VARIABLE}={name} does not describe this site: {error}") from None


def local_settings(site: Site, settings: Settings) -> Settings:
    """The study's settings with what this site may choose alone.

    Raises:
        PolicyError: if the study would share weights that are trained to write this site's reports, or
            its dropout forbids what the site chooses.
    """
    writes = settings.objectives.coca > 0 or settings.objectives.inverse_coca > 0
    if settings.model.generators.kind == "reused" and writes and not site.shared_generators:
        raise PolicyError(
            f"site '{site.name}' does not take part: model.generators.kind=reused shares the weights that "
            "write reports, and this site's policy (shared-generators) does not allow it"
        )
    if site.chunk_size is None:
        return settings
    if settings.model.fusion.dropout:
        raise PolicyError(
            f"site '{site.name}' sets its own chunk-size, which model.fusion.dropout="
            f"{settings.model.fusion.dropout} does not allow: dropout is drawn part by part"
        )
    return replace(settings, training=replace(settings.training, chunk_size=site.chunk_size))


def encoders_of(site: Site, settings: Settings) -> FrozenEncoders:
    """The study's frozen encoders, on the site's first device.

    Raises:
        DataError: if their weights cannot be used.
        DeviceError: if this machine does not have the site's devices.
    """
    return frozen_encoders(settings, site.weights, parse_devices(site.devices)[0])


def exams_of(site: Site, settings: Settings) -> tuple[ExamSet, FrozenEncoders]:
    """The site's training exams, with slice tokens from its private folder, and the frozen encoders.

    Raises:
        DataError: if the exams or the encoders' weights cannot be used.
    """
    frozen = encoders_of(site, settings)
    data = read_exams(site.data, settings, site.name, need_reports=True, need_findings=False)
    return prepare_watched(data, "train", frozen, settings, site.private / TOKENS), frozen


def _site(values: Mapping[str, object]) -> Site:
    for key in ("name", "data", "private"):
        if not values.get(key):
            raise SiteError(f"the site's settings (--node-config) lack '{key}'")
    weights = values.get("weights")
    return Site(
        check_name("site", values["name"]),
        Path(str(values["data"])),
        Path(str(values["private"])),
        Path(str(weights)) if weights else None,
        str(values.get("devices") or AUTO),
        _chunk_size(values.get("chunk-size")),
        _is_true(values.get("shared-generators")),
    )


def _chunk_size(value: object) -> int | None:
    if value is None:
        return None
    text = str(value)
    if not text.isdecimal():
        raise SiteError(f"the site's setting chunk-size must be a whole number >= 0, got '{text}'")
    return int(text)


def _is_true(value: object) -> bool:
    text = str(value or "false").lower()
    if text not in ("true", "false"):
        raise SiteError(f"the site's setting shared-generators must be true or false, got '{text}'")
    return text == "true"
