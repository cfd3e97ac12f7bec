"""The rendered miniature of 3DIEBench: from the pinned meshes and scenes in data/ to build/data."""

from __future__ import annotations

import hashlib
from csv import DictReader
from functools import cache, partial
from pathlib import Path

import numpy as np

from lib.data.arrays import SPLITS, load_npz, write_dataset
from lib.miniature import objects
from lib.miniature.render import latents_from_unit, render

CURE = "`dvc pull` brings the pinned data back"


def furniture_groups(folder: Path) -> list[str]:
    """One key per real mesh, in the catalogue's order; meshes from one Blend Swap scene share theirs."""
    path = folder / "furniture.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {CURE}")
    with open(path, newline="", encoding="utf-8") as file:
        return [
            f"blend-{row['blend_swap_id']}" if row["blend_swap_id"] else f"mesh-{row['index']}"
            for row in DictReader(file)
        ]


def split_names(count: int, fractions) -> list[str]:
    """Splits of `count` items in order: train, validation, test; of three items or more, none is empty."""
    shares = [getattr(fractions, name) for name in SPLITS]
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"data.split must be three positive fractions that sum to 1, not {shares}")
    if count < 3:
        return ["train"] * count
    test = min(max(1, round(shares[2] * count)), count - 2)
    validation = min(max(1, round(shares[1] * count)), count - 1 - test)
    return ["train"] * (count - validation - test) + ["validation"] * validation + ["test"] * test


def split_parametric(families: np.ndarray, fractions) -> np.ndarray:
    """Split of each parametric object (O,), stratified by family; the objects are drawn independently, so by order."""
    split = np.empty(len(families), "<U10")
    for family in np.unique(families):
        members = np.flatnonzero(families == family)
        split[members] = split_names(len(members), fractions)
    return split


def split_real(types: np.ndarray, groups: list[str], fractions) -> np.ndarray:
    """Split of each real mesh (M,), stratified by type; meshes of one group stay together.

    A group counts for the type of its first mesh. The order is that of a hash, hence the same on every machine.
    """
    first: dict[str, int] = {}
    for index, group in enumerate(groups):
        first.setdefault(group, index)
    chosen = {}
    for kind in np.unique(types):
        names = sorted(
            (group for group, index in first.items() if types[index] == kind),
            key=lambda group: hashlib.sha256(group.encode()).hexdigest(),
        )
        chosen.update(zip(names, split_names(len(names), fractions), strict=True))
    return np.array([chosen[group] for group in groups])


class Pinned:
    """The pinned meshes and scenes of the folder `data/` (made by lib.miniature.pin), colored and placed by params.

    FileNotFoundError or ValueError names a file that is missing or cannot be read.
    """

    def __init__(self, folder: Path | str = "data"):
        folder = Path(folder)
        self.parametric = load_npz(folder / "objects" / "parametric.npz", CURE)
        self.furniture = load_npz(folder / "furniture" / "meshes.npz", CURE)
        self.scenes = load_npz(folder / "scenes" / "unit-latents.npz", CURE)
        self.groups = furniture_groups(folder / "furniture")

    def parametric_mesh(self, index: int, palette: str) -> objects.Mesh:
        """Parametric object `index`, with the palette named in params."""
        vertices, faces = _owned(self.parametric, index)
        start, end = self.parametric["face_offset"][index : index + 2]
        family = str(self.parametric["families"][self.parametric["family"][index]])
        colors = _unit(self.scenes["parametric_colors"][index])
        return objects.colored(vertices, faces, self.parametric["part"][start:end], family, palette, colors)

    def real_mesh(self, index: int, variant: int) -> objects.Mesh:
        """Shape variant `variant` of real mesh `index`; 0 is the mesh itself."""
        vertices, faces = _owned(self.furniture, index)
        start, end = self.furniture["face_offset"][index : index + 2]
        albedo = self.furniture["face_colors"][start:end] / 255
        stretch, tint = self.scenes["real_stretch"][index, variant], self.scenes["real_tint"][index, variant]
        return objects.variant(vertices, faces, albedo, stretch, tint)

    def parametric_latents(self, index: int, data) -> np.ndarray:
        """Latents (views, 7) of a parametric object."""
        return latents_from_unit(_unit(self.scenes["parametric"][index, : data.views]), data)

    def real_latents(self, index: int, variant: int, data) -> np.ndarray:
        """Latents (views, 7) of a variant of a real mesh."""
        return latents_from_unit(_unit(self.scenes["real"][index, variant, : data.views]), data)


def _unit(quantized: np.ndarray) -> np.ndarray:
    """uint16 to the middle of its cell in (0, 1)."""
    return (quantized + 0.5) / 65536


def _owned(arrays: dict, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float64 (V, 3) and faces int64 (F, 3) of mesh `index`."""
    first, last = arrays["vertex_offset"][index : index + 2]
    start, end = arrays["face_offset"][index : index + 2]
    return arrays["vertices"][first:last].astype(np.float64), arrays["faces"][start:end].astype(np.int64)


_pinned = cache(Pinned)  # each worker reads the meshes once


def _views(job: tuple, folder: Path | str, data) -> tuple[np.ndarray, np.ndarray]:
    """Images and latents of one job: ("parametric", index) or ("real", index, variant)."""
    pinned, (source, *which) = _pinned(folder), job
    if source == "parametric":
        mesh, latents = pinned.parametric_mesh(*which, data.palette), pinned.parametric_latents(*which, data)
    else:
        mesh, latents = pinned.real_mesh(*which), pinned.real_latents(*which, data)
    return render(mesh, latents, data), latents


def render_miniature(
    data, folder: Path | str = "data", out: Path | str = "build/data", workers: int | None = None
) -> None:
    """Render every view that params ask for: parametric objects first, then the variants of the real meshes.

    `data` has the fields of lib.pipeline.settings.Data. Parametric families and real types form one list of classes, so
    that a real and a parametric chair share theirs. All variants of a mesh, and all meshes of one Blend Swap scene, are
    in one split. Raises ValueError if params ask for more than is pinned.
    """
    pinned = Pinned(folder)
    pinned_counts = {
        "parametric_objects": (0, len(pinned.scenes["parametric"])),
        "real_variants": (0, pinned.scenes["real"].shape[1]),
        "views": (1, pinned.scenes["real"].shape[2]),
    }
    for name, (least, most) in pinned_counts.items():
        if not least <= getattr(data, name) <= most:
            raise ValueError(f"data.{name} is {getattr(data, name)}, but {folder} has scenes for {least} to {most}")
    types = pinned.furniture["type"]
    unknown = set(data.real_types) - set(types)
    if unknown:
        raise ValueError(f"data.real_types has {sorted(unknown)}, but the furniture has only {sorted(set(types))}")

    families = pinned.parametric["families"][pinned.parametric["family"][: data.parametric_objects]]
    real = np.flatnonzero(np.isin(types, list(data.real_types)))
    real_split = split_real(types[real], [pinned.groups[index] for index in real], data.split)
    variants = range(data.real_variants)
    if not len(families) + len(real) * len(variants):
        raise ValueError("data.parametric_objects is 0 and no real mesh is chosen: there is nothing to render")

    jobs = [("parametric", index) for index in range(len(families))]
    jobs += [("real", index, variant) for index in real for variant in variants]
    repeat = len(variants)
    write_dataset(
        out,
        partial(_views, folder=folder, data=data),
        jobs,
        image_size=data.image_size,
        views=data.views,
        label=[*families.tolist(), *np.repeat(types[real], repeat).tolist()],
        split=[*split_parametric(families, data.split).tolist(), *np.repeat(real_split, repeat).tolist()],
        source=["parametric"] * len(families) + ["real"] * (len(real) * repeat),
        mesh=[f"parametric-{index:04d}" for index in range(len(families))]
        + [f"furniture-{index:03d}" for index in np.repeat(real, repeat)],
        workers=workers,
    )
