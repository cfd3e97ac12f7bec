"""Meshes of the 3DIEBench miniature: parametric object families and shape variants of real meshes.

z is up and the front faces -y, as in the furniture set. Every family is built so that no turn leaves it unchanged
(a mug has a spout beside its handle, a table a drawer on one side), hence its pose is defined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.random import Generator
from trimesh.creation import box, capsule, cone, cylinder, torus
from trimesh.transformations import rotation_matrix

RADIUS = 1.15  # distance of the farthest vertex from the center, the scene's unit of length
PARTS = 8  # colors per palette; a family uses at most this many parts
DARKEST = 0.12  # lower bound of a real mesh's albedo: black shows neither pose nor light

Part = tuple[trimesh.Trimesh, int]  # a solid and the index of its color in the palette


@dataclass(frozen=True)
class Mesh:
    """One object: vertices float64 (V, 3), faces int64 (F, 3), albedo float64 (F, 3) in [0, 1]."""

    vertices: np.ndarray
    faces: np.ndarray
    albedo: np.ndarray


def _block(size, center=(0, 0, 0)):
    return box(extents=size).apply_translation(center)


def _tube(radius, length, center=(0, 0, 0), axis="z", sections=14):
    solid = cylinder(radius=radius, height=length, sections=sections)
    return _turn(solid, axis).apply_translation(center)


def _turn(solid, axis):
    """Turn a solid that points along z so that it points along `axis`."""
    if axis == "x":
        solid.apply_transform(rotation_matrix(np.pi / 2, [0, 1, 0]))
    elif axis == "y":
        solid.apply_transform(rotation_matrix(-np.pi / 2, [1, 0, 0]))
    return solid


def _ring(radius, thickness, center, axis="y"):
    solid = torus(major_radius=radius, minor_radius=thickness, major_sections=14, minor_sections=6)
    return _turn(solid, axis).apply_translation(center)


def _beam(start, end, width):
    """Square bar from `start` to `end`."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    length = np.linalg.norm(end - start)
    solid = box(extents=(width, width, length))
    solid.apply_transform(trimesh.geometry.align_vectors([0, 0, 1], (end - start) / length))
    return solid.apply_translation((start + end) / 2)


def _legs(width, depth, height, thickness):
    """Four legs whose tops lie at z = 0."""
    return [
        _block((thickness, thickness, height), (x * (width - thickness) / 2, y * (depth - thickness) / 2, -height / 2))
        for x in (-0.96, 0.96)
        for y in (-0.96, 0.96)
    ]


def airplane(g: Generator) -> list[Part]:
    length, span, chord = g.uniform(1.6, 2.1), g.uniform(1.5, 2.2), g.uniform(0.35, 0.55)
    radius, wing_y, wing_z = g.uniform(0.16, 0.24), g.uniform(-0.2, 0.1), g.uniform(-0.08, 0.08)
    body = _turn(capsule(height=length, radius=radius, count=[8, 10]), "y").apply_translation((0, 0, 0))
    body.apply_translation(-body.bounds.mean(0))
    back, engine = length / 2, span * g.uniform(0.2, 0.3)
    return [
        (body, 0),
        (_block((span, chord, 0.07), (0, wing_y, wing_z)), 1),
        (_block((span * 0.4, chord * 0.6, 0.06), (0, back, 0.06)), 2),
        (_block((0.06, chord * 0.7, g.uniform(0.4, 0.6)), (0, back, 0.3)), 3),
        (_tube(0.09, 0.4, (-engine, wing_y - 0.15, wing_z - 0.12), "y", 8), 4),
        (_tube(0.09, 0.4, (engine, wing_y - 0.15, wing_z - 0.12), "y", 8), 4),
    ]


def bed(g: Generator) -> list[Part]:
    width, length, height = g.uniform(0.9, 1.5), g.uniform(1.7, 2.1), g.uniform(0.15, 0.3)
    head, quilt = g.uniform(0.6, 1.0), g.uniform(0.45, 0.7) * length
    return [
        (_block((width, length, height)), 0),
        (_block((width * 0.95, length * 0.96, 0.2), (0, 0, height / 2 + 0.09)), 1),
        (_block((width * 1.06, 0.12, head), (0, length / 2 + 0.03, head / 2 - height / 2)), 2),
        (_block((width * 1.02, quilt, 0.22), (0, -(length - quilt) / 2 + 0.03, height / 2 + 0.11)), 3),
        (_block((width * 0.4, 0.3, 0.14), (-width * 0.23, length / 2 - 0.25, height / 2 + 0.24)), 4),
        *((leg, 5) for leg in _legs(width, length, height / 2 + g.uniform(0.15, 0.35), 0.13)),
    ]


def boat(g: Generator) -> list[Part]:
    length, width, height = g.uniform(1.3, 1.7), g.uniform(0.75, 1.05), g.uniform(0.35, 0.5)
    mast, sail = g.uniform(0.9, 1.3), g.uniform(0.65, 0.85)
    # hull: a block whose deck is longer than its keel, closed by a pointed bow at -y
    deck, keel, bow = width / 2, width * 0.3, -length / 2 - g.uniform(0.4, 0.6)
    hull = trimesh.convex.convex_hull(
        [(x * deck, y, height) for x in (-1, 1) for y in (-length / 2, length / 2)]
        + [(x * keel, y * 0.85, 0) for x in (-1, 1) for y in (-length / 2, length / 2)]
        + [(0, bow, height * 1.1)]
    )
    corners = np.array([(0, 0, height + 0.25), (0, sail, height + 0.25), (0, 0, height + mast * 0.95)], float)
    cloth = trimesh.convex.convex_hull(np.concatenate([corners - (0.05, 0, 0), corners + (0.05, 0, 0)]))
    return [
        (hull, 0),
        (_block((0.1, 0.1, mast), (0, -0.05, height + mast / 2)), 1),
        (cloth, 2),
        (_block((width * 0.6, length * 0.25, 0.22), (0, -length * 0.28, height + 0.1)), 3),
        (_block((0.22, 0.4, 0.2), (width * 0.38, length * 0.25, height + 0.08)), 4),
    ]


def bottle(g: Generator) -> list[Part]:
    radius, height, neck = g.uniform(0.32, 0.5), g.uniform(0.9, 1.4), g.uniform(0.1, 0.16)
    shoulder = g.uniform(0.3, 0.5)
    grip, reach = height * g.uniform(0.4, 0.6), radius + g.uniform(0.22, 0.34)
    slope = cone(radius=radius * 0.99, height=shoulder * 1.6, sections=14)
    return [
        (_tube(radius, height), 0),
        (slope.apply_translation((0, 0, height / 2 - 0.01)), 0),
        (_tube(neck, shoulder + 0.2, (0, 0, height / 2 + shoulder / 2 + 0.1)), 1),
        (_tube(neck * 1.4, 0.14, (0, 0, height / 2 + shoulder + 0.2)), 2),
        (_block((radius * 1.1, 0.12, height * g.uniform(0.35, 0.55)), (0, -radius * 0.95, 0)), 3),
        (_block((0.12, 0.14, grip), (reach, 0, 0.05)), 4),
        (_block((reach, 0.13, 0.12), (reach / 2, 0, grip / 2)), 4),
        (_block((reach, 0.13, 0.12), (reach / 2, 0, 0.1 - grip / 2)), 4),
    ]


def car(g: Generator) -> list[Part]:
    length, width, height = g.uniform(1.7, 2.2), g.uniform(0.75, 1.0), g.uniform(0.28, 0.42)
    cabin, wheel, shift = length * g.uniform(0.38, 0.55), g.uniform(0.19, 0.26), g.uniform(0.05, 0.25)
    roof = g.uniform(0.26, 0.42)
    corners = [
        (x * width * (0.45 if z else 0.49), shift + y * cabin * (0.36 if z else 0.55), height / 2 - 0.02 + z * roof)
        for x in (-1, 1)
        for y in (-1, 1)
        for z in (0, 1)
    ]
    return [
        (_block((width, length, height)), 0),
        (trimesh.convex.convex_hull(corners), 1),
        (_block((width * 0.84, 0.08, height * 0.4), (0, -length / 2, 0.02)), 2),
        (_block((width * 0.9, 0.08, height * 0.3), (0, length / 2, 0.06)), 3),
        *(
            (_tube(wheel, 0.14, (x * width / 2, y * length * 0.31, -height / 2), "x", 12), 4)
            for x in (-1, 1)
            for y in (-1, 1)
        ),
    ]


def chair(g: Generator) -> list[Part]:
    width, depth, height, back = g.uniform(0.7, 1), g.uniform(0.7, 1), g.uniform(0.5, 0.9), g.uniform(0.7, 1.2)
    thickness = g.uniform(0.08, 0.14)
    arm = [(_block((0.1, depth * 0.8, 0.1), (width / 2, -0.02, back * 0.38)), 3)] if g.uniform() < 0.5 else []
    post = [(_block((0.08, 0.08, back * 0.38), (width / 2, -depth * 0.3, back * 0.19)), 3)] if arm else []
    return [
        (_block((width, depth, 0.14), (0, 0, 0.05)), 0),
        (_block((width * 0.97, 0.12, back), (0, depth / 2 - 0.05, back / 2 + 0.1)), 1),
        *((leg, 2) for leg in _legs(width, depth, height, thickness)),
        *arm,
        *post,
    ]


def guitar(g: Generator) -> list[Part]:
    low, high, depth = g.uniform(0.48, 0.6), g.uniform(0.36, 0.45), g.uniform(0.24, 0.34)
    gap, neck = g.uniform(0.5, 0.6), g.uniform(0.7, 1.0)
    top = gap + high + neck
    return [
        (_tube(low, depth, (0, 0, 0), "y", 18), 0),
        (_tube(high, depth * 0.97, (0, 0, gap), "y", 18), 0),
        (_tube(high * 0.45, 0.06, (0, -depth / 2, gap * 0.6), "y", 12), 1),
        (_block((0.18, 0.14, neck + high), (0, -depth / 2, gap + (high + neck) / 2)), 2),
        (_block((0.28, 0.1, 0.3), (0, -depth / 2 + 0.03, top + 0.1)), 3),
        (_block((low * 0.9, 0.08, 0.12), (0, -depth / 2, -low * 0.4)), 4),
        (_block((0.22, 0.16, 0.16), (low * 0.8, 0, -low * 0.72)), 5),
    ]


def lamp(g: Generator) -> list[Part]:
    height, foot, reach = g.uniform(0.9, 1.2), g.uniform(0.4, 0.55), g.uniform(0.5, 0.75)
    shade, rise = g.uniform(0.38, 0.5), g.uniform(0.0, 0.3)
    return [
        (_tube(foot, 0.14), 0),
        (_block((0.16, 0.22, 0.16), (-foot * 0.5, -foot * 0.4, 0.1)), 4),
        (_tube(0.09, height, (0, 0.1, height / 2), sections=8), 1),
        (_beam((0, 0.1, height), (0, -reach, height + rise), 0.16), 2),
        (cone(radius=shade, height=shade * 1.5, sections=14).apply_translation((0, -reach, height + rise - shade)), 3),
    ]


def mug(g: Generator) -> list[Part]:
    radius, height = g.uniform(0.45, 0.65), g.uniform(0.8, 1.2)
    wall, grip = g.uniform(0.06, 0.1), g.uniform(0.26, 0.34) * height
    outside = trimesh.creation.annulus(r_min=radius - wall, r_max=radius, height=height, sections=18)
    spout = cone(radius=0.2, height=0.55, sections=10)
    spout.apply_transform(rotation_matrix(np.pi / 3, [1, 0, 0])).apply_translation((0, -radius * 0.85, height * 0.2))
    return [
        (outside, 0),
        (_tube(radius - wall / 2, 0.1, (0, 0, -height / 2 + 0.04), sections=18), 0),
        (_tube(radius - wall / 2, 0.05, (0, 0, height * 0.3), sections=18), 1),
        (_ring(grip, 0.085, (radius + grip * 0.55, 0, 0)), 2),
        (spout, 3),
        (_tube(radius * 1.03, 0.12, (0, 0, -height * 0.3), sections=18), 4),
    ]


def sofa(g: Generator) -> list[Part]:
    width, depth, seat = g.uniform(1.5, 2.1), g.uniform(0.75, 1.0), g.uniform(0.3, 0.42)
    back, arm = g.uniform(0.75, 1.05), g.uniform(0.18, 0.28)
    wing = g.uniform(0.5, 0.8)  # one end is a chaise longue
    return [
        (_block((width, depth, seat)), 0),
        (_block((width * 0.99, 0.24, back), (0, depth / 2 - 0.02, back / 2 - seat / 2 + 0.02)), 1),
        (_block((arm, depth * 1.02, seat + 0.3), (-width / 2, 0, 0.13)), 2),
        (_block((width * 0.36, wing, seat * 0.97), (width * 0.31, -depth / 2 - wing / 2 + 0.02, 0)), 3),
        (_block((width * 0.4, depth * 0.6, 0.12), (-width * 0.2, -0.1, seat / 2 + 0.05)), 4),
    ]


def table(g: Generator) -> list[Part]:
    width, depth, height = g.uniform(1.3, 1.9), g.uniform(0.8, 1.2), g.uniform(0.7, 1.0)
    drawer = g.uniform(0.3, 0.42)
    return [
        (_block((width, depth, 0.12), (0, 0, 0.05)), 0),
        *((leg, 1) for leg in _legs(width, depth, height, g.uniform(0.1, 0.16))),
        (_block((width * drawer, depth * 0.86, height * 0.45), (width * 0.26, 0, -height * 0.225 + 0.01)), 2),
        (_block((width * drawer * 0.8, 0.06, height * 0.32), (width * 0.26, -depth * 0.43, -height * 0.21)), 3),
        (_block((0.3, 0.24, 0.16), (-width * 0.28, depth * 0.22, 0.17)), 4),
    ]


def tower(g: Generator) -> list[Part]:
    side, floors, bottom, parts = g.uniform(0.95, 1.25), int(g.integers(2, 4)), 0.0, []
    for floor in range(floors):
        height = g.uniform(0.4, 0.6)
        shift = side * g.uniform(0.02, 0.12)
        parts.append((_block((side, side * 0.9, height), (shift, shift, bottom + height / 2)), floor % 2))
        bottom, side = bottom + height - 0.01, side * g.uniform(0.68, 0.85)
    return [
        *parts,
        (cone(radius=side * 0.7, height=0.5, sections=4).apply_translation((side * 0.1, side * 0.1, bottom)), 2),
        (_block((0.36, 0.3, 0.36), (0, -0.4 * parts[0][0].extents[0] - 0.1, 0.18)), 3),
        (_block((0.4, 0.36, 0.75), (-parts[0][0].extents[0] * 0.52, 0.1, 0.375)), 4),
    ]


FAMILIES = {f.__name__: f for f in (airplane, bed, boat, bottle, car, chair, guitar, lamp, mug, sofa, table, tower)}


def normalize(vertices: np.ndarray) -> np.ndarray:
    """Center vertices (V, 3) on their bounding box and scale the farthest one to RADIUS."""
    vertices = vertices - (vertices.min(0) + vertices.max(0)) / 2
    return vertices * (RADIUS / np.linalg.norm(vertices, axis=1).max())


def parametric(family: str, generator: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one object of a family.

    Returns vertices float64 (V, 3), normalized; faces int64 (F, 3); part int64 (F,), the palette index of each face.
    """
    parts = FAMILIES[family](generator)
    solid = trimesh.util.concatenate([mesh for mesh, _ in parts])
    part = np.concatenate([np.full(len(mesh.faces), index) for mesh, index in parts])
    return normalize(np.asarray(solid.vertices)), np.asarray(solid.faces), part


def family_palette(family: str) -> np.ndarray:
    """Fixed colors of a family's parts, float64 (PARTS, 3): hues a golden angle apart, alternately pale and deep."""
    golden = 0.6180339887
    part = np.arange(PARTS)
    hue = (0.13 + golden * part + list(FAMILIES).index(family) / len(FAMILIES)) % 1
    return hsv_to_rgb(hue, np.where(part % 2, 0.25, 0.5), np.where(part % 3 == 1, 1.0, 0.8))


def hsv_to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """HSV in [0, 1], any broadcastable shapes (...), to RGB in [0, 1], shape (..., 3); the hue wraps around."""
    sector = (np.asarray(hue)[..., None] * 6 + np.array([0.0, 4.0, 2.0])) % 6
    ramp = np.clip(np.abs(sector - 3) - 1, 0, 1)
    return np.asarray(value)[..., None] * (1 - np.asarray(saturation)[..., None] * (1 - ramp))


def colored(vertices, faces, part, family: str, palette: str, colors: np.ndarray) -> Mesh:
    """A parametric object with the colors of its parts.

    `colors` are the object's pinned uniforms (PARTS, 3). palette "family": the family's fixed colors, all scaled by
    one brightness in [.85, 1.1]; "object": colors of its own, uniform in [.2, 1].
    """
    if palette == "family":
        colors_of_parts = family_palette(family) * (0.85 + 0.25 * colors[0, 0])
    elif palette == "object":
        colors_of_parts = 0.2 + 0.8 * colors
    else:
        raise ValueError(f'data.palette is "{palette}", but only "family" and "object" are known')
    return Mesh(vertices, faces, np.clip(colors_of_parts[part], 0, 1))


def variant(vertices, faces, albedo, stretch: np.ndarray, tint: np.ndarray) -> Mesh:
    """A shape variant of a real mesh: stretched per axis (3,), tinted per channel (3,), then normalized.

    `albedo` (F, 3) is clipped to at least DARKEST first, so that black materials still show the light.
    """
    return Mesh(normalize(vertices * stretch), faces, np.clip(np.clip(albedo, DARKEST, 1) * tint, 0, 1))
