"""DICOM objects as bytes, compressed if asked for."""

from __future__ import annotations

import hashlib
import io
import struct
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import gdcm
import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

_ENCODERS: Mapping[str, int] = {
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
    JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
    RLELossless: gdcm.TransferSyntax.RLELossless,
}
_IMPLEMENTATION = UID("2.25.318390201776425391")
_ANY_UID = "2.25." + "9" * 36
_ANY = {
    "SOPInstanceUID": _ANY_UID,
    "InstanceNumber": "999999",
    "ContentTime": "235959.999999",
    "ImagePositionPatient": "9999\\9999\\9999",
}
"""What differs between the slices of a volume, in the order of the tags, and what stands for it meanwhile."""

_END_OF_FRAMES = bytes.fromhex("feffdde000000000")


def make_uid(*parts: object) -> str:
    """A UID of 41 characters below 2.25 that depends on nothing but the parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return f"2.25.{10**35 + int.from_bytes(digest, 'big') % (9 * 10**35)}"


def describe_pixels(tags: Dataset, pixels: np.ndarray) -> None:
    """Say what the numbers (column, row, ...) are: 16 bits, signed or not."""
    tags.SamplesPerPixel, tags.PhotometricInterpretation = 1, "MONOCHROME2"
    tags.Columns, tags.Rows = pixels.shape[:2]
    tags.BitsAllocated, tags.BitsStored, tags.HighBit = 16, 16, 15
    tags.PixelRepresentation = int(pixels.dtype == np.int16)


def encoded(tags: Dataset, frames: Sequence[np.ndarray], syntax: str) -> bytes:
    """A whole file with these pixels (row, column), compressed without loss if a syntax is named."""
    return file_bytes(tags, syntax or ExplicitVRLittleEndian) + _pixel_data(frames, syntax)


class Template:
    """The file of a slice without what differs between slices: pydicom writes it once a volume."""

    def __init__(self, tags: Dataset, syntax: str) -> None:
        for keyword, value in _ANY.items():
            setattr(tags, keyword, value)
        rest = file_bytes(tags, syntax or ExplicitVRLittleEndian)
        self._syntax = syntax
        self._parts: list[bytes] = []
        for keyword, value in _ANY.items():
            part, _, rest = rest.partition(_element(keyword, value))
            self._parts.append(part)
        self._parts.append(rest)

    def file(self, values: Mapping[str, str], pixels: np.ndarray) -> bytes:
        """One slice.

        Args:
            values: of the four tags that differ; a UID of `make_uid`, so that lengths agree.
            pixels: (row, column).
        """
        start, *parts = self._parts
        content = [start.replace(_ANY_UID.encode(), values["SOPInstanceUID"].encode())]
        for keyword, part in zip(_ANY, parts, strict=True):
            content += [_element(keyword, values[keyword]), part]
        return b"".join([*content, _pixel_data([pixels], self._syntax)])


def file_bytes(tags: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """A DICOM file of this object."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = tags.SOPClassUID, tags.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = UID(syntax), _IMPLEMENTATION
    tags.file_meta = meta
    file = io.BytesIO()
    dcmwrite(file, tags, enforce_file_format=True)
    return file.getvalue()


def _element(keyword: str, value: str) -> bytes:
    """An element in explicit VR little endian (PS3.5, 7.1.2), of a VR with a short length."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    kind = dictionary_VR(tag)
    content = value.encode("ascii")
    content += (b"\0" if kind == "UI" else b" ") * (len(content) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, kind.encode(), len(content)) + content


def _pixel_data(frames: Sequence[np.ndarray], syntax: str) -> bytes:
    """The last element of an image."""
    start = struct.pack("<HH", 0x7FE0, 0x0010)
    if not syntax:
        content = b"".join(frame.tobytes() for frame in frames)
        return start + struct.pack("<2sHI", b"OW", 0, len(content)) + content
    content = encapsulate([_compressed(frame, syntax) for frame in frames])
    return start + struct.pack("<2sHI", b"OB", 0, 0xFFFFFFFF) + content + _END_OF_FRAMES


def _compressed(frame: np.ndarray, syntax: str) -> bytes:
    """One frame as GDCM encodes it, which it does from file to file only."""
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder) / "plain", Path(folder) / "packed"
        plain.write_bytes(_plain_head(frame.shape, frame.dtype.str) + _pixel_data([frame], ""))
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(plain))
        done = reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(_ENCODERS[syntax]))
        change.SetInput(reader.GetImage())
        done = done and change.Change()
        writer.SetFileName(str(packed))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        if not (done and writer.Write()):
            raise RuntimeError("GDCM did not compress a slice")
        return next(generate_frames(dcmread(packed).PixelData, number_of_frames=1))


@lru_cache
def _plain_head(shape: tuple[int, int], dtype: str) -> bytes:
    tags = Dataset()
    tags.SOPClassUID, tags.SOPInstanceUID = MRImageStorage, _ANY_UID
    describe_pixels(tags, np.zeros(shape[::-1], dtype))
    return file_bytes(tags)
