"""Views and actions: the prepared data set, quaternions, and the real 3DIEBench's folder layout.

Quaternions are scalar last (x, y, z, w). Individual ones are canonical (w >= 0).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lib.data.arrays import SPLITS, load_npz, write_dataset

LATENTS = ("rot_x", "rot_y", "rot_z", "floor_hue", "light_theta", "light_phi", "light_hue")
GROUPS = {"rotation": slice(0, 4), "color": slice(4, 6)}  # where each group lies in an action (..., 6)


def multiply(first: Tensor, second: Tensor) -> Tensor:
    """Hamilton product of quaternions, both (..., 4): as rotations, `second` is applied first."""
    v1, w1, v2, w2 = first[..., :3], first[..., 3:], second[..., :3], second[..., 3:]
    vector = w1 * v2 + w2 * v1 + torch.linalg.cross(v1, v2)
    return torch.cat([vector, w1 * w2 - (v1 * v2).sum(-1, keepdim=True)], -1)


def quaternion(euler: Tensor) -> Tensor:
    """Canonical unit quaternions (..., 4) of extrinsic xyz Euler angles (..., 3) in rad."""
    half = euler / 2
    about_x, about_y, about_z = torch.cat([half.sin().diag_embed(), half.cos()[..., None]], -1).unbind(-2)
    product = multiply(about_z, multiply(about_y, about_x))
    return torch.where(product[..., 3:] < 0, -product, product)


def relative_rotation(q1: Tensor, q2: Tensor) -> Tensor:
    """conj(q1) q2, shapes (..., 4): the action that takes pose q1 to pose q2, since q1 (conj(q1) q2) = q2.

    Its sign is left as the product gives it, smooth in both arguments. So is the published targets' sign: their
    chance floor of .229 is that of this product, made canonical it would be .244.
    """
    return multiply(q1 * q1.new_tensor([-1, -1, -1, 1]), q2)


def action(t1: Tensor, t2: Tensor) -> Tensor:
    """Actions (..., 6) between targets (..., 6): relative rotation (4), then floor and light hue differences (2).

    Hues are subtracted raw, in [-1, 1], not around the color circle (as in the paper's released code).
    """
    return torch.cat([relative_rotation(t1[..., :4], t2[..., :4]), t2[..., 4:] - t1[..., 4:]], -1)


@dataclass(frozen=True)
class Views:
    """A prepared data set of O objects with `views` views each; N = O * views, row = object * views + view."""

    images: Tensor  # uint8 (N, H, W, 3), memory-mapped copy-on-write
    targets: Tensor  # float32 (N, 6): canonical quaternion, floor hue, light hue
    latents: Tensor  # float32 (N, 7), in the order of LATENTS, rad and [0, 1]
    labels: Tensor  # int64 (O,), index into classes
    classes: tuple[str, ...]
    split: np.ndarray  # str (O,): train, validation, test
    source: np.ndarray  # str (O,): parametric (generated) or real (modelled by people)
    mesh: np.ndarray  # str (O,): shared by the shape variants of one mesh
    views: int
    groups: Mapping[str, slice] = field(default_factory=lambda: GROUPS)  # where each group lies in an action
    action: Callable[[Tensor, Tensor], Tensor] = action  # from targets (..., A) to targets (..., A)

    def objects(self, split: str, source: str | None = None) -> Tensor:
        """Ids int64 (n,) of the objects in a split, of one source or of all."""
        if split not in SPLITS:
            raise ValueError(f'there is no split "{split}"; the splits are {", ".join(SPLITS)}')
        chosen = self.split == split
        if source is not None:
            chosen &= self.source == source
        return torch.from_numpy(np.flatnonzero(chosen))


def load_views(folder: Path | str = "build/data") -> Views:
    """Load images.npy and views.npz of `folder`.

    Raises FileNotFoundError or ValueError, one sentence with the file's name, where one is missing, truncated, of the
    wrong type or shape, or where the two disagree.
    """
    images_file, views_file = Path(folder) / "images.npy", Path(folder) / "views.npz"
    cure = "prepare the data again (notebooks/01_data.ipynb, `dvc repro data`)"
    if not images_file.is_file():
        raise FileNotFoundError(f"{images_file} is missing; {cure}")
    arrays = load_npz(views_file, cure)
    try:
        images = np.load(images_file, mmap_mode="c")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{images_file} cannot be read ({error}), it may be truncated; {cure}") from error
    expected = {"latents", "labels", "classes", "split", "source", "type", "mesh", "views"}
    if set(arrays) != expected:
        raise ValueError(f"{views_file} has the arrays {sorted(arrays)}, but {sorted(expected)} are expected")
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"{images_file} is {images.dtype} {images.shape}, but uint8 (N, H, W, 3) is expected")
    latents, views, count = arrays["latents"], int(arrays["views"]), len(arrays["labels"])
    if latents.shape != (len(images), 7) or latents.dtype != np.float32:
        raise ValueError(
            f"{images_file} has {len(images)} images, but the latents of {views_file} are {latents.dtype} "
            f"{latents.shape}, not float32 ({len(images)}, 7); {cure}"
        )
    if count * views != len(images):
        raise ValueError(
            f"{views_file} lists {count} objects of {views} views, but {images_file} has {len(images)} images"
        )
    for name in ("labels", "split", "source", "type", "mesh"):
        if arrays[name].shape != (count,):
            raise ValueError(f"{views_file} has {name} of shape {arrays[name].shape}, but ({count},) is expected")
    latents = torch.from_numpy(latents)
    return Views(
        images=torch.from_numpy(images),
        targets=torch.cat([quaternion(latents[:, :3].double()).float(), latents[:, [3, 6]]], 1),
        latents=latents,
        labels=torch.from_numpy(arrays["labels"]),
        classes=tuple(arrays["classes"].tolist()),
        split=arrays["split"],
        source=arrays["source"],
        mesh=arrays["mesh"],
        views=views,
    )


def _object_list(root: Path, part: str) -> list[str]:
    """Entries synset/object of the split list <part>_images.npy or .txt in `root`."""
    for path in (root / f"{part}_images.npy", root / f"{part}_images.txt"):
        if not path.is_file():
            continue
        try:
            lines = np.load(path).tolist() if path.suffix == ".npy" else path.read_text().split()
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} cannot be read as a list of objects ({error}); copy it again") from error
        entries = [str(line).strip("/") for line in lines]
        wrong = [entry for entry in entries if entry.count("/") != 1]
        if wrong:
            raise ValueError(f'{path} has the entry "{wrong[0]}", but /<synset>/<object> is expected')
        return entries
    raise FileNotFoundError(
        f"{root / f'{part}_images.npy'} is missing (a .txt will do, too); 3DIEBench's split lists are in the folder "
        "data of github.com/facebookresearch/SIE"
    )


def _read_object(folder: Path, image_size: int, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (views, image_size, image_size, 3) and latents (views, 7) of one object's folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} is missing, but a split list names it")
    images = np.empty((views, image_size, image_size, 3), np.uint8)
    latents = np.empty((views, 7))
    for view in range(views):
        image_file, latent_file = folder / f"image_{view}.jpg", folder / f"latent_{view}.npy"
        for path in (image_file, latent_file):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing; data.views asks for {views} views of each object")
        try:
            with Image.open(image_file) as image:
                size = (image_size, image_size)
                images[view] = image.convert("RGB").resize(size, Image.Resampling.BILINEAR, reducing_gap=3)
        except OSError as error:
            raise ValueError(f"{image_file} cannot be read ({error}); it may be truncated; get it again") from error
        try:
            latent = np.load(latent_file)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{latent_file} cannot be read ({error}); it may be truncated; get it again") from error
        if latent.shape != (7,):
            raise ValueError(f"{latent_file} has shape {latent.shape}, but the seven latents (7,) are expected")
        latents[view] = latent
    return images, latents


def import_3diebench(
    root: Path | str, out: Path | str, image_size: int, views: int, split, workers: int | None = None
) -> None:
    """Convert the real 3DIEBench to the same two files as the miniature.

    `root` holds <synset>/<object>/image_k.jpg and latent_k.npy, and the official split lists train_images.npy and
    val_images.npy (or .txt), one /<synset>/<object> per entry. 3DIEBench has two parts: the official val becomes
    `test`; `validation` is carved out of the official train by object, in the ratio of split.validation to split.train,
    in the order of a hash. Classes are all synsets in sorted order, as in SIE. Errors name the missing or broken file.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f'the 3DIEBench folder "{root}" is missing; set data.root to where it was unpacked')
    train, test = _object_list(root, "train"), _object_list(root, "val")
    hashed = sorted(train, key=lambda entry: hashlib.sha256(entry.encode()).hexdigest())
    share = split.validation / (split.train + split.validation)
    validation = set(hashed[: round(share * len(hashed))])
    entries = train + test
    write_dataset(
        out,
        partial(_read_object, image_size=image_size, views=views),
        (root / entry for entry in entries),
        image_size=image_size,
        views=views,
        label=[entry.split("/")[0] for entry in entries],
        split=["validation" if entry in validation else "train" for entry in train] + ["test"] * len(test),
        source=["real"] * len(entries),
        mesh=entries,
        workers=workers,
    )
