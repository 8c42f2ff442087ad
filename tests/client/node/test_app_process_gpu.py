"""When a site lends its GPUs; CUDA is played by a table of free and whole memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from client.node import app_process
from climb_model.public_lines import is_public

Asked = list[int]
Play = Callable[[Mapping[int, tuple[int, int] | str]], Asked]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """`play(gpus)`: (free, whole) MiB of each GPU, or what CUDA says; returns the numbers asked for."""

    def make(gpus: Mapping[int, tuple[int, int] | str]) -> Asked:
        asked: Asked = []

        def mem_get_info(gpu: int) -> tuple[int, int]:
            asked.append(gpu)
            memory = gpus[gpu]
            if isinstance(memory, str):
                raise RuntimeError(memory)
            return memory[0] << 20, memory[1] << 20

        monkeypatch.setattr("torch.cuda.is_available", lambda: bool(gpus))
        monkeypatch.setattr("torch.cuda.device_count", lambda: len(gpus))
        monkeypatch.setattr("torch.cuda.mem_get_info", mem_get_info)
        return asked

    return make


def refusal(devices: str, *, share: float = 1.0, least: int = 2048) -> str | None:
    order: dict[str, Any] = {
        "devices": devices,
        "gpu_memory_share": share,
        "min_free_gpu_mib": least,
    }
    return app_process._gpu_refusal(order)


@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu", "cpu, cpu"])
def test_a_site_on_the_cpu_never_asks_cuda(devices: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("is_available", "device_count", "mem_get_info", "init", "_lazy_init"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_: pytest.fail("CUDA was asked"))
    assert refusal(devices, share=0.8) is None


@pytest.mark.parametrize(
    ("devices", "own"),
    [
        ("auto", [0]),
        ("cuda", [0]),
        ("cuda:0", [0]),
        ("cuda:1", [1]),
        ("cuda:2, cuda:0", [2, 0]),
        ("cuda:0,cuda:7", [0]),  # of a missing one the app tells
    ],
)
def test_only_the_sites_own_gpus_count(devices: str, own: list[int], play: Play) -> None:
    asked = play({gpu: (16_000, 16_000) if gpu in own else (0, 16_000) for gpu in range(3)})
    assert refusal(devices) is None
    assert asked == own


def test_a_machine_without_a_gpu_refuses_nothing(play: Play) -> None:
    assert play({}) == []
    assert refusal("auto") is None


@pytest.mark.parametrize(
    ("memory", "share", "least", "wanted"),
    [
        ((2047, 16_000), 1.0, 2048, 2048),
        ((2048, 16_000), 1.0, 2048, None),
        ((12_799, 16_000), 0.8, 2048, 12_800),  # what is missing is the hospital's
        ((12_800, 16_000), 0.8, 2048, None),
        ((1700, 16_000), 0.1, 2048, 2048),
        ((1, 16_000), 1.0, 0, None),
        ((1, 16_000), 1, 0, None),  # YAML's 1 is no float
        ("CUDA error: out of memory", 1.0, 0, 1),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", 0.8, 2048, 2048),
    ],
)
def test_a_gpu_is_lent_while_the_share_and_the_least_are_free(
    memory: tuple[int, int] | str, share: float, least: int, wanted: int | None, play: Play
) -> None:
    play({0: (16_000, 16_000), 1: memory})
    line = refusal("cuda:0,cuda:1", share=share, least=least)
    if wanted is None:
        assert line is None
        return
    free = 0 if isinstance(memory, str) else memory[0]
    assert line == (
        f"its GPU is needed for other work: {free} MiB are free, this site lends it from {wanted} MiB on"
    )
    assert is_public(line)  # so the coordinator reads it, too


def test_a_broken_gpu_is_no_other_work(play: Play) -> None:
    play({0: "CUDA error: uncorrectable ECC error encountered"})
    with pytest.raises(RuntimeError, match="ECC"):
        refusal("cuda:0")
