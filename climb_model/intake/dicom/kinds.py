"""Which frames are MR slices that can be imported, and what the others are."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.uid import MRImageStorage

from climb_model.intake.dicom.frames import MULTI_FRAME_MR
from climb_model.intake.study import Frame

_LENGTHS_MM = (0.01, 200.0)
_PLACE_MM = 10_000.0
DERIVED = "derived by the scanner or a workstation (subtraction, projection, reformatted)"
_PHASE = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "VELOCITY", "B0 MAP", "VELOCITY_MAP"}
_COMPUTED = {"MPR", "MIP", "MINIP", "SUB", "SUBTRACT", "SUBTRACTION", "PROJECTION IMAGE", "PROJECTION", "CPR"}
_TERMS = (
    "ANN AR ASMT AU BDUS BI BMD CD CF CFM CP CR CS CT CTPROTOCOL DD DF DG DM DMS DS DX EC ECG EEG EMG "
    "EOG EPS ES FA FID FS GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MA MG MR MS NM OAM OCT OP OPM "
    "OPR OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT "
    "RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF ST STAIN TEXTUREMAP TG US VA VF XA "
    "XAPROTOCOL XC "
)
_MODALITIES = frozenset(_TERMS.split())
"""Defined Terms of Modality, retired ones among them (PS3.3 C.7.3.1.1.1)."""


def no_slice(frame: Frame) -> str:
    """Why a frame is no MR slice; empty if it is one."""
    if frame.modality != "MR":
        return f"modality is {_code(frame.modality)}, only MR is imported"
    multi = frame.index is not None
    if frame.sop_class not in (MULTI_FRAME_MR if multi else (MRImageStorage,)):
        if frame.sop_class in MULTI_FRAME_MR:
            return "enhanced MR without the functional groups of its frames"
        return "SOP class is not MR Image Storage (a derived object, a screenshot or no image)"
    if not multi and frame.num_frames != 1:
        return "several frames in a file of classic MR"
    if frame.samples != 1:
        return "colour images, wanted one sample per pixel"
    if frame.photometric != "MONOCHROME2":
        return "photometric interpretation is not MONOCHROME2"
    if frame.bits_allocated not in (8, 16, 32):
        return "BitsAllocated is not 8, 16 or 32"
    if "MOSAIC" in frame.image_type:
        return "mosaic of several slices in one image"
    return _no_place(frame)


def not_acquired(frame: Frame) -> str:
    """Why a frame is no image as acquired, such as a localizer or a projection; empty if it is one."""
    kinds = {word.upper() for word in frame.image_type}
    if "LOCALIZER" in kinds:
        return "localizer"
    lossy_only = frame.lossy and frame.image_type[1:2] == ("PRIMARY",)  # PS3.3 C.7.6.1.1.5: then derived
    if (frame.image_type[:1] == ("DERIVED",) and not lossy_only) or kinds & _COMPUTED:
        return DERIVED
    if {word.upper() for word in frame.image_type[2:]} & _PHASE:
        return "phase, real or imaginary images, not magnitude"
    return ""


def no_image_series(frames: Sequence[Frame]) -> str:
    """Why none of the frames of a series is an MR slice; empty if one is."""
    reasons = [no_slice(frame) for frame in frames]
    return max(sorted(set(reasons)), key=reasons.count) if all(reasons) else ""


def _no_place(frame: Frame) -> str:
    tags = {
        "Rows": frame.rows,
        "Columns": frame.columns,
        "PixelSpacing": frame.spacing,
        "ImageOrientationPatient": frame.orientation,
        "ImagePositionPatient": frame.position,
    }
    for tag, value in tags.items():
        if not value:
            return f"{tag} is missing or holds no numbers"
    lengths = (*(frame.spacing or ()), frame.slice_spacing_mm or 1.0, frame.thickness_mm or 1.0)
    if not all(_LENGTHS_MM[0] <= abs(length) <= _LENGTHS_MM[1] for length in lengths):
        return f"PixelSpacing or the slices' thickness is not within {_LENGTHS_MM[0]} and {_LENGTHS_MM[1]} mm"
    if not all(abs(place) <= _PLACE_MM for place in frame.position or ()):
        return f"ImagePositionPatient is more than {_PLACE_MM:.0f} mm away"
    if frame.slope == 0:
        return "RescaleSlope is 0"
    return ""


def _code(value: str) -> str:
    """A modality of the standard as it stands, anything else as a sort of thing: free text may be a name."""
    return value if value in _MODALITIES else "unknown"
