"""The demo's slice encoder: blobs, ridges, edges and texture at a few scales, pooled over the slice.

Fixed filters in the spirit of a scattering transform (Bruna & Mallat 2013): nothing is learned, so
nothing has to be downloaded. It stands in for DINOv2 where no weights can be had, and claims nothing more.
"""

from __future__ import annotations

import base64
import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WHITENING_FILE = Path(__file__).with_name("filters_whitening.json")
"""Mean and whitening matrix of the features, made by `python -m climb_model.model.filters`."""
NUM_COMPONENTS = 128
"""Principal components kept; the others are mostly noise."""
FLOOR = 0.0005
"""Added to each component's variance before its root divides: weak components are not blown up."""

BLOB_MM = (2.0, 3.5, 6.0)
RIDGE_MM = (1.6, 2.8)
LEVELS = (-0.5, 0.5, 1.5, 3.0)
"""Signal levels, in units of the z-score, above which an area counts as bright."""
LIMIT = 8.0
GRID = 3
NUM_TOP = 8
CHUNK = 4
"""Slices filtered at once: their maps stay in the cache."""


def gaussian(sigma: float, order: int) -> Float[Tensor, " tap"]:
    """A sampled Gaussian or its first or second derivative, scale-normalised; sigma in pixels."""
    radius = max(math.ceil(3 * sigma), 2)
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

    shift: Tensor
    projection: Tensor

    def __init__(self, width: int, pixel_mm: float) -> None:
        super().__init__()
        self.pixel_mm = pixel_mm
        mean, whitening = stored_whitening()
        # components repeat to fill the width
        copies = whitening.repeat(-(-width // len(whitening)), 1)[:width]
        self.register_buffer("shift", mean)
        self.register_buffer("projection", copies.T.contiguous())
        self.register_buffer("sigmas", torch.tensor([mm / pixel_mm for mm in (*BLOB_MM, *RIDGE_MM)]))

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
        tokens = [(self.features(chunk) - self.shift) @ self.projection for chunk in slices.split(CHUNK)]
        return torch.cat(tokens).clamp(-LIMIT, LIMIT)


@cache
def stored_whitening() -> tuple[Float[Tensor, " feature"], Float[Tensor, "component feature"]]:
    """Mean of the features, and the matrix that whitens them, from the file in the tree."""
    stored = json.loads(WHITENING_FILE.read_text(encoding="utf-8"))
    mean, matrix = (
        torch.from_numpy(np.frombuffer(base64.b64decode(stored[part]), np.float16).astype(np.float32))
        for part in ("mean", "matrix")
    )
    return mean, matrix.view(-1, len(mean))


def measure_whitening(seed: int = 1) -> dict[str, str]:
    """Whitening (PCA) of the features over drawn exams of nobody, on the demo's grid.

    Returns:
        `mean` and `matrix` as base64 of little-endian float16.
    """
    import tempfile

    from climb_model.data.folders import list_sites, read_site
    from climb_model.data.synthetic import make_hospitals
    from climb_model.data.volume import read_volume
    from configs.load import load_settings

    settings = load_settings("demo")
    bank = FilterBank(settings.model.vision.width, settings.data.spacing_mm[1])
    found: list[Tensor] = []
    with tempfile.TemporaryDirectory() as folder:
        make_hospitals(Path(folder) / "data", num_sites=4, exams=40, central_exams=40, seed=seed)
        for name, path in list_sites(Path(folder) / "data").items():
            site = read_site(
                path,
                name,
                need_reports=False,
                need_findings=False,
                sequences=settings.data.sequences,
                findings=(),
            )
            for exam in site.exams:
                volume = read_volume(exam, settings.data)
                found.append(bank.features(torch.from_numpy(volume.values[volume.present])))
    features = torch.cat(found).double()
    mean = features.mean(dim=0)
    variance, axes = torch.linalg.eigh(torch.cov(features.T))
    order = variance.argsort(descending=True)[:NUM_COMPONENTS]
    axes = axes[:, order] * axes[:, order].sum(dim=0).sign()  # an eigenvector's sign is arbitrary
    matrix = (axes / (variance[order] + FLOOR).sqrt()).T
    return {
        name: base64.b64encode(value.numpy().astype(np.float16).tobytes()).decode()
        for name, value in (("mean", mean), ("matrix", matrix))
    }


if __name__ == "__main__":
    WHITENING_FILE.write_text(json.dumps(measure_whitening(), indent=1) + "\n", encoding="utf-8")
