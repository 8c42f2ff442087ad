"""One bad reply of each kind, and what is said of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from climb_model.sharing import SharingError
from strategies.checks import Limits, Rejected, TrainFacts, check_train_reply, clean, decode

TENSORS = {"fusion.w": np.zeros((2, 3), np.float32), "log_scale": np.array(0.0, np.float32)}
START = {name: torch.from_numpy(value.copy()) for name, value in TENSORS.items()}
LIMITS = Limits(max_exams=1000, max_update_norm=5.0)


def judge(kit: Any, content: RecordDict | Error) -> TrainFacts | Rejected:
    message = Message(content, reply_to=kit.ask(7, TENSORS))
    return check_train_reply(message, site="B", start=START, limits=LIMITS)


def reason(kit: Any, content: RecordDict | Error) -> str:
    verdict = judge(kit, content)
    assert isinstance(verdict, Rejected), "a bad reply was accepted"
    assert verdict.site == "B"
    assert "\n" not in verdict.reason
    return verdict.reason


def with_tensor(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    return {**TENSORS, name: value}


def test_a_sound_reply_gives_its_numbers(kit: Any) -> None:
    assert judge(kit, kit.content(TENSORS, exams=12, steps=3)) == TrainFacts(12, 3, 0.5, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_rejected(kit: Any, bad: float) -> None:
    value = np.zeros((2, 3), np.float32)
    value[1, 2] = bad
    assert reason(kit, kit.content(with_tensor("fusion.w", value))) == (
        "site 'B' sent 'fusion.w' with values that are not finite"
    )


@pytest.mark.parametrize("shape", [(1,), (3, 2), (2, 3, 1), (), (0, 3)])
def test_a_tensor_of_another_shape_is_rejected(kit: Any, shape: tuple[int, ...]) -> None:
    told = reason(kit, kit.content(with_tensor("fusion.w", np.zeros(shape, np.float32))))
    assert told == f"site 'B' sent 'fusion.w' with shape {shape}, expected (2, 3)"


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32"])
def test_a_tensor_of_another_type_is_rejected(kit: Any, dtype: str) -> None:
    told = reason(kit, kit.content(with_tensor("fusion.w", np.zeros((2, 3), dtype))))
    assert told == f"site 'B' sent 'fusion.w' as {dtype}, expected float32"


def test_a_missing_tensor_is_rejected(kit: Any) -> None:
    told = reason(kit, kit.content({"log_scale": TENSORS["log_scale"]}))
    assert told == "site 'B' did not send 'fusion.w', which is shared"


def test_a_further_tensor_is_rejected(kit: Any) -> None:
    told = reason(kit, kit.content(with_tensor("vision.secret", np.zeros(3, np.float32))))
    assert told == "site 'B' sent 'vision.secret', which is not shared"


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (("float32", (2, 3), "numpy.ndarray"), b"\x93NUMPY rubbish" * 3),
        (("float32", (2, 3), "numpy.ndarray"), b""),
        (("float32", (2, 3), "pickle"), b"x" * 24),
        (("float32", (10**12,), "numpy.ndarray"), b"x" * 24),
        (("float32", (2, 3), "numpy.ndarray"), Array(np.zeros(6, np.float32)).data),
        (("float32", (2, 3), "numpy.ndarray"), Array(np.zeros((2, 3), ">f4")).data),
        (("float32", (2, 3), "numpy.ndarray"), Array(np.zeros((2, 3), np.int32)).data),
        (("float32", (2, 3), "numpy.ndarray"), Array(np.zeros((2, 3), np.float32)).data[:-1]),
        (("float32", (2, 3), "numpy.ndarray"), b"x" * 10_000),
    ],
    ids=["rubbish", "empty", "pickle", "huge", "other-shape", "big-endian", "int", "truncated", "long"],
)
def test_bytes_that_are_no_tensor_are_rejected(kit: Any, header: Any, data: bytes) -> None:
    content = kit.content(TENSORS)
    arrays = dict(content["arrays"])
    arrays["fusion.w"] = Array(*header, data)
    content["arrays"] = ArrayRecord(arrays)
    assert reason(kit, content).startswith("site 'B' sent 'fusion.w'")


def test_decoding_gives_the_tensor_back_also_in_column_order() -> None:
    value = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert decode(Array(value), name="w", shape=(2, 3), sender="x").tolist() == value.tolist()
    with pytest.raises(SharingError, match="in 5 bytes that are not NumPy's"):
        decode(Array("float32", (2, 3), "numpy.ndarray", b"x" * 5), name="w", shape=(2, 3), sender="x")


def npy(header: bytes, magic: bytes = b"\x93NUMPY\x01\x00", length: int = 2) -> bytes:
    return magic + len(header).to_bytes(length, "little") + header + bytes(24)


SOUND = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"


@pytest.mark.parametrize(
    "data",
    [
        npy(b"-" * 3900 + b"1\n"),
        npy(b"(" * 3000 + b"\n"),
        npy(b"{'descr': '''\n"),
        npy(b"[" * 190 + b"\n"),
        npy(b"{[]:1}\n"),
        npy(b"{1:2,'a':3}\n"),
        npy(b"'\x00'\n"),
        npy(SOUND[:-1] + b"1:" + b"-" * 3000 + b"1}\n"),
        npy(SOUND + b" " * 7 + b"\n"),
        npy(SOUND + b"\n", b"\x93NUMPY\x02\x00", 4),
        npy(SOUND + b"\n", b"\x93NUMPY\x03\x00", 4),
        npy(SOUND + b"\n", b"\x80\x04PK"),
        Array(np.zeros((2, 3), np.float32)).data + b"more",
    ],
    ids=[
        "minus",
        "brackets",
        "quotes",
        "lists",
        "list-as-key",
        "mixed-keys",
        "null-byte",
        "further-key",
        "other-padding",
        "version-2",
        "version-3",
        "pickle",
        "more-behind",
    ],
)
def test_a_header_that_numpy_would_not_write_is_rejected_unread(kit: Any, data: bytes) -> None:
    content = kit.content(TENSORS)
    content["arrays"] = ArrayRecord(
        {**content["arrays"], "fusion.w": Array("float32", (2, 3), "numpy.ndarray", data)}
    )
    assert "bytes that are not NumPy's of a float32 array of shape (2, 3)" in reason(kit, content)


@pytest.mark.parametrize("exams", [0, -1, float("nan"), 10**9, 1001, 1.0, [5]])
def test_a_weight_that_is_no_count_within_the_limit_is_rejected(kit: Any, exams: object) -> None:
    assert "sent num-examples" in reason(kit, kit.content(TENSORS, num_examples=exams))


@pytest.mark.parametrize("exams", [1, 1000])
def test_weights_at_both_ends_of_the_limit_are_sound(kit: Any, exams: int) -> None:
    assert isinstance(judge(kit, kit.content(TENSORS, exams=exams)), TrainFacts)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ({"num_steps": 0}, "sent num-steps 0"),
        ({"num_steps": 10**9}, "sent num-steps 1000000000"),
        ({"loss": float("nan")}, "sent loss nan"),
        ({"loss": [0.5]}, "sent loss [0.5]"),
        ({"seconds": -1.0}, "sent seconds -1.0"),
        ({"seconds": None}, "did not send the number 'seconds'"),
        ({"num_examples": None}, "did not send the number 'num-examples'"),
        ({"age_of_patient": 61}, "sent the number 'age-of-patient', which is not agreed"),
    ],
)
def test_other_numbers_than_agreed_are_rejected(kit: Any, numbers: dict[str, Any], told: str) -> None:
    assert told in reason(kit, kit.content(TENSORS, **numbers))


def test_a_huge_update_is_rejected_and_one_at_the_limit_is_sound(kit: Any) -> None:
    limit = np.zeros((2, 3), np.float32)
    limit[0, 0], limit[0, 1] = 3.0, 4.0  # norm 5
    assert isinstance(judge(kit, kit.content(with_tensor("fusion.w", limit))), TrainFacts)
    told = reason(kit, kit.content(with_tensor("fusion.w", limit * 1e6)))
    assert told == "site 'B' sent an update of norm 5e+06, expected at most 5"


def test_the_norm_is_taken_over_all_tensors_together(kit: Any) -> None:
    both = {"fusion.w": np.full((2, 3), 2.0, np.float32), "log_scale": np.array(2.0, np.float32)}
    assert "norm 5.292" in reason(kit, kit.content(both))  # sqrt(7 * 4), each tensor alone is below 5


def test_further_records_are_rejected(kit: Any) -> None:
    content = kit.content(TENSORS)
    content["notes"] = ConfigRecord({"report": "Karzinom links"})
    assert reason(kit, content) == "site 'B' sent a record 'notes' that is not agreed"
    assert "did not send both" in reason(kit, RecordDict())


def test_a_refusal_is_told_in_its_own_words_on_one_clean_line(kit: Any) -> None:
    content = RecordDict(
        {"refused": ConfigRecord({"site": "B", "refused": "site 'B' has\nno \x1b[31mexams"})}
    )
    assert reason(kit, content) == "site 'B' has no [31mexams"
    assert reason(kit, RecordDict({"refused": ConfigRecord()})) == "the site refused without a reason"
    assert len(clean("x" * 10_000)) == 300


def test_an_error_reply_is_told_without_its_text(kit: Any) -> None:
    told = reason(kit, Error(2, "FileNotFoundError: /hospital/patient-4711.nii.gz"))
    assert told == "site 'B' failed (Flower error 2)"
