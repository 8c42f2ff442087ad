"""What all tests share: checked types, one thread, no network, the assets folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

PACKAGES = ("configs", "climb_model", "strategies", "server", "client", "simulation")
ASSETS = "CLIMB_ASSETS"

# Before any of our packages is imported: shapes and types of all calls are checked. As in every
# type checker, an int may stand where a float is wanted.
install_import_hook(PACKAGES, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

# Before torch and Flower are imported.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OMP_WAIT_POLICY="passive",  # spinning threads starve other processes on the same cores
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
    RAY_USAGE_STATS_ENABLED="0",
)

Main = Callable[[list[str]], int]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session", autouse=True)
def _own_flower_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Flower's state goes to a folder of this test session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLWR_HOME", str(tmp_path_factory.mktemp("flower-home")))
        yield


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Undo what an earlier test set. Torch is not imported for tests that do without."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of this checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def checkout_files(checkout: Path) -> tuple[Path, ...]:
    """Files that git tracks or would track, relative to the checkout."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    names = {name for name in listed.stdout.split("\0") if name}
    return tuple(Path(name) for name in sorted(names) if (checkout / name).is_file())


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real series and weights, named by CLIMB_ASSETS; tests that need it skip without."""
    folder = os.environ.get(ASSETS)
    if not folder:
        pytest.skip(f"{ASSETS} does not name the folder of real data and weights")
    assert Path(folder).is_dir(), f"{ASSETS} names {folder}, which is no folder"
    return Path(folder)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a `main` in this process: exit code, standard output, standard error."""

    def run(main: Main, *arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


SENTENCES = (
    "Zyste links oben außen, 8 mm.",
    "Kein Nachweis eines Karzinoms.",
    "Fibroadenom rechts unten innen, 12 mm.",
    "Die Lymphknoten sind unauffällig.",
    "Adenose ohne suspekte Anreicherung.",
)


@pytest.fixture(scope="session")
def make_site() -> Callable[..., Path]:
    """Write a tiny site in the ODELIA layout: `make_site(root, name, exams=8, seed=0)`, its folder.

    Two breasts a patient; three quarters train, the rest is the test split. Voxels are noise and
    reports a few random sentences: enough to train, nothing to learn. Takes milliseconds an exam.
    """
    import csv

    import nibabel as nib
    import numpy as np

    def write(root: Path, name: str, *, exams: int = 8, seed: int = 0) -> Path:
        rng = np.random.default_rng([seed, *name.encode()])
        rows: dict[str, list[list[object]]] = {"annotation": [], "split": [], "reports": [], "findings": []}
        for number in range(exams):
            patient, side = f"{name}{number // 2:04d}", ("left", "right")[number % 2]
            uid = f"{patient}_{side}"
            folder = root / name / "data_unilateral" / uid
            folder.mkdir(parents=True)
            for sequence in ("Pre", "Sub", "T2"):
                voxels = rng.gamma(2.0, 100.0, size=(32, 32, 4)).astype(np.float32)
                nib.save(
                    nib.Nifti1Image(voxels, np.diag([4.0, 4.0, 8.0, 1.0])), folder / f"{sequence}.nii.gz"
                )
            split = "train" if number // 2 < (exams // 2 * 3 + 3) // 4 else "test"
            rows["annotation"].append([uid, patient, 20000 + number, number % 3])
            rows["split"].append([uid, split, 0])
            rows["reports"].append([uid, " ".join(rng.choice(SENTENCES, size=3, replace=False))])
            rows["findings"].append([uid, number % 2, number // 2 % 2])
        heads = {
            "annotation": ["UID", "PatientID", "Age", "Lesion"],
            "split": ["UID", "Split", "Fold"],
            "reports": ["UID", "Report"],
            "findings": ["UID", "Zyste", "Karzinom"],
        }
        tables = root / name / "metadata_unilateral"
        tables.mkdir()
        for table, head in heads.items():
            with (tables / f"{table}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([head, *rows[table]])
        return root / name

    return write


@pytest.fixture(scope="session")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with `tiny-llama` and `tiny-gemma`: random, 32 wide, 320 word vectors, 256 positions.

    Gemma's window is shorter than an exam. The tokenizer of both is byte-level BPE, as Llama's: every
    text has pieces and none is unknown.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    size = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
        "initializer_range": 0.2,  # random layers that do something
    }
    windows = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    root = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**size)).save_pretrained(root / "tiny-llama")
        Gemma3ForCausalLM(Gemma3TextConfig(**size, **windows)).save_pretrained(root / "tiny-gemma")
    for name in ("tiny-llama", "tiny-gemma"):
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>"
        ).save_pretrained(root / name)
    return root
