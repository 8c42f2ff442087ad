"""The four keys that tell every party what to run; paths never travel in them."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from collections.abc import Mapping
from typing import cast

from climb_model.names import RunError, check_name
from configs.load import load_settings, settings_hash
from configs.schema import Settings

STUDY_NUMBER = "study-number"
_NUMBER = re.compile(r"([0-9a-f]{16})?")


def new_number() -> str:
    """A random number, in 16 hexadecimal digits, by which a study is told from an earlier one of its name."""
    return secrets.token_hex(8)


def to_run_config(settings: Settings, study: str, number: str = "") -> dict[str, str]:
    """The four keys that tell every party what to run: `study`, `study-number`, `preset`, `overrides`.

    Args:
        number: of the run folder; none where nothing outlives the call.

    Raises:
        RunError: if the settings cannot be told as a preset and overrides.
    """
    base = _flat(dataclasses.asdict(load_settings(settings.preset)))
    wanted = _flat(dataclasses.asdict(settings))
    overrides = [
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in wanted.items()
        if value != base[key]
    ]
    if settings_hash(load_settings(settings.preset, overrides)) != settings_hash(settings):
        raise RunError(f"the settings cannot be written as preset {settings.preset!r} with overrides")
    told = {"preset": settings.preset, "overrides": json.dumps(overrides)}
    return {"study": study, STUDY_NUMBER: number, **told}


def from_run_config(run_config: Mapping[str, object]) -> tuple[str, Settings]:
    """Study and settings of a run, from `to_run_config`'s keys.

    Raises:
        RunError: if the study is not named or the overrides are no list of texts.
        SettingsError: if the settings are not possible.
    """
    study = check_name("study", run_config.get("study"))
    text = run_config.get("overrides") or "[]"
    try:
        overrides: object = json.loads(str(text))
    except ValueError:
        overrides = None
    if not isinstance(overrides, list) or not all(
        isinstance(item, str) for item in cast(list[object], overrides)
    ):
        raise RunError("run setting 'overrides' must be a JSON list of key=value texts")
    return study, load_settings(str(run_config.get("preset", "")), cast(list[str], overrides))


def study_number(run_config: Mapping[str, object]) -> str:
    """The study's number, from `to_run_config`'s keys.

    Raises:
        RunError: if it is none.
    """
    number = run_config.get(STUDY_NUMBER) or ""
    if not isinstance(number, str) or not _NUMBER.fullmatch(number):
        raise RunError(f"run setting '{STUDY_NUMBER}' must be 16 hexadecimal digits")
    return number


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(cast(Mapping[str, object], value), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
