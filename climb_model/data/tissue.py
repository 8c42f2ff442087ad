"""Real MRI tissue as the background of planted findings."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from climb_model.data.exam import DataError
from climb_model.data.phantom import Array, Canvas, ImageStyle


@dataclass(frozen=True)
class TissueBank:
    """Real volumes, scaled so that their 99th percentile is 1."""

    names: tuple[str, ...]
    hashes: tuple[str, ...]
    volumes: tuple[Array, ...] = field(repr=False)
    """(slice, row, column) float32."""
    spacings_mm: tuple[tuple[float, float, float], ...]

    @classmethod
    def load(cls, folder: Path) -> TissueBank:
        """Read all NIfTI volumes below a folder.

        Raises:
            DataError: if there is none, or one cannot be read, is not a 3-D volume or is empty.
        """
        import nibabel as nib
        from nibabel.filebasedimages import ImageFileError

        paths = sorted([*folder.rglob("*.nii"), *folder.rglob("*.nii.gz")])
        if not paths:
            raise DataError(f"tissue: no .nii or .nii.gz below {folder}", "no tissue volume")
        names, hashes, volumes, spacings = [], [], [], []
        for path in paths:
            try:
                image = nib.as_closest_canonical(nib.load(path))
                values = np.asarray(image.dataobj, dtype=np.float32)
            except (OSError, ValueError, EOFError, zlib.error, ImageFileError):
                raise DataError(f"tissue: {path} cannot be read", "a tissue volume cannot be read") from None
            if values.ndim != 3 or min(values.shape) < 16:
                raise DataError(
                    f"tissue: {path} has shape {values.shape}, wanted 3 dimensions of at least 16 voxels",
                    "a tissue volume is not 3-D",
                )
            values = np.nan_to_num(values.transpose(2, 1, 0))
            if not (values > 0).any():
                raise DataError(f"tissue: {path} has no positive voxel", "a tissue volume is empty")
            top = float(np.percentile(values[values > 0], 99))
            names.append(path.name)
            hashes.append(hashlib.sha256(path.read_bytes()).hexdigest())
            volumes.append(np.clip(values / top, 0, 1.3))
            spacing = [float(mm) for mm in image.header.get_zooms()[:3]]
            spacings.append((spacing[2], spacing[1], spacing[0]))
        return cls(tuple(names), tuple(hashes), tuple(volumes), tuple(spacings))

    def record(self) -> list[dict[str, str]]:
        """Name and SHA-256 of each volume, for the record of a data set."""
        return [{"name": n, "sha256": h} for n, h in zip(self.names, self.hashes, strict=True)]


def lay_tissue(rng: np.random.Generator, canvas: Canvas, style: ImageStyle, bank: TissueBank) -> None:
    """Replace the drawn tissue by a random piece of a real volume, in millimetres.

    Pre shows the piece itself, T2 the same piece with its contrast turned around; Sub keeps only
    what motion and enhancement of bright tissue leave. Drawn vessels and nipple go.
    """
    number = int(rng.integers(len(bank.volumes)))
    volume, spacing = bank.volumes[number], bank.spacings_mm[number]
    piece = cut_piece(rng, volume, spacing, style)
    canvas.pre[...] = piece
    canvas.t2[...] = np.where(piece > 0.05, np.clip(1.05 - piece, 0.05, None) * 0.9, piece)
    canvas.enhancement[...] = style.enhancement * piece * rng.uniform(0.3, 1.2)


def cut_piece(
    rng: np.random.Generator, volume: Array, spacing: tuple[float, float, float], style: ImageStyle
) -> Array:
    """Trilinear resampling of a random box of the volume onto the style's grid."""
    wanted = [n * mm for n, mm in zip(style.shape, style.spacing_mm, strict=True)]
    axes = []
    for size, mm, extent in zip(volume.shape, spacing, wanted, strict=True):
        slack = size * mm - extent
        start = rng.uniform(0, slack) if slack > 0 else slack / 2
        axes.append((start / (size * mm), (start + extent) / (size * mm)))
    lines = [
        torch.linspace(2 * low - 1, 2 * high - 1, n) for (low, high), n in zip(axes, style.shape, strict=True)
    ]
    z, y, x = torch.meshgrid(*lines, indexing="ij")
    grid = torch.stack([x, y, z], dim=-1)[None]
    cut = F.grid_sample(
        torch.from_numpy(volume)[None, None], grid, align_corners=False, padding_mode="reflection"
    )
    return np.ascontiguousarray(cut[0, 0].numpy())
