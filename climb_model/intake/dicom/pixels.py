"""Stored pixel values of frames; no size that a file tells is trusted."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.config import IGNORE
from pydicom.dataelem import RawDataElement
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, RLELossless

from climb_model.intake.dicom.decoder import decode_apart
from climb_model.intake.dicom.tags import READ_FAULTS, silent_pydicom
from climb_model.intake.study import Frame, SeriesError

BAD_PIXELS = "truncated, damaged or missing pixel data"
_FRAME_PIXELS = 2**24
"""Largest image, 4096 x 4096: no MR image comes near it."""
_STACK_VOXELS = 2**29
"""Largest volume, 2 GiB in float32."""
_REST_BYTES = 2**20
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_JPEG_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def stored_values(frames: Sequence[Frame]) -> list[np.ndarray]:
    """Stored values (row, column) of each frame, every file opened once.

    Raises:
        SeriesError: sizes beyond the files' or any reason, pixels that are truncated, damaged or compressed
            without a decoder here.
    """
    check_sizes(frames)
    places: dict[Path, list[int]] = {}
    for place, frame in enumerate(frames):
        places.setdefault(frame.path, []).append(place)
    try:
        with silent_pydicom():
            images = _decode_all(
                {path: [frames[place] for place in wanted] for path, wanted in places.items()}
            )
    except SeriesError:
        raise
    except READ_FAULTS:
        raise SeriesError(BAD_PIXELS) from None
    found = {place: image for path in places for place, image in zip(places[path], images[path], strict=True)}
    if any(image.shape != (frames[0].rows, frames[0].columns) for image in found.values()):
        raise SeriesError("pixel data of another size than Rows and Columns say")
    return [found[place] for place in range(len(frames))]


def check_sizes(frames: Sequence[Frame]) -> None:
    """Refuse images that their files cannot hold, before memory is taken for them."""
    if len(frames) * frames[0].rows * frames[0].columns > _STACK_VOXELS:
        raise SeriesError(f"more than {_STACK_VOXELS} voxels in one volume")
    sizes: dict[Path, int] = {}
    for frame in frames:
        if frame.rows * frame.columns > _FRAME_PIXELS:
            raise SeriesError(f"an image of more than {_FRAME_PIXELS} pixels")
        syntax = _syntax(frame)
        if syntax.is_encapsulated or syntax.is_deflated:
            continue
        if frame.path not in sizes:
            try:
                sizes[frame.path] = frame.path.stat().st_size
            except OSError:
                raise SeriesError(BAD_PIXELS) from None
        if _num_bytes(frame) > sizes[frame.path]:
            raise SeriesError(f"{BAD_PIXELS}: the file is shorter than its image")


def _syntax(frame: Frame) -> UID:
    uid = UID(frame.transfer_syntax, validation_mode=IGNORE)
    if not uid.is_transfer_syntax:
        raise SeriesError("an unknown transfer syntax")
    if uid.is_encapsulated:
        try:
            available = get_decoder(uid).is_available
        except NotImplementedError:
            available = False
        if not available:
            raise SeriesError(f"compressed as {uid.name}, and no decoder for it is installed")
    return uid


def _decode_all(wanted: Mapping[Path, Sequence[Frame]]) -> dict[Path, Sequence[np.ndarray]]:
    images: dict[Path, Sequence[np.ndarray]] = {}
    apart: dict[Path, list[int]] = {}
    for path, frames in wanted.items():
        indices = [frame.index or 0 for frame in frames]
        if _needs_codec(frames[0]):
            pixels = dcmread(path).PixelData
            for index in indices:
                _check_codestream(get_frame(pixels, index, number_of_frames=frames[0].num_frames), frames[0])
            apart[path] = indices
        else:
            images[path] = _decode(path, frames[0], indices)
    if apart:
        images |= {path: list(of_file) for path, of_file in decode_apart(apart).items()}
    return {
        path: [image.astype(image.dtype.newbyteorder("=")) for image in of_file]
        for path, of_file in images.items()
    }


def _needs_codec(frame: Frame) -> bool:
    """RLE is decoded by pydicom itself."""
    syntax = UID(frame.transfer_syntax, validation_mode=IGNORE)
    return syntax.is_encapsulated and syntax != RLELossless


def _decode(path: Path, first: Frame, indices: Sequence[int]) -> list[np.ndarray]:
    syntax = UID(first.transfer_syntax, validation_mode=IGNORE)
    if syntax.is_deflated:
        inflated = dcmread(path)
        _check_rest(inflated.PixelData[_num_bytes(first) :])
        return list(iter_pixels(inflated, indices=indices))
    if not syntax.is_encapsulated:
        _check_rest(_raw_rest(path, _num_bytes(first)))
    return list(iter_pixels(path, indices=indices))


def _num_bytes(frame: Frame) -> int:
    """Of all uncompressed pixels of its file."""
    return frame.rows * frame.columns * frame.num_frames * frame.bits_allocated // 8


def _raw_rest(path: Path, num_bytes: int) -> bytes:
    """What the pixel data element of a file holds after its pixels."""
    tags = dcmread(path, defer_size=1024, specific_tags=["PixelData"])
    element = tags.get_item("PixelData", keep_deferred=True)
    if not isinstance(element, RawDataElement) or element.length <= num_bytes:
        return b""
    with path.open("rb") as file:
        file.seek(element.value_tell + num_bytes)
        return file.read(min(element.length - num_bytes, _REST_BYTES))


def _check_rest(rest: bytes) -> None:
    """Zeros are padding; anything else is a part of the image that the sizes leave out."""
    if len(rest) > 1 and any(rest):
        raise SeriesError(f"{BAD_PIXELS}: more pixels than Rows, Columns and NumberOfFrames say")


def _check_codestream(codestream: bytes, frame: Frame) -> None:
    if _codestream_size(codestream) != (frame.rows, frame.columns):
        raise SeriesError(f"{BAD_PIXELS}: the compressed image has another size than Rows and Columns")


def _codestream_size(codestream: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG, JPEG-LS or JPEG 2000 image, by its own header."""
    start = codestream.find(b"\xff\x4f\xff\x51")  # JPEG 2000: start of codestream, size
    if 0 <= start < 256 and len(codestream) >= start + 24:
        right, bottom, left, top = struct.unpack_from(">4I", codestream, start + 8)
        return bottom - top, right - left
    place = 2
    while place + 9 <= len(codestream) and codestream[place] == 0xFF:
        marker = codestream[place + 1]
        if marker in _JPEG_START_OF_FRAME:
            rows, columns = struct.unpack_from(">2H", codestream, place + 5)
            return rows, columns
        if marker == 0xFF or marker in _JPEG_WITHOUT_LENGTH:
            place += 1 if marker == 0xFF else 2
        else:
            place += 2 + int.from_bytes(codestream[place + 2 : place + 4], "big")
    return None
