"""The nine findings as they look: each with its own shape, signal and enhancement."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from climb_model.data.phantom import Array, Canvas, ball, box, random_place, soft, tube
from climb_model.data.planted import Planted

Place = tuple[float, float, float]
"""(z, y, x) in mm from the middle of the volume; y from its front edge."""

Painter = Callable[[np.random.Generator, Canvas, float], tuple[Place, float, int]]
"""Draws a finding with a contrast in (0, 1]; returns its place, its size in mm and how many there are."""


def blend(image: Array, opacity: Array, value: float | Array, contrast: float) -> None:
    """Let a signal show through: replaces tissue by `value` where the lesion is opaque."""
    image[...] += contrast * opacity * (value - image)


def irregular(
    rng: np.random.Generator, canvas: Canvas, centre: Place, radius: float, roughness: float, spikes: int
) -> Array:
    """Opacity of a mass with a lobed outline and, if asked, spicules."""
    opacity = np.zeros_like(canvas.pre)
    part = box(canvas, centre, radius * 2.2 + 2.0)
    z, y, x = (
        canvas.z[part[0]] - centre[0],
        canvas.y[:, part[1]] - centre[1],
        canvas.x[..., part[2]] - centre[2],
    )
    reach = np.sqrt(z**2 + y**2 + x**2) + 1e-3
    outline = np.zeros(np.broadcast_shapes(z.shape, y.shape, x.shape), np.float32)
    for _ in range(5):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        along = (direction[0] * z + direction[1] * y + direction[2] * x) / reach
        outline += rng.uniform(-1, 1) * np.cos(rng.uniform(2, 5) * np.arccos(np.clip(along, -1, 1)))
    body = soft(radius * (1 + roughness * outline) - reach, 1.5)
    for _ in range(spikes):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        along = direction[0] * z + direction[1] * y + direction[2] * x
        across = np.sqrt(np.maximum(reach**2 - along**2, 0))
        length = radius * rng.uniform(1.5, 2.1)
        taper = 1.6 * np.clip(1 - along / length, 0, 1)
        body = np.maximum(body, soft(taper - across, 1.2) * (along > 0) * (along < length))
    opacity[part] = body
    return opacity


def fibroadenoma(rng: np.random.Generator, canvas: Canvas, contrast: float) -> tuple[Place, float, int]:
    """Smooth oval mass, T2 rather bright, even enhancement with dark septa."""
    place, radius = random_place(rng, canvas, 0.9), rng.uniform(5, 11)
    mass = ball(canvas, place, (radius * 0.85, radius * rng.uniform(0.7, 0.9), radius))
    septa = 1 - 0.5 * soft(0.9 - np.abs((canvas.y + canvas.x - place[1] - place[2]) % 6.0 - 3.0), 1.0)
    blend(canvas.pre, mass, 0.40, contrast)
    blend(canvas.t2, mass, 0.92, contrast)
    canvas.enhancement[...] += contrast * 0.62 * mass * septa
    return place, 2 * radius, 1


def adenosis(rng: np.random.Generator, canvas: Canvas, contrast: float) -> tuple[Place, float, int]:
    """A region of many small foci, a little bright on T2, weakly enhancing."""
    place, region = random_place(rng, canvas, 0.8), rng.uniform(12, 20)
    number = int(rng.integers(9, 16))
    for _ in range(number):
        offset = rng.normal(0, region / 2.4, 3)
        centre = (place[0] + offset[0], place[1] + offset[1], place[2] + offset[2])
        focus = ball(canvas, centre, (2.8, 2.3, 2.3))
        blend(canvas.t2, focus, 0.86, 0.8 * contrast)
        canvas.enhancement[...] += contrast * 0.38 * focus
    return place, 2 * region, 1


def lymph_node(rng: np.random.Generator, canvas: Canvas, contrast: float) -> tuple[Place, float, int]:
    """Kidney-shaped node far out and high, with a fatty hilum."""
    number = int(rng.integers(1, 4))
    place, radius = (0.0, 0.0, 0.0), 0.0
    for node in range(number):
        centre = (
            canvas.radius[1] * rng.uniform(0.25, 0.55),
            canvas.chest_y - rng.uniform(6, 16),
            canvas.side * canvas.radius[0] * rng.uniform(0.5, 0.72),
        )
        radius = rng.uniform(4, 7)
        cortex = ball(canvas, centre, (radius, radius * 0.75, radius))
        hilum = ball(canvas, (centre[0], centre[1] + 0.2 * radius, centre[2]), tuple([radius * 0.5] * 3))
        blend(canvas.pre, cortex, 0.35, contrast)
        blend(canvas.t2, cortex, 1.0, contrast)
        canvas.enhancement[...] += contrast * 0.7 * cortex * (1 - hilum)
        blend(canvas.pre, hilum, 0.95, contrast)
        blend(canvas.t2, hilum, 0.6, contrast)
        place = centre if node == 0 else place
    return place, 2 * radius, number


def cyst(rng: np.random.Generator, canvas: Canvas, contrast: float) -> tuple[Place, float, int]:
    """Round, sharply outlined water: dark on Pre, very bright on T2, no enhancement."""
    number = int(rng.integers(1, 4))
    places, radii = [], []
    for _ in range(number):
        places.append(random_place(rng, canvas, 0.9))
        radii.append(rng.uniform(3.5, 9.5))
        water = ball(canvas, places[-1], (radii[-1],) * 3)
        blend(canvas.pre, water, 0.20, contrast)
        blend(canvas.t2, water, 1.45, contrast)
        canvas.enhancement[...] *= 1 - contrast * water
    largest = int(np.argmax(radii))
    return places[largest], 2 * radii[largest], number


def fat_necrosis(rng: np.random.Generator, canvas: Canvas, contrast: float) -> tuple[Place, float, int]:
    """Oil in a thin wall: brighter than fat on Pre with a dark, faintly enhancing rim."""
    place, radius = random_place(rng, canvas, 0.95), rng.uniform(5, 10)
    whole = ball(canvas, place, (radius,) * 3)
    core = ball(canvas, place, (max(radius - 2.2, 1.5),) * 3)
    blend(canvas.pre, whole, 0.12, contrast)
    blend(canvas.t2, whole, 0.15, contrast)
    blend(canvas.pre, core, 1.30, contrast)
    blend(canvas.t2, core, 0.85, contrast)
    canvas.enhancement[...] += contrast * 0.35 * whole * (1 - core)
    return place, 2 * radius, 1


def duct_ectasia(rng: np.random.Generator, canvas: Canvas, contrast: float) -> tuple[Place, float, int]:
    """Wide ducts running together at the nipple, bright on Pre and T2, not enhancing."""
    nipple = (0.0, canvas.nipple_y + 6.0, 0.0)
    length = rng.uniform(28, 42)
    heading = rng.normal(0, 0.35, 2)
    for _ in range(int(rng.integers(3, 6))):
        lean = heading + rng.normal(0, 0.3, 2)
        direction = np.array([lean[0], 1.0, lean[1]])
        direction /= np.linalg.norm(direction)
        end = np.array(nipple) + length * rng.uniform(0.7, 1.0) * direction
        duct = tube(canvas, nipple, (end[0], end[1], end[2]), rng.uniform(1.8, 2.5), bend=rng.normal(0, 2, 3))
        blend(canvas.pre, duct, 1.10, contrast)
        blend(canvas.t2, duct, 1.20, contrast)
        canvas.enhancement[...] *= 1 - contrast * duct
    return nipple, length, 1


def radial_scar(rng: np.random.Generator, canvas: Canvas, contrast: float) -> tuple[Place, float, int]:
    """A star of thin dark strands around a small centre of fat; hardly enhancing."""
    place, radius = random_place(rng, canvas, 0.8), rng.uniform(11, 18)
    for _ in range(int(rng.integers(10, 15))):
        direction = rng.normal(size=3) * np.array([0.6, 1.0, 1.0])
        direction *= radius * rng.uniform(0.8, 1.2) / np.linalg.norm(direction)
        end = (place[0] + direction[0], place[1] + direction[1], place[2] + direction[2])
        strand = tube(canvas, place, end, 1.3)
        blend(canvas.pre, strand, 0.15, contrast)
        blend(canvas.t2, strand, 0.15, contrast)
        canvas.enhancement[...] += contrast * 0.10 * strand
    return place, 2 * radius, 1


def dcis(rng: np.random.Generator, canvas: Canvas, contrast: float) -> tuple[Place, float, int]:
    """Clumped enhancement along a segment towards the nipple, without a mass on Pre or T2."""
    place = random_place(rng, canvas, 0.8)
    towards = np.array([0.0, canvas.nipple_y, 0.0]) - np.array(place)
    length = min(float(np.linalg.norm(towards)) * 0.8, rng.uniform(24, 40))
    towards /= np.linalg.norm(towards)
    for share in np.linspace(0, 1, int(rng.integers(16, 24))):
        spread = 3.5 * (1.3 - share)
        centre = np.array(place) + share * length * towards + rng.normal(0, spread, 3)
        clump = ball(canvas, (centre[0], centre[1], centre[2]), tuple(rng.uniform(1.8, 3.2, 3)))
        canvas.enhancement[...] = np.maximum(canvas.enhancement, contrast * rng.uniform(0.6, 0.95) * clump)
    return place, length, 1


def carcinoma(rng: np.random.Generator, canvas: Canvas, contrast: float) -> tuple[Place, float, int]:
    """Spiculated irregular mass, dark on T2, enhancing most at its rim."""
    place, radius = random_place(rng, canvas, 0.85), rng.uniform(6, 13)
    mass = irregular(rng, canvas, place, radius, 0.14, spikes=14)
    core = ball(canvas, place, (radius * 0.55,) * 3)
    blend(canvas.pre, mass, 0.30, contrast)
    blend(canvas.t2, mass, 0.30, contrast)
    canvas.enhancement[...] += contrast * mass * (1.0 - 0.45 * core)
    return place, 2 * radius, 1


PAINTERS: dict[str, Painter] = {
    "Fibroadenom": fibroadenoma,
    "Adenose": adenosis,
    "Lymphknoten": lymph_node,
    "Zyste": cyst,
    "Fettgewebsnekrose": fat_necrosis,
    "Duktektasie": duct_ectasia,
    "Radiäre Narbe": radial_scar,
    "Duktales Karzinom in situ": dcis,
    "Karzinom": carcinoma,
}


def plant(rng: np.random.Generator, canvas: Canvas, finding: str, contrast: float) -> Planted:
    """Draw a finding somewhere in the breast and say where it is, as a radiologist would."""
    place, size, number = PAINTERS[finding](rng, canvas, contrast)
    return Planted(
        finding=finding,
        size_mm=round(size),
        quadrant=quadrant(canvas, place),
        num=number,
        clock=clock(place),
    )


def quadrant(canvas: Canvas, place: Place) -> str:
    """The quadrant of a place, or behind the nipple."""
    height, across = place[0], place[2] * canvas.side
    if math.hypot(height, across) < 8.0:
        return "retromamillär"
    return f"{'oben' if height > 0 else 'unten'} {'außen' if across > 0 else 'innen'}"


def clock(place: Place) -> int:
    """Clock position seen from the front; the patient's left is the observer's right."""
    hour = round(math.degrees(math.atan2(place[2], place[0])) / 30.0) % 12
    return hour or 12
