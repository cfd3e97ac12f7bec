"""Ray-traced views of the miniature, in the spirit of 3DIEBench (SIE, Garrido et al. 2023, section 4 and appendix).

An object stands at the origin above a colored floor under one colored lamp; the camera looks slightly down at it.
A view is given by seven latents, in 3DIEBench's order:
    [rot_x, rot_y, rot_z, floor_hue, light_theta, light_phi, light_hue]
angles in rad (extrinsic xyz Euler angles), hues in [0, 1].
"""

from __future__ import annotations

import numpy as np
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from lib.miniature.objects import RADIUS, Mesh, hsv_to_rgb

FLOOR = -1.13 * RADIUS  # height of the floor; no turned object touches it
AMBIENT, DIFFUSE, SHADOW = 0.4, 0.7, 0.5


def latents_from_unit(unit: np.ndarray, data) -> np.ndarray:
    """Map unit uniforms (..., 7) to latents (..., 7) by the ranges in params (rotation_range, light_theta_max)."""
    low = np.array([-data.rotation_range] * 3 + [0.0] * 4)
    high = np.array([data.rotation_range] * 3 + [1.0, data.light_theta_max, 2 * np.pi, 1.0])
    return low + unit * (high - low)


def rotation_matrix(euler: np.ndarray) -> np.ndarray:
    """Extrinsic xyz Euler angles (3,) in rad to a rotation matrix (3, 3): Rz @ Ry @ Rx."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(euler), np.sin(euler)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def camera(data) -> tuple[np.ndarray, np.ndarray]:
    """Camera position (3,) and unit ray directions (S*S, 3), row by row, S = image_size * supersample."""
    elevation = data.camera_elevation
    position = data.camera_distance * np.array([0, -np.cos(elevation), np.sin(elevation)])
    forward = -position / np.linalg.norm(position)
    right = np.array([1.0, 0, 0])
    up = np.cross(right, forward)
    side = data.image_size * data.supersample
    grid = ((np.arange(side) + 0.5) / side * 2 - 1) * np.tan(data.field_of_view / 2)
    rays = forward + grid[None, :, None] * right - grid[:, None, None] * up
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    return position, rays.reshape(-1, 3)


def render(mesh: Mesh, latents: np.ndarray, data) -> np.ndarray:
    """Render the views of one object.

    latents (V, 7) in rad and [0, 1]; returns uint8 (V, image_size, image_size, 3). The rays are turned into the
    object's frame, so that its bounding volume hierarchy is built once for all views.
    """
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    first_hit = RayMeshIntersector(solid).intersects_first
    # degenerate triangles get a zero normal: they are never hit, but must keep their place
    corner = mesh.vertices[mesh.faces]
    normals = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)

    position, rays = camera(data)
    distance = (FLOOR - position[2]) / np.where(np.abs(rays[:, 2]) < 1e-9, -1e-9, rays[:, 2])
    on_floor = distance > 0
    floor_points = position + rays * distance[:, None]
    # the object lies in its bounding sphere: other camera rays cannot hit it
    toward = np.flatnonzero(np.linalg.norm(np.cross(rays, position), axis=1) < 1.001 * RADIUS)

    floor_color = hsv_to_rgb(latents[:, 3], data.floor_saturation, 0.9)
    light_color = hsv_to_rgb(latents[:, 6], data.light_saturation, 1.0)
    theta, phi = latents[:, 4], latents[:, 5]
    light = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], 1)

    images = np.empty((len(latents), data.image_size, data.image_size, 3), np.uint8)
    for view, euler in enumerate(latents[:, :3]):
        to_world = rotation_matrix(euler)
        rays_object, light_object = rays[toward] @ to_world, light[view] @ to_world
        face = first_hit(np.broadcast_to(position @ to_world, rays_object.shape), rays_object)
        hit = face >= 0
        pixel, face, rays_hit = toward[hit], face[hit], rays_object[hit]

        brightness = 0.35 + 0.65 * light[view, 2]
        color = np.where(on_floor[:, None], brightness, SHADOW) * (floor_color[view] * light_color[view])
        seen_floor = on_floor.copy()
        seen_floor[pixel] = False
        # a floor point can lie in the shadow only if its ray to the lamp passes through the bounding sphere
        offset = np.cross(floor_points, light[view])
        seen_floor = np.flatnonzero(seen_floor & ((offset * offset).sum(1) < RADIUS**2))
        if len(seen_floor):
            points = floor_points[seen_floor] @ to_world
            blocked = first_hit(points, np.broadcast_to(light_object, points.shape)) >= 0
            color[seen_floor[blocked]] *= SHADOW

        # real meshes have no consistent winding: shade the side that faces the camera
        normal = normals[face]
        normal = np.where((normal * rays_hit).sum(1, keepdims=True) > 0, -normal, normal)
        shade = AMBIENT + DIFFUSE * np.clip(normal @ light_object, 0, 1)
        color[pixel] = mesh.albedo[face] * light_color[view] * shade[:, None]

        side, block = data.image_size, data.supersample
        color = np.clip(color, 0, 1).reshape(side, block, side, block, 3).mean((1, 3))
        images[view] = np.round(color * 255)
    return images
