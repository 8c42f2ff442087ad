"""Exams of both breasts with a known place in the patient, as NIfTI files; small MR series as DICOM files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True, kw_only=True)
class DrawnExam:
    """Both breasts before they are stored: (column, row, slice) towards right, front and head."""

    images: dict[str, np.ndarray]
    affine: np.ndarray
    midline_mm: float
    """Of the patient, towards the right."""

    def at(self, name: str, points: np.ndarray) -> np.ndarray:
        """Values at (point, 3) RAS+ mm by linear interpolation, 0 outside; found without our code."""
        from scipy.ndimage import map_coordinates

        index = np.linalg.solve(self.affine, np.c_[points, np.ones(len(points))].T)[:3]
        return map_coordinates(self.images[name].astype(np.float64), index, order=1, mode="constant")


@pytest.fixture(scope="session")
def draw_exam() -> Callable[..., DrawnExam]:
    """`draw_exam(seed, midline_mm=0.0, left_seed=None, style=None)`: Pre, Post_1 and T2 of a patient."""
    from climb_model.data.phantom import Canvas, acquire, draw_breast
    from climb_model.data.synthetic import BASE_STYLES

    def draw(
        seed: int, *, midline_mm: float = 0.0, left_seed: int | None = None, style: Any = None
    ) -> DrawnExam:
        look = replace(style or BASE_STYLES[0], motion_mm=0.0, t2_missing=0.0)
        seeds = {1: seed if left_seed is None else left_seed, -1: seed}  # left first: towards the right
        breasts = [
            draw_breast(np.random.default_rng(each), look, side, look.density, look.enhancement)
            for side, each in seeds.items()
        ]
        parts = [
            np.concatenate([getattr(one, name)[:, ::-1, ::-1] for one in breasts], axis=2)
            for name in ("pre", "enhancement", "t2")
        ]
        first = breasts[0]
        both = Canvas(*parts, first.z, first.y, first.x, 1, first.nipple_y, first.chest_y, first.radius)
        taken = acquire(np.random.default_rng([seed, 1]), replace(look, shape=both.pre.shape), both)
        images = {"Pre": taken["Pre"], "Post_1": taken["Pre"] + taken["Sub"], "T2": taken["T2"]}
        spacing = np.array(look.spacing_mm[::-1])
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = -spacing * (np.array(both.pre.shape[::-1]) - 1) / 2 + [midline_mm, 20.0, -35.0]
        images = {name: image.transpose(2, 1, 0) for name, image in images.items()}
        return DrawnExam(images=images, affine=affine, midline_mm=midline_mm)

    return draw


@pytest.fixture(scope="session")
def save_volume() -> Callable[..., Path]:
    """`save_volume(path, voxels, affine, axes="RAS")`: the volume stored with its axes in another order."""
    import nibabel as nib
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    def save(path: Path, voxels: np.ndarray, affine: np.ndarray, axes: str = "RAS") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(voxels, affine)
        turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(axes)))
        nib.save(image.as_reoriented(turn), path)
        return path

    return save


class MrFiles:
    """Writes MR series of known voxels: oblique slices of 12 x 10 pixels, 0.9 x 0.7 mm, 2.5 mm apart."""

    rows, columns, slice_mm = 12, 10, 2.5
    series = "1.2.826.0.1.3680043.8.498.1"

    def axes(self) -> np.ndarray:
        """Directions of a row, of a column and of the stack (LPS), oblique to all patient axes."""
        a, b = 0.3, -0.2
        about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        return about_z @ about_x

    def pixels(self, level: int, phase: int = 0) -> np.ndarray:
        """(row, column) int16 of one slice of one phase; no two are the same."""
        row, column = np.mgrid[: self.rows, : self.columns]
        return (100 * (level + 1) + 1000 * phase + 7 * row + 3 * column - 50).astype(np.int16)

    def voxels(self, num_slices: int, phase: int = 0) -> np.ndarray:
        """(column, row, slice) of one phase."""
        return np.stack([self.pixels(level, phase).T for level in range(num_slices)], axis=2)

    def affine(self) -> np.ndarray:
        """To RAS+ mm, by hand."""
        affine = np.eye(4)
        affine[:3, :3] = self.axes() * [0.7, 0.9, self.slice_mm]
        affine[:3, 3] = (-31.0, 42.0, 7.5)
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    def slice_of(self, level: int, phase: int = 0, *, series: str = "", **tags: Any) -> Any:
        """One classic slice; with phases it tells its time by temporal position and acquisition time."""
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

        series = series or self.series
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = MRImageStorage
        data.SOPInstanceUID = f"{series}.{phase + 1}.{level + 1}"
        data.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        data.Modality, data.Manufacturer = "MR", "SIEMENS Healthineers"
        data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.9", series
        data.SeriesNumber, data.SeriesDescription = 5, "t1_fl3d_tra_dyn"
        data.PatientID, data.AccessionNumber, data.PatientName = "0815", "A4711", "Musterfrau^Erika"
        data.PatientBirthDate, data.StudyDate = "19700101", "20200101"
        data.InstanceNumber = 100 - level
        data.AcquisitionTime = f"10{phase:02d}30.5"
        data.TemporalPositionIdentifier = phase + 1
        data.EchoTime, data.SliceThickness = 2.4, self.slice_mm
        data.Rows, data.Columns, data.PixelSpacing = self.rows, self.columns, [0.9, 0.7]
        right, down, up = self.axes().T
        corner = np.array([-31.0, 42.0, 7.5]) + level * self.slice_mm * up
        data.ImageOrientationPatient = [f"{value:.12f}" for value in (*right, *down)]
        data.ImagePositionPatient = [f"{value:.10f}" for value in corner]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelData = self.pixels(level, phase).tobytes()
        for keyword, value in tags.items():
            setattr(data, keyword, value)
        return data

    def stack(self, num_slices: int = 5, phase: int = 0, **tags: Any) -> list[Any]:
        return [self.slice_of(level, phase, **tags) for level in range(num_slices)]

    def dynamic(self, num_slices: int = 5, num_phases: int = 3, **tags: Any) -> list[Any]:
        return [one for phase in range(num_phases) for one in self.stack(num_slices, phase, **tags)]

    def enhanced(self, slices: list[Any]) -> Any:
        """The slices as frames of one enhanced multi-frame file, in their order."""
        from copy import deepcopy

        from pydicom.dataset import Dataset
        from pydicom.uid import EnhancedMRImageStorage

        def item(**tags: Any) -> list[Dataset]:
            data = Dataset()
            for keyword, value in tags.items():
                setattr(data, keyword, value)
            return [data]

        file, first = deepcopy(slices[0]), slices[0]
        file.SOPClassUID = EnhancedMRImageStorage
        file.NumberOfFrames = len(slices)
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            delattr(file, keyword)
        for keyword in ("TemporalPositionIdentifier", "AcquisitionTime", "EchoTime"):
            delattr(file, keyword)
        shared = Dataset()
        shared.PlaneOrientationSequence = item(ImageOrientationPatient=first.ImageOrientationPatient)
        shared.PixelMeasuresSequence = item(
            PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness
        )
        shared.MREchoSequence = item(EffectiveEchoTime=float(first.EchoTime))
        file.SharedFunctionalGroupsSequence = [shared]
        frames = []
        for one in slices:
            groups = Dataset()
            groups.PlanePositionSequence = item(ImagePositionPatient=one.ImagePositionPatient)
            groups.FrameContentSequence = item(
                TemporalPositionIndex=int(one.TemporalPositionIdentifier),
                FrameAcquisitionDateTime=f"20200101{one.AcquisitionTime}",
                StackID="1",
            )
            if "RescaleSlope" in one:
                groups.PixelValueTransformationSequence = item(
                    RescaleSlope=one.RescaleSlope, RescaleIntercept=one.RescaleIntercept, RescaleType="US"
                )
            frames.append(groups)
        file.PerFrameFunctionalGroupsSequence = frames
        file.PixelData = b"".join(one.PixelData for one in slices)
        return file

    def save(self, folder: Path, files: list[Any], names: str = "IM{:04d}") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(files):
            data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
            data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
            data.save_as(folder / names.format(number), enforce_file_format=True)
        return folder

    def compress(self, folder: Path, syntax: str) -> Path:
        """Compress the pixels of every file of a folder; the syntax by the name that GDCM gives it."""
        import gdcm
        from pydicom import dcmread

        for path in sorted(folder.iterdir()):
            original = dcmread(path)
            reader = gdcm.ImageReader()
            reader.SetFileName(str(path))
            assert reader.Read()
            change = gdcm.ImageChangeTransferSyntax()
            change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
            change.SetInput(reader.GetImage())
            assert change.Change()
            writer = gdcm.ImageWriter()
            writer.SetFileName(str(path))
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            assert writer.Write()
            compressed = dcmread(path)  # GDCM adds tags of its own
            original.file_meta.TransferSyntaxUID = compressed.file_meta.TransferSyntaxUID
            original["PixelData"] = compressed["PixelData"]
            original.save_as(path)
        return folder


@pytest.fixture(scope="session")
def mr_files() -> MrFiles:
    return MrFiles()
