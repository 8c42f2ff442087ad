"""A hospital's app as Flower starts it: a first exchange, and rounds of training."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.site import PolicyError, Site, SiteError, encoders_of, exams_of, local_settings, screen, site_of
from client.state import PrivateState, StateError, load_private, save_state, state_before
from client.trained_exams import forgotten_notice, record_exams
from climb_model.data.exam import DataError
from climb_model.lock import LockedError, only_process
from climb_model.model.climb import build_model
from climb_model.progress import observer
from climb_model.randomness import derived_seed
from climb_model.run_config import from_run_config
from climb_model.runs import RunError
from climb_model.sharing import REFUSAL, SharingError, load_shared, private_state, shared_state
from climb_model.training.batches import trainable
from climb_model.training.devices import DeviceError, parse_devices, train_on
from climb_model.training.errors import TrainingError
from configs.errors import SettingsError
from configs.load import settings_hash
from configs.schema import Settings

app = ClientApp()

Work = Callable[[Site, str, Settings, RecordDict], RecordDict]
"""(site, study, settings, what came) to what leaves."""


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Answer who this is and what it holds, as hashes and counts; prepares the exams."""
    return Message(_answer(message, context, _greet), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round from the server's shared weights and answer with the new ones."""
    return Message(_answer(message, context, _train), reply_to=message)


def _greet(site: Site, study: str, settings: Settings, content: RecordDict) -> RecordDict:
    del study, content
    local_settings(site, settings)
    parse_devices(site.devices)
    exams, frozen = exams_of(site, settings)
    for uid, reason in exams.left_out.items():
        site.say(f"{uid} left out: {reason}")
    trainable(exams)  # too few are refused now, not in the middle of the first round
    site.say("; ".join([f"first exchange: {exams.num_exams} training exams", *exams.notices]))
    words = ConfigRecord(
        {
            "site": site.name,
            "fingerprint": json.dumps(frozen.fingerprint, sort_keys=True),
            "settings": settings_hash(settings),
            "notices": list(exams.notices),
        }
    )
    return RecordDict({"hello": words, "metrics": MetricRecord({"num-examples": exams.num_exams})})


def _train(site: Site, study: str, settings: Settings, content: RecordDict) -> RecordDict:
    round, global_step = _order(content["config"], settings)
    local = local_settings(site, settings)
    arrays = content["arrays"]
    assert isinstance(arrays, ArrayRecord), "a training message carries the shared tensors"
    frozen = encoders_of(site, settings)
    model = build_model(settings, frozen.language_model)
    kept = state_before(site.private / study, round, settings_hash(settings))
    if kept is not None:
        load_private(model, kept.private)
    elif round > 1:
        site.say(f"round {round}: no private state of an earlier round, starting without")
    if notice := forgotten_notice(site.private / study):
        site.say(f"round {round}: {notice}")
    load_shared(model, arrays.to_torch_state_dict(), sender="the server")
    exams, _ = exams_of(site, settings)
    moments = None if kept is None or settings.federation.reset_optimizer else kept.optimizer
    watcher = observer()
    report, optimizer = train_on(
        parse_devices(site.devices),
        model,
        moments,
        exams,
        frozen.text,
        local,
        round=round,
        global_step=global_step,
        on_step=lambda step, steps, loss: watcher.site_progress(site.name, round, step, steps, loss),
        scratch=site.private,
    )
    state = PrivateState(round, settings_hash(settings), optimizer, private_state(model))
    record_exams(site.private / study, exams, round)
    save_state(site.private / study, state)
    site.say(
        f"round {round}: {report.num_steps} steps on {report.num_exams} exams, "
        f"loss {report.loss:.4f} ({report.parts})"
    )
    metrics = MetricRecord(
        {
            "num-examples": report.num_exams,
            "num-steps": report.num_steps,
            "loss": float(report.loss),
            "seconds": float(report.seconds),
        }
    )
    shared = {name: Array(value.numpy()) for name, value in shared_state(model).items()}
    return RecordDict({"arrays": ArrayRecord(shared), "metrics": metrics})


def _answer(message: Message, context: Context, work: Work) -> RecordDict:
    """What the work gives, or a refusal whose line names no exam, patient or folder."""
    name, site = "", None
    try:
        site = site_of(context.node_config)
        name = site.name
        study, settings = from_run_config(context.run_config)
        torch.set_num_threads(settings.training.num_threads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(settings.seed, name, message.metadata.message_type))
            with only_process(
                site.private / "lock",
                what=f"works with the exams of site '{name}'",
                wait_s=settings.federation.round_timeout_s,
            ):
                return work(site, study, settings, message.content)
    except DataError as error:
        told, full = error.public, str(error)
    except (LockedError, PolicyError, SharingError, TrainingError, SettingsError, RunError) as error:
        told = full = str(error)
    except (DeviceError, SiteError, StateError) as error:
        told, full = "is not set up as it should be; its own log says how", str(error)
    except Exception as error:  # whatever it is: its text may quote a report or a folder
        told, full = f"failed with {type(error).__name__}; its own log says more", traceback.format_exc()
    if site is None:
        screen.error("%s", full)
    else:
        site.say(full, fault=True)
    return _refusal(name, told)


def _refusal(name: str, told: str) -> RecordDict:
    line = told if f"'{name}'" in told else f"site '{name}': {told}" if name else f"a site {told}"
    return RecordDict({"refused": ConfigRecord({"site": name, REFUSAL: line})})


def _order(config: object, settings: Settings) -> tuple[int, int]:
    """Round and global step that the server asks for."""
    values: Mapping[str, object] = config if isinstance(config, ConfigRecord) else {}
    round, global_step = values.get("server-round"), values.get("global-step")
    if not isinstance(round, int) or not 1 <= round <= settings.federation.num_rounds:
        raise SharingError(
            f"the server asked for round {round!r}, expected 1 to {settings.federation.num_rounds}"
        )
    if not isinstance(global_step, int) or global_step < 0:
        raise SharingError(f"the server sent global step {global_step!r}, expected a whole number >= 0")
    return round, global_step
