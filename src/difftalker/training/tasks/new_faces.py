"""Faces that nobody has: warped, mirrored, in other colours and light, as poor cameras show them.

A network that learns from few people sees many.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.face.crop import CELL
from difftalker.face.landmarks import JAW, MIRRORED, UPPER

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]

KNOTS = 5
"""Points a side of the grid whose displacements a warp goes through."""


@dataclass(frozen=True, kw_only=True)
class NewFaceRecipe:
    """How far new faces are from the footage's: standard deviations, if nothing else is said."""

    mirrored_share: float = 0.5
    rotation_rad: float = 0.05
    scaling: float = 0.06
    """The change of width and of height, each its own."""
    shift_crop: float = 0.015
    warp_crop: float = 0.012
    """Displacement of the knots of a smooth warp, crop units."""
    colour: float = 0.08
    """The change of the entries of the matrix that mixes the colours."""
    gamma: float = 0.25
    """The logarithm of the exponent of brightness."""
    light: float = 0.25
    """Difference in brightness from one side of the picture to the other."""
    poor_share: float = 0.5
    """Share of pictures that are as from a poor camera."""
    poorest_scale: float = 0.4
    """How far these are made smaller, and large again."""


@dataclass(frozen=True, kw_only=True)
class NewFace:
    """One face as the network sees it."""

    picture: Image
    """(S, S, 3)."""
    points: Floats
    """(68, 2), crop units."""
    box: NDArray[np.int32]
    """(4,): top, bottom, left, right of the mask, pixels."""
    jaws: Floats
    """(n, 2): where jaws come, from the middle of the upper points, crop units."""


def new_face(face: NewFace, recipe: NewFaceRecipe, rng: np.random.Generator) -> NewFace:
    """Another face from one of the footage."""
    turned = _linear(recipe, rng)
    shift = 0.5 + rng.normal(0, recipe.shift_crop, 2)
    size = len(face.picture)
    knots = rng.normal(0, recipe.warp_crop, (KNOTS, KNOTS, 2)).astype(np.float32)
    warp = cv2.resize(knots, (size, size), interpolation=cv2.INTER_CUBIC)
    place = (np.indices((size, size))[::-1].transpose(1, 2, 0) + 0.5) / size
    source = ((place - 0.5) @ turned.T + shift + warp).astype(np.float32)
    moved = _moved(face.picture, source)
    back = np.linalg.inv(turned)
    points = _found(face.points, source, back, shift)
    if np.linalg.det(turned) < 0:
        points = points[list(MIRRORED)]
    corners = _found(_edges(face.box / size), source, back, shift)
    box = _on_cells(corners, size)
    return NewFace(
        picture=_shot(moved, recipe, rng),
        points=points,
        box=box,
        jaws=(face.jaws @ back.T).astype(np.float32),
    )


def _moved(picture: Image, source: Floats) -> Image:
    """What a picture shows at the places ``source`` (S, S, 2), from 0 to 1."""
    at, nothing = source * len(picture) - 0.5, np.zeros(0, np.float32)
    out = cv2.remap(picture, at, nothing, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(out, np.uint8)


def farthest_jaws(points: Floats, directions: int = 32) -> Floats:
    """(directions, 2): of jaws (n, 68, 2) the points farthest from the middle of the upper face."""
    lines = (points[:, list(JAW)] - points[:, list(UPPER)].mean(1, keepdims=True)).reshape(-1, 2)
    turns = np.arange(directions) * (2 * np.pi / directions)
    along = lines @ np.stack([np.cos(turns), np.sin(turns)])
    return np.ascontiguousarray(lines[along.argmax(0)], np.float32)


def _linear(recipe: NewFaceRecipe, rng: np.random.Generator) -> NDArray[np.float64]:
    """From a new face's directions to those of the footage, (2, 2)."""
    turn = rng.normal(0, recipe.rotation_rad)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    scales = np.exp(rng.normal(0, recipe.scaling, 2))
    if rng.random() < recipe.mirrored_share:
        scales[0] = -scales[0]
    return np.asarray(rotation @ np.diag(scales))


def _found(
    points: Floats, source: Floats, back: NDArray[np.floating], shift: NDArray[np.floating]
) -> Floats:
    """Where points (n, 2) of the footage are on the new face: the inverse of ``source``."""
    size = len(source)
    found, nothing = (points - shift) @ back.T + 0.5, np.zeros(0, np.float32)
    for _ in range(4):
        at = (found * size - 0.5).astype(np.float32)[None]
        there = cv2.remap(source, at, nothing, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        outside = found - np.clip(found, 0.5 / size, 1 - 0.5 / size)
        found = found - (there[0] + outside @ np.linalg.inv(back).T - points) @ back.T
    return np.asarray(found, np.float32)


def _edges(box: NDArray[np.floating]) -> Floats:
    """Corners of a box (4,) and the middles of its sides, (8, 2)."""
    top, bottom, left, right = box
    middle, centre = (top + bottom) / 2, (left + right) / 2
    rows = [top, top, top, middle, middle, bottom, bottom, bottom]
    columns = [left, centre, right, left, right, left, centre, right]
    return np.array([columns, rows], np.float32).T


def _on_cells(points: Floats, size: int) -> NDArray[np.int32]:
    """The box around points (n, 2), on the grid of latents."""
    low = np.floor(points.min(0) * size / CELL) * CELL
    high = np.ceil(points.max(0) * size / CELL) * CELL
    box: NDArray[np.int32] = np.array([low[1], high[1], low[0], high[0]], np.int32)
    return box.clip(0, size)


def _shot(picture: Image, recipe: NewFaceRecipe, rng: np.random.Generator) -> Image:
    """The picture in another light and by another camera."""
    size = len(picture)
    mixed = np.eye(3) + rng.normal(0, recipe.colour, (3, 3))
    turn, strength = rng.uniform(0, 2 * np.pi), rng.normal(0, recipe.light)
    across = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    ramp = 1 + strength * (np.cos(turn) * across[None] + np.sin(turn) * across[:, None])
    table = np.linspace(0, 1, 256) ** np.exp(rng.normal(0, recipe.gamma)) * 255
    bent = cv2.LUT(picture, table.astype(np.float32))
    lit = cv2.transform(bent, mixed.astype(np.float32)) * ramp[..., None]
    out: Image = np.rint(lit).clip(0, 255).astype(np.uint8)
    if rng.random() < recipe.poor_share:
        out = _poor(out, round(size * rng.uniform(recipe.poorest_scale, 1)), rng)
    return out


def _poor(picture: Image, size: int, rng: np.random.Generator) -> Image:
    """As from fewer pixels, and compressed."""
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))]
    coded = cv2.imencode(".jpg", small, quality)[1]
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    full = len(picture)
    return np.asarray(cv2.resize(decoded, (full, full), interpolation=cv2.INTER_CUBIC), np.uint8)
