"""The demo's slice encoder: blobs, ridges, edges and texture at a few scales, pooled over the slice.

Fixed filters in the spirit of a scattering transform (Bruna & Mallat 2013): nothing is learned, so
nothing has to be downloaded. It stands in for DINOv2 where no weights can be had, and claims nothing more.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SCALE_FILE = Path(__file__).with_name("filters_scale.json")
"""Mean and spread of each feature over drawn exams, made by `python -m climb_model.model.filters`."""

BLOB_MM = (2.0, 3.5, 6.0)
RIDGE_MM = (1.6, 2.8)
LEVELS = (-0.5, 0.5, 1.5, 3.0)
"""Signal levels, in units of the z-score, above which an area counts as bright."""
PROJECTION_SEED = 20250702
GRID = 3
NUM_TOP = 8
CHUNK = 4
"""Slices filtered at once: their maps stay in the cache."""


def gaussian(sigma: float, order: int) -> Float[Tensor, " tap"]:
    """A sampled Gaussian or its first or second derivative, scale-normalised; sigma in pixels."""
    radius = max(int(math.ceil(3 * sigma)), 2)
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    g = torch.exp(-(x**2) / (2 * sigma**2))
    g = g / g.sum()
    if order == 1:
        g = -x / sigma**2 * g * sigma
    if order == 2:
        g = (x**2 / sigma**4 - 1 / sigma**2) * g * sigma**2
        g = g - g.mean()
    return g.float()


def band(taps: Float[Tensor, " tap"], size: int) -> Float[Tensor, "size size"]:
    """The matrix that filters a line of `size` pixels with edges repeated; faster than a convolution."""
    radius = len(taps) // 2
    matrix = torch.zeros(size, size)
    source = (torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)).clamp(0, size - 1)
    return matrix.scatter_add_(1, source, taps.flip(0).expand(size, -1))


@cache
def bands(sigma: float, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices of the Gaussian and its two derivatives."""
    smooth, first, second = (band(gaussian(sigma, order), size) for order in (0, 1, 2))
    return smooth, first, second


class FilterBank(nn.Module):
    """Maps a z-scored slice to `width` numbers."""

    scale: Tensor
    shift: Tensor
    projection: Tensor

    def __init__(self, width: int, pixel_mm: float) -> None:
        super().__init__()
        self.pixel_mm = pixel_mm
        shift, scale = feature_scale()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.register_buffer("sigmas", torch.tensor([mm / pixel_mm for mm in (*BLOB_MM, *RIDGE_MM)]))
        generator = torch.Generator().manual_seed(PROJECTION_SEED)
        projection = torch.eye(len(shift))
        if width != len(shift):
            projection = torch.randn(len(shift), width, generator=generator) / math.sqrt(len(shift))
        self.register_buffer("projection", projection)

    def maps(self, image: Float[Tensor, "slice row column"]) -> Float[Tensor, "slice map row column"]:
        """Non-negative response maps of all filters."""
        rows, columns = image.shape[1:]

        def filtered(mm: float, pairs: tuple[tuple[int, int], ...], source: Tensor = image) -> list[Tensor]:
            down, across = bands(mm / self.pixel_mm, rows), bands(mm / self.pixel_mm, columns)
            halfway = {order: source @ across[order].T for order in {pair[1] for pair in pairs}}
            return [down[first] @ halfway[second] for first, second in pairs]

        found: list[Tensor] = []
        for mm in BLOB_MM:
            yy, xx, y, x = filtered(mm, ((2, 0), (0, 2), (1, 0), (0, 1)))
            laplace = yy + xx
            found += [F.relu(-laplace), F.relu(laplace), (y**2 + x**2).sqrt()]
        for mm in RIDGE_MM:
            yy, xx, xy = filtered(mm, ((2, 0), (0, 2), (1, 1)))
            middle, half = (yy + xx) / 2, (((yy - xx) / 2) ** 2 + xy**2).sqrt()
            high, low = middle + half, middle - half  # eigenvalues of the Hessian (Frangi et al. 1998)
            found += [F.relu(-low - high.abs()), F.relu(high - low.abs()), F.relu(-high)]
        (mild,) = filtered(BLOB_MM[0], ((0, 0),))
        found += [F.relu(mild - level) for level in LEVELS] + [F.relu(-mild - 0.3)]
        for source in ((image - mild).abs(), found[0], found[1], found[9]):
            found += filtered(BLOB_MM[2], ((0, 0),), source)
        return torch.stack(found, dim=1)

    def features(self, slices: Float[Tensor, "slice row column"]) -> Float[Tensor, "slice feature"]:
        """Pooled responses before scaling: 16 numbers a map."""
        maps = self.maps(slices)
        flat = maps.flatten(2)
        top = F.max_pool2d(maps, 4).flatten(2).topk(NUM_TOP, dim=2).values
        pooled = [
            F.adaptive_max_pool2d(maps, GRID).flatten(2),
            F.adaptive_max_pool2d(maps, (GRID, 1)).flatten(2),
            top[..., :1],
            top.mean(dim=2, keepdim=True),
            flat.mean(dim=2, keepdim=True),
            torch.linalg.vector_norm(flat, dim=2, keepdim=True) / math.sqrt(flat.shape[2]),
        ]
        return torch.cat(pooled, dim=2).flatten(1).sqrt()

    def forward(self, slices: Float[Tensor, "slice row column"]) -> Float[Tensor, "slice dim"]:
        """Tokens of z-scored slices; each depends on its own slice only."""
        tokens = [(self.features(chunk) - self.shift) / self.scale for chunk in slices.split(CHUNK)]
        return torch.cat(tokens).clamp(-6.0, 6.0) @ self.projection


@cache
def feature_scale() -> tuple[Float[Tensor, " feature"], Float[Tensor, " feature"]]:
    """Mean and spread of each feature, from the file in the tree."""
    stored = json.loads(SCALE_FILE.read_text(encoding="utf-8"))
    return torch.tensor(stored["mean"]), torch.tensor(stored["spread"])


def measure_scale(seed: int = 1) -> dict[str, list[float]]:
    """Mean and spread of each feature over drawn exams of nobody, on the demo's grid."""
    import tempfile

    from climb_model.data.folders import list_sites, read_site
    from climb_model.data.synthetic import make_hospitals
    from climb_model.data.volume import read_volume
    from configs.load import load_settings

    settings = load_settings("demo")
    bank = FilterBank(settings.model.vision.width, settings.data.spacing_mm[1])
    found: list[Tensor] = []
    with tempfile.TemporaryDirectory() as folder:
        make_hospitals(Path(folder) / "data", num_sites=4, exams=20, central_exams=20, seed=seed)
        for name, path in list_sites(Path(folder) / "data").items():
            site = read_site(
                path, name, need_reports=False, need_findings=False, sequences=settings.data.sequences, findings=()
            )
            for exam in site.exams:
                volume = read_volume(exam, settings.data)
                found.append(bank.features(torch.from_numpy(volume.values[volume.present])))
    features = torch.cat(found)
    mean, spread = features.mean(dim=0), features.std(dim=0).clamp_min(1e-3)
    return {"mean": [round(v, 4) for v in mean.tolist()], "spread": [round(v, 4) for v in spread.tolist()]}


if __name__ == "__main__":
    SCALE_FILE.write_text(json.dumps(measure_scale()) + "\n", encoding="utf-8")
