"""Settings from a preset, overrides or a run folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from configs.errors import SettingsError
from configs.keys import known_keys, nearest, nearest_key, wanted
from configs.schema import Settings
from configs.validate import problems

__all__ = [
    "SettingsError",
    "load_settings",
    "preset_names",
    "settings_from_file",
    "settings_hash",
    "to_yaml",
]

_FOLDER = Path(__file__).parent
_OVERRIDE = "override"


def preset_names() -> tuple[str, ...]:
    """Names of the presets, sorted: the files `configs/NAME.yaml`."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_settings(preset: str, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a preset with `key=value` overrides, the later ones winning.

    Args:
        preset: name of a file `configs/NAME.yaml`, which holds only what differs from the defaults.
        overrides: such as `training.batch_size=8` or `data.sequences=[Pre,T2]`; values are read as YAML.

    Raises:
        SettingsError: naming the file or `override`, the key, what was wanted and what came.
    """
    if preset not in preset_names():
        close = nearest(preset, preset_names())
        hint = f"; did you mean {close!r}?" if close else f"; there are: {', '.join(preset_names())}"
        raise SettingsError(f"there is no preset {preset!r}{hint}")
    builder = _Builder(f"configs/{preset}.yaml")
    builder.apply(_read_yaml(_FOLDER / f"{preset}.yaml", builder.base))
    if "preset" in builder.given and builder.config.preset != preset:
        raise SettingsError(
            f"{builder.base}: preset must be {preset!r}, as the file is named, got {builder.config.preset!r}"
        )
    builder.config.preset = preset
    settings = builder.finish(builder.base)
    for override in overrides:
        builder.apply(_read_override(override), source=_OVERRIDE)
    return builder.finish(_OVERRIDE) if overrides else settings


def settings_from_file(path: Path) -> Settings:
    """The settings of a run, from its `config.yaml`: equal to those that `to_yaml` wrote.

    Raises:
        SettingsError: if the file is missing, or if a value is missing, unknown or impossible. A
            default never stands in: the run may have been made by another version of this program.
    """
    builder = _Builder(str(path))
    builder.apply(_read_yaml(path, builder.base))
    for key in known_keys():
        if key not in builder.given:
            raise SettingsError(f"{path}: {key} is missing; every value of a run is written out")
    return builder.finish(builder.base)


def to_yaml(settings: Settings) -> str:
    """All settings as YAML, every value written out; `settings_from_file` reads it back equal."""
    return OmegaConf.to_yaml(OmegaConf.structured(settings))


def settings_hash(settings: Settings) -> str:
    """What two partners compare: 16 hexadecimal digits of the SHA-256 of all settings.

    Left out are `federation.round_timeout_s`, `.deadline_factor` and `.min_deadline_s`, `data.keep_prepared`,
    and without dropout `training.chunk_size`: how long a server waits, what a site keeps on disk and how much
    of a batch lies in its memory change no site's reply beyond rounding.
    """
    values = dataclasses.asdict(settings)
    for key in ("round_timeout_s", "deadline_factor", "min_deadline_s"):
        del values["federation"][key]
    del values["data"]["keep_prepared"]
    if not settings.model.fusion.dropout:  # whose masks are drawn part by part
        del values["training"]["chunk_size"]
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]


class _Builder:
    """Values put in one by one, so that each error can name the key and where it came from."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.config: DictConfig = OmegaConf.structured(Settings)
        _unlock(self.config)
        self.given: set[str] = set()

    def apply(self, values: Mapping[str, object], *, source: str | None = None) -> None:
        source = source or self.base
        for key, value in _leaves(values, source):
            if source == _OVERRIDE and key == "preset":
                raise SettingsError(f"{source}: preset is the name of the file; choose another with --preset")
            clean = _cleaned(key, value, source)
            try:
                OmegaConf.update(self.config, key, clean)
            except OmegaConfBaseException:
                raise SettingsError(f"{source}: {key} must be {wanted(key)}, got {_shown(value)}") from None
            self.given.add(key)

    def finish(self, source: str) -> Settings:
        """The settings, if all are possible; else the source that came last is to blame."""
        settings = cast(Settings, OmegaConf.to_object(self.config))
        for key, sentence in problems(settings):
            raise SettingsError(f"{source}: {key} {sentence}")
        return settings


def _unlock(config: DictConfig) -> None:
    """Make the config of a frozen dataclass writable, with all its sections."""
    OmegaConf.set_readonly(config, False)
    for value in config.values():
        if isinstance(value, DictConfig):
            _unlock(value)


def _leaves(values: Mapping[str, object], source: str, section: str = "") -> Iterator[tuple[str, object]]:
    """Each key of a nested mapping in full, known and a value rather than a section."""
    for name, value in values.items():
        key = f"{section}.{name}" if section else str(name)
        if key in known_keys():
            yield key, value
        elif any(known.startswith(f"{key}.") for known in known_keys()):
            if not isinstance(value, Mapping):
                raise SettingsError(f"{source}: {key} is a section of settings, got {_shown(value)}")
            yield from _leaves(cast(Mapping[str, object], value), source, key)
        else:
            close = nearest_key(str(name), section)
            hint = f"; did you mean {close!r}?" if close else ""
            raise SettingsError(f"{source}: {section or 'the top level'} has no key {str(name)!r}{hint}")


def _cleaned(key: str, value: object, source: str) -> object:
    """The value in Unicode's composed form, without what YAML or OmegaConf would read as something else."""
    if isinstance(value, (list, tuple)):
        return [_cleaned(key, item, source) for item in cast(Sequence[object], value)]
    hint = wanted(key)
    if value is None or value == "???" or isinstance(value, Mapping):
        raise SettingsError(f"{source}: {key} must be {hint}, got {_shown(value)}")
    if isinstance(value, bool) and hint != "true or false":
        raise SettingsError(f"{source}: {key} must be {hint}, got {_shown(value)}")
    if isinstance(value, str):
        if "${" in value:
            raise SettingsError(f"{source}: {key} must be written out, without '${{', got {_shown(value)}")
        return unicodedata.normalize("NFC", value)
    return value


def _shown(value: object) -> str:
    """The value on one short line."""
    if value is None or value == "???":
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = "a section" if isinstance(value, Mapping) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read_yaml(path: Path, source: str) -> Mapping[str, object]:
    try:
        config = OmegaConf.load(path)
        content = OmegaConf.to_container(config, resolve=False)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{source}: cannot be read: {reason}") from None
    except (YAMLError, OmegaConfBaseException) as error:
        raise SettingsError(f"{source}: is not YAML: {_one_line(error)}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{source}: must be a mapping of settings, got a {type(content).__name__}")
    return cast(Mapping[str, object], content)


def _read_override(override: str) -> Mapping[str, object]:
    key, equals, _ = override.partition("=")
    if not equals or not key:
        raise SettingsError(f"{_OVERRIDE}: must be key=value, got {override!r}")
    try:
        config = OmegaConf.from_dotlist([override])
        return cast(Mapping[str, object], OmegaConf.to_container(config, resolve=False))
    except (YAMLError, OmegaConfBaseException) as error:
        raise SettingsError(f"{_OVERRIDE}: {key} has a value that is not YAML: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
