"""Breast-MRI exams of nobody: tissue, chest wall and vessels drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class ImageStyle:
    """How a hospital's scanner and patients look."""

    shape: tuple[int, int, int]
    """slice, row, column."""
    spacing_mm: tuple[float, float, float]
    """slice, row, column."""
    gain: float = 400.0
    """Scanner units of signal 1.0."""
    gamma: float = 1.0
    noise: float = 0.03
    """Standard deviation of the receiver noise, in units of signal 1.0."""
    bias: float = 0.15
    """Amplitude of the coil's shading."""
    density: float = 0.0
    """Mean of glandular density; 0 is a half-dense breast, in units of the texture's spread."""
    enhancement: float = 0.12
    """Mean background enhancement of the gland."""
    motion_mm: float = 0.5
    """Spread of the in-plane shift between the phases."""
    t2_missing: float = 0.0
    """Share of exams without T2."""


@dataclass(frozen=True)
class Canvas:
    """One exam while it is drawn: signal per sequence, and the coordinates of its voxels in mm."""

    pre: Array
    enhancement: Array
    t2: Array
    z: Array
    y: Array
    x: Array
    side: int
    """+1: lateral is towards larger x (left breast); -1: towards smaller x."""
    nipple_y: float
    chest_y: float
    radius: tuple[float, float]
    """Half width and half height of the breast's base in mm."""


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], cells: tuple[int, int, int]) -> Array:
    """Noise of about unit variance that varies over `cells` cells along each axis."""
    coarse = torch.from_numpy(rng.standard_normal(cells, dtype=np.float32))[None, None]
    fine = F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0].numpy()
    return fine / max(float(coarse.std()), 1e-6)


def texture(rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    """Cloudy tissue: three octaves of smooth noise."""
    field = np.zeros(shape, np.float32)
    for weight, cells in ((1.0, (3, 5, 5)), (0.7, (6, 10, 10)), (0.45, (12, 24, 24))):
        field += weight * smooth_noise(rng, shape, cells)
    return field / 0.8  # trilinear interpolation lowers the spread of the three octaves to about this


def soft(distance: Array, width: float) -> Array:
    """1 inside (positive distance), 0 outside, over an edge of `width` mm."""
    return np.clip(distance / width + 0.5, 0.0, 1.0)


def draw_breast(rng: np.random.Generator, style: ImageStyle, side: int, density: float, bpe: float) -> Canvas:
    """A breast without findings: fat, gland, skin, nipple, vessels, muscle and the heart behind it."""
    depth, height, width = (n * mm for n, mm in zip(style.shape, style.spacing_mm, strict=True))
    z, y, x = (
        (np.arange(n, dtype=np.float32) + 0.5) * mm - total * share
        for n, mm, total, share in zip(
            style.shape, style.spacing_mm, (depth, height, width), (0.5, 0.0, 0.5), strict=True
        )
    )
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    chest = height * rng.uniform(0.66, 0.74)
    apex = height * rng.uniform(0.10, 0.18)
    half = width * rng.uniform(0.40, 0.46), depth * rng.uniform(0.46, 0.54)
    wall = chest + 0.0012 * x**2 + 2.0 * np.sin(x / 17.0 + rng.uniform(0, 6))
    reach = np.sqrt(
        (x / half[0]) ** 2 + (z / half[1]) ** 2 + (np.minimum(y - chest, 0) / (chest - apex)) ** 2
    )
    inside = soft((1 - reach) * 45.0, 3.0) * soft(wall - y, 3.0)
    skin = inside * soft(2.2 - np.abs((1 - reach) * 45.0 - 1.0), 2.0) * soft(wall - 6 - y, 2.0)
    cloud = texture(rng, style.shape)
    gland = inside * soft((1 - reach) * 45.0 - 9.0, 6.0) * soft(cloud + density, 0.9)
    fibres = 0.08 * smooth_noise(rng, style.shape, (10, 20, 20))
    muscle = soft(y - wall, 2.0) * soft(wall + 11.0 - y, 3.0)
    behind = soft(y - wall - 11.0, 3.0)
    heart = behind * soft(smooth_noise(rng, style.shape, (3, 4, 4)) + rng.uniform(-1.4, -0.2), 0.8)
    air = 1 - np.clip(inside + muscle + behind, 0, 1)

    fat = inside * (1 - gland)
    pre = (
        0.88 * fat + 0.42 * gland + 0.38 * muscle + 0.25 * behind + inside * fibres - 0.3 * skin + 0.02 * air
    )
    t2 = 0.62 * fat + 0.50 * gland + 0.26 * muscle + 0.3 * behind + inside * fibres - 0.15 * skin + 0.02 * air
    t2 += heart * rng.uniform(0.3, 1.6)
    patches = np.clip(1 + 0.7 * smooth_noise(rng, style.shape, (5, 8, 8)), 0, None)
    enhancement = bpe * gland * patches + 0.08 * muscle + heart * rng.uniform(0.7, 1.6)
    canvas = Canvas(pre, enhancement, t2, z, y, x, side, apex, chest, half)
    draw_distractors(rng, canvas)
    return canvas


def draw_distractors(rng: np.random.Generator, canvas: Canvas) -> None:
    """Bright things without a finding: nipple, vessels, foci, a skin fold's fluid, an artery."""
    nipple = ball(canvas, (0.0, canvas.nipple_y + 3.0, 0.0), (5.0, 5.0, 5.0))
    canvas.enhancement[...] += rng.uniform(0.2, 0.7) * nipple
    for _ in range(rng.integers(1, 4)):
        start = random_place(rng, canvas, 0.95)
        end = (start[0] + rng.normal(0, 12), canvas.chest_y + 4, start[2] + rng.normal(0, 20))
        vessel = tube(canvas, start, end, rng.uniform(1.3, 2.2), bend=rng.normal(0, 6, 3))
        canvas.enhancement[...] += rng.uniform(0.3, 0.9) * vessel
        canvas.t2[...] += rng.uniform(-0.2, 0.3) * vessel
    for _ in range(rng.integers(0, 4)):
        focus = ball(canvas, random_place(rng, canvas, 0.8), (2.2, 2.0, 2.0))
        canvas.enhancement[...] += rng.uniform(0.1, 0.35) * focus
    fold = (rng.uniform(-25, 25), canvas.chest_y + rng.uniform(4, 14), rng.uniform(-50, 50))
    canvas.t2[...] += rng.uniform(0.2, 1.4) * ball(canvas, fold, tuple(rng.uniform(3, 9, 3)))
    behind = (rng.uniform(-25, 25), canvas.chest_y + rng.uniform(19, 27), rng.uniform(-35, 35))
    artery = ball(canvas, behind, (4.5, *rng.uniform(3.0, 4.5, 2)))
    for image, low, high in ((canvas.pre, 1.0, 2.2), (canvas.enhancement, 0.8, 2.2), (canvas.t2, 1.2, 2.8)):
        image[...] += rng.uniform(low, high) * artery  # an exam's brightest voxel says nothing about findings


def random_place(rng: np.random.Generator, canvas: Canvas, reach: float) -> tuple[float, float, float]:
    """A point (z, y, x) in mm inside the breast, not in the skin nor in the muscle."""
    while True:
        v = rng.uniform(-1, 1, 2)
        depth = rng.uniform(0.0, 0.85)
        if v[0] ** 2 + v[1] ** 2 + depth**2 < (0.8 * reach) ** 2:
            break
    y = canvas.chest_y - 8.0 - depth * (canvas.chest_y - 8.0 - canvas.nipple_y)
    return float(v[0] * canvas.radius[1]), float(y), float(v[1] * canvas.radius[0])


def box(canvas: Canvas, centre: tuple[float, float, float], reach: float) -> tuple[slice, slice, slice]:
    """The part of the grid within `reach` mm of a point: drawing there only keeps this fast."""
    cut = []
    for axis, middle in zip((canvas.z, canvas.y, canvas.x), centre, strict=True):
        near = np.flatnonzero(np.abs(axis.ravel() - middle) <= reach)
        cut.append(slice(int(near[0]), int(near[-1]) + 1) if len(near) else slice(0, 0))
    return cut[0], cut[1], cut[2]


def ball(canvas: Canvas, centre: tuple[float, float, float], radii: tuple[float, ...]) -> Array:
    """Opacity of an ellipsoid with a soft edge, on the whole grid."""
    opacity = np.zeros_like(canvas.pre)
    part = box(canvas, centre, max(radii) + 2.0)
    if opacity[part].size:
        z, y, x = (
            canvas.z[part[0]] - centre[0],
            canvas.y[:, part[1]] - centre[1],
            canvas.x[..., part[2]] - centre[2],
        )
        reach = np.sqrt((z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2)
        opacity[part] = soft((1 - reach) * min(radii), 1.5)
    return opacity


def tube(
    canvas: Canvas,
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radius: float,
    bend: Array | None = None,
) -> Array:
    """Opacity of a bent tube between two points, on the whole grid."""
    a, b = np.array(start), np.array(end)
    length = float(np.linalg.norm(b - a))
    steps = np.linspace(0, 1, max(int(length / max(radius, 1.0)), 2))
    line = a + steps[:, None] * (b - a)
    if bend is not None:
        line = line + np.sin(np.pi * steps)[:, None] * bend
    opacity = np.zeros_like(canvas.pre)
    for point in line:
        part = box(canvas, tuple(point), radius + 2.5)
        if opacity[part].size:
            z, y, x = (
                canvas.z[part[0]] - point[0],
                canvas.y[:, part[1]] - point[1],
                canvas.x[..., part[2]] - point[2],
            )
            distance = radius - np.sqrt(np.square(z * 0.8) + y**2 + x**2)
            opacity[part] = np.maximum(opacity[part], soft(distance, 1.5))
    return opacity


def acquire(rng: np.random.Generator, style: ImageStyle, canvas: Canvas) -> dict[str, Array]:
    """What the scanner writes: Pre, Sub and T2 as int16, with motion, shading and noise."""
    shading = 1 + style.bias * smooth_noise(rng, style.shape, (2, 3, 3)).clip(-2, 2)
    shift = rng.normal(0, style.motion_mm, 2) / np.array(style.spacing_mm[1:])

    def expose(signal: Array) -> Array:
        bright = np.clip(signal, 0, None) ** style.gamma * shading
        return bright + style.noise * rng.standard_normal(style.shape, dtype=np.float32)

    post = shift_plane(canvas.pre + canvas.enhancement, float(shift[0]), float(shift[1]))
    pre = expose(canvas.pre)
    images = {"Pre": pre, "Sub": expose(post) - pre}
    if rng.uniform() >= style.t2_missing:
        images["T2"] = expose(canvas.t2) * rng.uniform(0.8, 1.25)
    return {
        name: np.clip(np.round(style.gain * image), -32768, 32767).astype(np.int16)
        for name, image in images.items()
    }


def shift_plane(image: Array, down: float, right: float) -> Array:
    """Shift every slice by a fraction of a pixel, linearly."""
    for axis, amount in ((1, down), (2, right)):
        whole = int(np.floor(amount))
        rest = amount - whole
        image = (1 - rest) * np.roll(image, whole, axis) + rest * np.roll(image, whole + 1, axis)
    return image
