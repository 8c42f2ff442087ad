"""Settings: presets, overrides, and the one line that each mistake gets."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as laws
from hypothesis import strategies as st

from configs import load
from configs.errors import SettingsError, UserError
from configs.keys import known_keys
from configs.load import load_settings, preset_names, settings_from_file, settings_hash, to_yaml
from configs.schema import Settings


def refusal(*overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings("debug", overrides)
    return str(caught.value)


def test_the_published_preset_is_the_schema_s_defaults() -> None:
    assert load_settings("climb") == Settings()


def test_the_published_preset_s_comments_state_every_default(tmp_path: Path) -> None:
    text = (Path(load.__file__).parent / "climb.yaml").read_text("utf-8")
    _, preset, stated = text.partition("preset: climb\n")
    file = tmp_path / "config.yaml"
    file.write_text(preset + stated.replace("\n# ", "\n"), "utf-8")
    assert settings_from_file(file) == Settings()  # which refuses a file with a key missing


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_possible_and_bears_its_file_s_name(preset: str) -> None:
    assert load_settings(preset).preset == preset


def test_presets_are_the_yaml_files_sorted() -> None:
    assert {"climb", "debug"} <= set(preset_names())
    assert list(preset_names()) == sorted(preset_names())


def test_later_overrides_win() -> None:
    settings = load_settings("debug", ["seed=1", "seed=2", "training.batch_size=6"])
    assert (settings.seed, settings.training.batch_size) == (2, 6)
    assert settings.data == load_settings("debug").data


def test_overrides_may_be_impossible_one_by_one_if_they_fit_together() -> None:
    settings = load_settings("debug", ["model.vision.width=32", "model.fusion.width=32"])
    assert settings.model.fusion.width == settings.model.vision.width == 32


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.spacing_mm=[1,2,3]", (1.0, 2.0, 3.0)),
        ("data.sequences=[Pre, T2]", ("Pre", "T2")),
        ("training.learning_rate=1", 1.0),
        ("training.learning_rate=5e-4", 5e-4),
        ("federation.reset_optimizer=true", True),
        ("model.vision.weights=facebook/dinov2-base", "facebook/dinov2-base"),
        (
            "evaluation.negative_prompts=['Kein {finding}.','Ohne {finding}.']",
            ("Kein {finding}.", "Ohne {finding}."),
        ),
    ],
)
def test_override_has_the_schema_s_type(override: str, value: object) -> None:
    found: object = load_settings("debug", [override])
    for name in override.partition("=")[0].split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("data.slics=3", "data has no key 'slics'; did you mean 'slices'?"),
        ("dat.slices=3", "the top level has no key 'dat'; did you mean 'data'?"),
        ("batch_size=3", "the top level has no key 'batch_size'; did you mean 'training.batch_size'?"),
        ("fusion.depth=3", "the top level has no key 'fusion'; did you mean 'model.fusion'?"),
        ("model.fusion.heds=3", "model.fusion has no key 'heds'; did you mean 'heads'?"),
        ("qqq=3", "the top level has no key 'qqq'"),
        ("data..x=3", "data has no key ''"),
        ("seed", "must be key=value, got 'seed'"),
        ("=3", "must be key=value, got '=3'"),
        ("preset=climb", "preset is the name of the file; choose another with --preset"),
        ("data=3", "data is a section of settings, got 3"),
        ("data.slices=4.5", "data.slices must be a whole number, got 4.5"),
        ("data.slices=four", "data.slices must be a whole number, got 'four'"),
        ("data.slices=true", "data.slices must be a whole number, got true"),
        ("data.slices=null", "data.slices must be a whole number, got nothing"),
        ("data.slices=", "data.slices must be a whole number, got nothing"),
        ("data.slices=???", "data.slices must be a whole number, got nothing"),
        ("data.slices={a: 1}", "data.slices must be a whole number, got a section"),
        ("data.slices.deep=1", "data.slices must be a whole number, got a section"),
        ("data.slices=${seed}", "data.slices must be written out, without '${', got '${seed}'"),
        ("training.learning_rate=fast", "training.learning_rate must be a number, got 'fast'"),
        ("federation.reset_optimizer=3.5", "federation.reset_optimizer must be true or false, got 3.5"),
        ("data.sequences=Pre", "data.sequences must be a list of texts, got 'Pre'"),
        ("data.sequences=[Pre,null]", "data.sequences must be a list of texts, got nothing"),
        ("data.spacing_mm=[1,2]", "data.spacing_mm must be a list of 3 numbers, got [1, 2]"),
        ("data.spacing_mm=[1,a,2]", "data.spacing_mm must be a list of 3 numbers, got [1, 'a', 2]"),
        ("model.text.kind=true", "model.text.kind must be text, got true"),
    ],
)
def test_unknown_keys_and_wrong_types_get_one_line(override: str, line: str) -> None:
    assert refusal(override) == f"override: {line}"


def test_a_value_that_is_not_yaml_gets_one_line() -> None:
    line = refusal("data.sequences=[Pre")
    assert line.startswith("override: data.sequences has a value that is not YAML: ")
    assert "\n" not in line


NAME_ONLY = "is a name; give the folder with --weights, got a path"

IMPOSSIBLE = [
    (
        "evaluation.negative_variants=['Keine Zyste.']",
        "evaluation.negative_variants must be texts such as 'Fibroadenom: PROMPT', of a finding in the list, "
        "got 'Keine Zyste.'",
    ),
    (
        "evaluation.positive_variants=['Zysten: Eine Zyste.']",
        "evaluation.positive_variants must be texts such as 'Fibroadenom: PROMPT', of a finding in the list, "
        "got 'Zysten: Eine Zyste.'",
    ),
    (
        "evaluation.positive_variants=['Zyste: A.','Zyste: A.']",
        "evaluation.positive_variants must name each once, got one twice",
    ),
    ("objectives.coca=-1", "objectives.coca must be >= 0, got -1.0"),
    ("objectives.clip=0", "objectives.clip must be > 0, got 0.0"),
    (
        "objectives.image_loss=mse",
        "objectives.image_loss must be 'smooth_l1' or 'soft_cross_entropy', got 'mse'",
    ),
    ("model.generators.depth=0", "model.generators.depth must be >= 1, got 0"),
    (
        "model.generators.kind=shared",
        "model.generators.kind must be 'separate' or 'reused', got 'shared'",
    ),
    (
        "model.generators.kind=reused",
        "model.generators.kind must be 'separate' unless model.fusion.causal is true, got 'reused'",
    ),
    (
        "model.fusion.language_model=/data/llama",
        "model.fusion.language_model is a name; give the folder with --weights, got a path",
    ),
    ("seed=-1", "seed must be in [0, 2**63), got -1"),
    ("data.sequences=[]", "data.sequences must name at least one, got an empty list"),
    ("data.sequences=[Pre,pre]", "data.sequences must name each once, got 'Pre' and 'pre'"),
    (
        "data.sequences=[../Pre]",
        "data.sequences must be file names without ending, such as 'Pre', got '../Pre'",
    ),
    ("data.slices=0", "data.slices must be >= 1, got 0"),
    ("data.rows=0", "data.rows must be >= 1, got 0"),
    ("data.columns=-1", "data.columns must be >= 1, got -1"),
    ("data.spacing_mm=[1,0,1]", "data.spacing_mm must be three distances > 0, got 0.0"),
    ("data.spacing_mm=[1,.nan,1]", "data.spacing_mm must be finite and three distances > 0, got nan"),
    (
        "data.clip_percentiles=[99,1]",
        "data.clip_percentiles must be [low, high] with 0 <= low < high <= 100, got [99.0, 1.0]",
    ),
    ("data.num_views=0", "data.num_views must be >= 1, got 0"),
    ("model.vision.weights=/models/x", f"model.vision.weights {NAME_ONLY}"),
    ("model.vision.weights=~/x", f"model.vision.weights {NAME_ONLY}"),
    ("model.vision.weights=./x", f"model.vision.weights {NAME_ONLY}"),
    ("model.text.weights=a/b/c", f"model.text.weights {NAME_ONLY}"),
    ("model.text.weights='C:\\x'", f"model.text.weights {NAME_ONLY}"),
    (
        "model.vision.weights=builtin:filter",
        "model.vision.weights must be a hub name, a folder's name or 'builtin:filters', got 'builtin:filter'",
    ),
    (
        "model.text.weights='a b'",
        "model.text.weights must be a hub name such as 'owner/name', a folder's name or 'builtin:german', "
        "got 'a b'",
    ),
    ("model.text.kind=word", "model.text.kind must be 'embeddings' or 'encoder', got 'word'"),
    (
        "model.text.kind=encoder",
        "model.text.kind must be 'embeddings' with 'builtin:german', which has no layers, got 'encoder'",
    ),
    ("model.text.width=0", "model.text.width must be >= 1, got 0"),
    ("model.text.max_tokens=1", "model.text.max_tokens must be >= 4, got 1"),
    (
        "model.fusion.width=32",
        "model.fusion.width must equal model.vision.width (64): slice tokens enter the fusion unprojected, "
        "got 32",
    ),
    ("model.fusion.depth=0", "model.fusion.depth must be >= 1, got 0"),
    ("model.fusion.heads=0", "model.fusion.heads must be >= 1, got 0"),
    ("model.fusion.ff_mult=0", "model.fusion.ff_mult must be >= 1, got 0"),
    (
        "model.fusion.rotary_width=66",
        "model.fusion.rotary_width must be even, >= 2 and <= model.fusion.head_width (64), got 66",
    ),
    (
        "model.fusion.rotary_width=31",
        "model.fusion.rotary_width must be even, >= 2 and <= model.fusion.head_width (64), got 31",
    ),
    (
        "data.slices=65",
        "model.fusion.max_slice_tokens must be >= 195 (3 sequences x 65 slices), got 192",
    ),
    ("model.fusion.dropout=1", "model.fusion.dropout must be in [0, 1), got 1.0"),
    (
        "training.batch_size=1",
        "training.batch_size must be >= 2 (one exam has no other to be told from), got 1",
    ),
    ("training.learning_rate=0", "training.learning_rate must be > 0, got 0.0"),
    ("training.learning_rate=.inf", "training.learning_rate must be finite and > 0, got inf"),
    (
        "training.warmup_from=1",
        "training.warmup_from must be in (0, training.learning_rate (0.0005)], got 1.0",
    ),
    (
        "training.warmup_from=0",  # a first step that changes nothing would count as one
        "training.warmup_from must be in (0, training.learning_rate (0.0005)], got 0.0",
    ),
    ("training.warmup_steps=-1", "training.warmup_steps must be >= 0, got -1"),
    ("training.weight_decay=-0.1", "training.weight_decay must be >= 0, got -0.1"),
    (
        "training.steps_per_round=-1",
        "training.steps_per_round must be >= 0 (0 is one pass over the exams), got -1",
    ),
    (
        "training.report_sentences=-1",
        "training.report_sentences must be >= 0 (0 is the whole report), got -1",
    ),
    ("training.token_noise=-1", "training.token_noise must be >= 0, got -1.0"),
    ("training.slice_dropout=1.5", "training.slice_dropout must be in [0, 1), got 1.5"),
    ("training.max_gradient_norm=0", "training.max_gradient_norm must be > 0, got 0.0"),
    ("training.precision=float16", "training.precision must be 'float32' or 'bfloat16', got 'float16'"),
    ("training.num_threads=0", "training.num_threads must be >= 1, got 0"),
    ("federation.num_rounds=0", "federation.num_rounds must be >= 1, got 0"),
    ("federation.min_sites=0", "federation.min_sites must be >= 1, got 0"),
    ("federation.max_exams=0", "federation.max_exams must be >= 1, got 0"),
    ("federation.max_update_norm=0", "federation.max_update_norm must be > 0, got 0.0"),
    ("federation.round_timeout_s=0", "federation.round_timeout_s must be > 0, got 0.0"),
    (
        "federation.payload=bfloat16",
        "federation.payload must be 'float32' or 'float16', got 'bfloat16'",
    ),
    (
        "federation.deadline_factor=0.5",
        "federation.deadline_factor must be 0 (no deadline but round_timeout_s) or >= 1, got 0.5",
    ),
    ("federation.min_deadline_s=0", "federation.min_deadline_s must be > 0, got 0.0"),
    ("evaluation.findings=[]", "evaluation.findings must name at least one, got an empty list"),
    (
        "evaluation.findings=[Zyste,Zyste]",
        "evaluation.findings must name each once, got 'Zyste' and 'Zyste'",
    ),
    (
        "evaluation.findings=[' Zyste']",
        "evaluation.findings must be texts without blanks around them, got ' Zyste'",
    ),
    (
        "evaluation.positive_prompts=['Befund.']",
        "evaluation.positive_prompts must contain '{finding}' and no other braces, got 'Befund.'",
    ),
    (
        "evaluation.positive_prompts=['{finding} {size}']",
        "evaluation.positive_prompts must contain '{finding}' and no other braces, got '{finding} {size}'",
    ),
    (
        "evaluation.negative_prompts=['{finding}.']",
        "evaluation.negative_prompts must differ from evaluation.positive_prompts, got '{finding}.' in both",
    ),
    ("evaluation.split=train", "evaluation.split must be 'val' or 'test', got 'train'"),
    ("evaluation.bootstrap=-1", "evaluation.bootstrap must be >= 0, got -1"),
    ("evaluation.max_unknown_share=1", "evaluation.max_unknown_share must be in [0, 1), got 1.0"),
]


@pytest.mark.parametrize(("override", "line"), IMPOSSIBLE)
def test_impossible_values_get_one_line(override: str, line: str) -> None:
    assert refusal(override) == f"override: {line}"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("federation:\n  max_exam: 1\n", "federation has no key 'max_exam'; did you mean 'max_exams'?"),
        (
            "training:\n  batch_size: 0\n",
            "training.batch_size must be >= 2 (one exam has no other to be told from), got 0",
        ),
        ("preset: other\n", "preset must be 'mine', as the file is named, got 'other'"),
        ("- 1\n", "must be a mapping of settings, got a list"),
        (
            'evaluation:\n  findings: ["${oc.env:HOME}"]\n',
            "evaluation.findings must be written out, without '${', got '${oc.env:HOME}'",
        ),
        ("seed: null\n", "seed must be a whole number, got nothing"),
    ],
)
def test_a_preset_s_mistake_names_its_file(
    content: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(content, "utf-8")
    monkeypatch.setattr(load, "_FOLDER", tmp_path)
    with pytest.raises(SettingsError) as caught:
        load_settings("mine", ["training.batch_size=8"])
    assert str(caught.value) == f"configs/mine.yaml: {line}"


@pytest.mark.parametrize("content", [b"a: [", b"seed: 1\nseed: 2\n", b"\xff\xfe\x00", b"seed: \t*x\n"])
def test_a_file_that_is_not_yaml_gets_one_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        settings_from_file(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "line"),
    [
        ("debgu", "there is no preset 'debgu'; did you mean 'debug'?"),
        ("../configs/debug", "there is no preset '../configs/debug'"),
        ("", "there is no preset ''; there are: "),
    ],
)
def test_an_unknown_preset_gets_the_nearest_name(preset: str, line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(preset)
    assert str(caught.value).startswith(line)


def test_settings_come_back_equal_from_a_run_s_file(tmp_path: Path) -> None:
    settings = load_settings("debug", ["seed=7", "evaluation.findings=[Zyste, 'Radiäre Narbe']"])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(settings), "utf-8")
    assert settings_from_file(file) == settings


def test_every_value_is_written_out() -> None:
    lines = to_yaml(load_settings("debug"))
    assert all(f"{key.rsplit('.', 1)[-1]}:" in lines for key in known_keys())
    assert "???" not in lines


def test_a_run_s_file_with_a_value_missing_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(load_settings("debug")).replace("  num_views: 1\n", ""), "utf-8")
    with pytest.raises(SettingsError) as caught:
        settings_from_file(file)
    assert str(caught.value) == f"{file}: data.num_views is missing; every value of a run is written out"


def test_a_run_s_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        settings_from_file(tmp_path / "config.yaml")


@laws(deadline=None, derandomize=True, max_examples=15)
@given(
    st.floats(1e-12, 10.0),
    st.lists(
        st.sampled_from(["Zyste", "Karzinom", "Adenose", "ja", "1", "null", "a: b", "#x"]),
        min_size=1,
        unique=True,
    ),
)
def test_any_possible_value_survives_the_file(rate: float, findings: list[str]) -> None:
    base = load_settings("debug")
    settings = dataclasses.replace(
        base,
        training=dataclasses.replace(base.training, learning_rate=rate, warmup_from=rate / 2),
        evaluation=dataclasses.replace(base.evaluation, findings=tuple(findings)),
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(to_yaml(settings), "utf-8")
        assert settings_from_file(file) == settings


def test_the_hash_is_16_hex_digits_and_the_same_in_another_process() -> None:
    digest = settings_hash(load_settings("debug"))
    assert len(digest) == 16
    assert set(digest) <= set("0123456789abcdef")
    code = "from configs.load import *; print(settings_hash(load_settings('debug')))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest


@pytest.mark.parametrize(
    "override", ["seed=1", "data.spacing_mm=[8,4,5]", "evaluation.bootstrap=51", "federation.payload=float16"]
)
def test_the_hash_tells_settings_apart(override: str) -> None:
    assert settings_hash(load_settings("debug", [override])) != settings_hash(load_settings("debug"))


@pytest.mark.parametrize("key", ["round_timeout_s", "deadline_factor", "min_deadline_s"])
def test_how_long_the_server_waits_is_not_in_the_hash(key: str) -> None:
    patient = load_settings("debug", [f"federation.{key}=5"])
    assert patient != load_settings("debug")
    assert settings_hash(patient) == settings_hash(load_settings("debug"))


def test_what_a_site_keeps_on_its_disk_is_not_in_the_hash() -> None:
    keeping = load_settings("debug", ["data.keep_prepared=true"])
    assert keeping.data.keep_prepared
    assert settings_hash(keeping) == settings_hash(load_settings("debug"))


def test_composed_and_decomposed_letters_are_one_finding() -> None:
    composed = load_settings("debug", ["evaluation.findings=[Radi\u00e4re Narbe]"])
    decomposed = load_settings("debug", ["evaluation.findings=[Radia\u0308re Narbe]"])
    assert settings_hash(composed) == settings_hash(decomposed)


def test_a_settings_error_is_a_user_s_mistake() -> None:
    assert issubclass(SettingsError, UserError)
    assert issubclass(UserError, ValueError)


def test_settings_load_fast_and_without_torch() -> None:
    code = (
        "import sys, time; start = time.process_time(); import configs.load, configs.cli; "
        "print(time.process_time() - start); sys.exit('torch' in sys.modules or 'flwr' in sys.modules)"
    )
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(seconds) < 0.3


def test_reused_generators_may_not_write_from_vectors_that_hold_the_answer() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings("climb-code", ["model.text.kind=encoder"])
    assert str(caught.value) == (
        "override: objectives.coca must be 0 with reused generators and model.text.kind 'encoder', whose "
        "vectors of earlier words hold the later ones, got 1.0"
    )
    assert load_settings("climb-code", ["model.text.kind=encoder", "objectives.coca=0"])
    assert load_settings("climb", ["model.text.kind=encoder"]).objectives.coca == 1


def test_chunks_are_hashed_only_where_dropout_is_drawn_part_by_part() -> None:
    for dropout, same in ((0.0, True), (0.1, False)):
        one, two = (
            load_settings("debug", [f"model.fusion.dropout={dropout}", f"training.chunk_size={size}"])
            for size in (0, 2)
        )
        assert (settings_hash(one) == settings_hash(two)) is same
