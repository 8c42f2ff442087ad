"""A hospital's app as Flower starts it: a first exchange, and rounds of training."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.folders import LOCK, SCRATCH
from client.refusal import refusal
from client.site import PolicyError, Site, SiteError, encoders_of, exams_of, local_settings, screen, site_of
from client.state import (
    PrivateState,
    StateError,
    has_earlier_study,
    load_private,
    save_state,
    state_before,
)
from client.summary import data_summary
from client.trained_exams import forgotten_notice, record_exams
from climb_model.data.exam import DataError
from climb_model.lock import LockedError, only_process
from climb_model.made_by import library_versions, program_version
from climb_model.model.climb import build_model
from climb_model.prepare import read_exams
from climb_model.progress import observer
from climb_model.randomness import derived_seed
from climb_model.run_config import from_run_config, study_number
from climb_model.runs import RunError
from climb_model.sharing import (
    BEHIND_UPDATE,
    SharingError,
    load_shared,
    private_state,
    reply_of,
    shared_state,
)
from climb_model.training.batches import trainable
from climb_model.training.devices import DeviceError, parse_devices, train_on
from climb_model.training.errors import TrainingError
from configs.errors import SettingsError
from configs.load import settings_hash
from configs.schema import Settings

app = ClientApp()


class Study(NamedTuple):
    """Which study a message belongs to."""

    name: str
    number: str


Work = Callable[[Site, Study, Settings, RecordDict, RecordDict], RecordDict]
"""(site, study, settings, what came, what stays at the site for its own egress check) to what leaves."""

MAX_NOTICE = 300
"""Most characters of the coordinator's notice that are written down."""


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Answer who this is and what it holds, as hashes and counts; prepares the exams."""
    return Message(_answer(message, context, _greet), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one round from the server's shared weights and answer with the new ones."""
    return Message(_answer(message, context, _train), reply_to=message)


def _greet(
    site: Site, study: Study, settings: Settings, content: RecordDict, state: RecordDict
) -> RecordDict:
    del study, content, state
    local_settings(site, settings)
    parse_devices(site.devices)
    exams, frozen = exams_of(site, settings)
    for uid, reason in exams.left_out.items():
        site.say(f"{uid} left out: {reason}")
    trainable(exams)  # too few are refused now, not in the middle of the first round
    data = read_exams(site.data, settings, site.name, need_reports=True, need_findings=False)
    site.say("; ".join([f"first exchange: {exams.num_exams} training exams", *exams.notices]))
    words = ConfigRecord(
        {
            "site": site.name,
            "version": program_version(),
            "versions": json.dumps(library_versions()),
            "fingerprint": json.dumps(frozen.fingerprint, sort_keys=True),
            "settings": settings_hash(settings),
            "summary": json.dumps(data_summary(data, exams, settings), ensure_ascii=False),
            "notices": list(exams.notices),
        }
    )
    numbers = MetricRecord({"num-examples": exams.num_exams, "clock": time.time()})
    return RecordDict({"hello": words, "metrics": numbers})


def _train(
    site: Site, study: Study, settings: Settings, content: RecordDict, state: RecordDict
) -> RecordDict:
    state.pop(BEHIND_UPDATE, None)
    round, global_step = _order(content["config"], settings)
    if notice := _notice(content["config"]):
        site.say(f"round {round}: the coordinator says: {notice}")
    local = local_settings(site, settings)
    arrays = content["arrays"]
    assert isinstance(arrays, ArrayRecord), "a training message carries the shared tensors"
    frozen = encoders_of(site, settings)
    model = build_model(settings, frozen.language_model)
    folder = site.private / study.name
    kept = state_before(folder, round, study.number, settings_hash(settings))
    if kept is not None:
        load_private(model, kept.private)
    elif has_earlier_study(folder, study.number):
        site.say(
            f"round {round}: the private state here is of an earlier study '{study.name}', starting without"
        )
    elif round > 1:
        site.say(f"round {round}: no private state of an earlier round, starting without")
    if notice := forgotten_notice(folder):
        site.say(f"round {round}: {notice}")
    payload = settings.federation.payload
    begin = dict(arrays.to_torch_state_dict())
    load_shared(model, begin, sender="the server", payload=payload)
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
        scratch=site.private / SCRATCH,
    )
    sent = reply_of(shared_state(model), begin, payload, sender=f"site '{site.name}'")
    record_exams(folder, exams, round)
    after = PrivateState(round, study.number, settings_hash(settings), optimizer, private_state(model))
    save_state(folder, after)
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
    behind = report.behind
    state[BEHIND_UPDATE] = MetricRecord(
        {
            "num-exams": behind.num_exams,
            "num-tokens": behind.num_tokens,
            "num-batch-tokens": behind.num_batch_tokens,
            "num-steps": behind.num_steps,
        }
    )
    shared = {name: Array(value.numpy()) for name, value in sent.items()}
    return RecordDict({"arrays": ArrayRecord(shared), "metrics": metrics})


def _answer(message: Message, context: Context, work: Work) -> RecordDict:
    """What the work gives, or a refusal whose line names no exam, patient or folder."""
    name, site = "", None
    try:
        site = site_of(context.node_config)
        name = site.name
        study, settings = from_run_config(context.run_config)
        number = study_number(context.run_config)
        torch.set_num_threads(settings.training.num_threads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(settings.seed, name, message.metadata.message_type))
            with only_process(
                site.private / LOCK,
                what=f"works with the exams of site '{name}'",
                wait_s=settings.federation.round_timeout_s,
            ):
                return work(site, Study(study, number), settings, message.content, context.state)
    except DataError as error:
        told, full = error.public, str(error)
    except SettingsError as error:
        told = full = f"{error}; climb-federated {program_version()} runs here"
    except (LockedError, PolicyError, SharingError, TrainingError, RunError) as error:
        told = full = str(error)
    except (DeviceError, SiteError, StateError) as error:
        told, full = "is not set up as it should be; its own log says how", str(error)
    except Exception as error:  # whatever it is: its text may quote a report or a folder
        told, full = f"failed with {type(error).__name__}; its own log says more", traceback.format_exc()
    if site is None:
        screen.error("%s", full)
    else:
        site.say(full, fault=True)
    return refusal(name, told)


def _notice(config: object) -> str:
    """What the coordinator tells this site alone, on one line; nothing else of it is believed."""
    told = config.get("notice") if isinstance(config, ConfigRecord) else None
    text = told if isinstance(told, str) else ""
    return "".join(sign if sign.isprintable() else " " for sign in text[:MAX_NOTICE])


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
