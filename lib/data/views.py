"""Views and actions: the prepared data set, and quaternions.

Quaternions are scalar last (x, y, z, w). Individual ones are canonical (w >= 0).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.data.arrays import SPLITS, load_npz

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


def difference(t1: Tensor, t2: Tensor) -> Tensor:
    """Actions (..., A) between targets (..., A) that add up, such as a gender of 0 or 1, or `lib.data.augment`'s."""
    return t2 - t1


#: The kinds of action that a file of views names.
ACTIONS = {"3diebench": action, "difference": difference}


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

    def __getstate__(self) -> dict:
        # As arrays, always the same: joblib hands those to other processes as memory maps, one for all tasks.
        if "_state" not in self.__dict__:
            state = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in self.__dict__.items()}
            self.__dict__["_state"] = state
        return self.__dict__["_state"]

    def __setstate__(self, state: dict) -> None:
        tensors = ("images", "targets", "latents", "labels")
        self.__dict__.update({k: torch.from_numpy(v) if k in tensors else v for k, v in state.items()})

    def objects(self, split: str, source: str | None = None) -> Tensor:
        """Ids int64 (n,) of the objects in a split, of one source or of all."""
        if split not in SPLITS:
            raise ValueError(f'there is no split "{split}"; the splits are {", ".join(SPLITS)}')
        chosen = self.split == split
        if source is not None:
            chosen &= self.source == source
        return torch.from_numpy(np.flatnonzero(chosen))

    @cached_property
    def digest(self) -> str:
        """The sha256 of all that a training or an evaluation can see, actions between rows one after another included.

        Views with equal digests give equal results; changing an image, a label, the split or a group changes it.
        """
        digest = hashlib.sha256()
        seen = (self.images, self.targets, self.latents, self.labels, self.action(self.targets[:-1], self.targets[1:]))
        for values in (tensor.numpy() for tensor in seen):
            digest.update(f"{values.dtype} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values))
        groups = {name: [place.start, place.stop] for name, place in self.groups.items()}
        names = [self.split.tolist(), self.source.tolist(), self.mesh.tolist()]
        digest.update(json.dumps([list(self.classes), *names, self.views, groups]).encode())
        return digest.hexdigest()


def load_views(folder: Path | str = "build/data/3diebench") -> Views:
    """Load images.npy and views.npz of `folder`: renders, the real 3DIEBench, or what `save_views` wrote.

    Without an `action` in views.npz the latents are the seven of 3DIEBench, and targets and actions follow from them;
    with `action` "difference" the latents are the targets, and `groups` and `widths` say where each group lies.

    Raises FileNotFoundError or ValueError, one sentence with the file's name, where one is missing, truncated, of the
    wrong type or shape, or where the two disagree.
    """
    images_file, views_file = Path(folder) / "images.npy", Path(folder) / "views.npz"
    cure = "prepare the data again (`dvc repro`)"
    if not images_file.is_file():
        raise FileNotFoundError(f"{images_file} is missing; {cure}")
    arrays = load_npz(views_file, cure)
    try:
        images = np.load(images_file, mmap_mode="c")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{images_file} cannot be read ({error}), it may be truncated; {cure}") from error
    kind = str(arrays.pop("action", "3diebench"))
    expected = {"latents", "labels", "classes", "split", "source", "mesh", "views"}
    expected |= {"groups", "widths"} if kind == "difference" else set()
    if set(arrays) != expected or kind not in ACTIONS:
        raise ValueError(f"{views_file} has the arrays {sorted(arrays)}, but {sorted(expected)} are expected")
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"{images_file} is {images.dtype} {images.shape}, but uint8 (N, H, W, 3) is expected")
    latents, views, count = arrays["latents"], int(arrays["views"]), len(arrays["labels"])
    width = int(arrays["widths"].sum()) if kind == "difference" else len(LATENTS)
    if latents.shape != (len(images), width) or latents.dtype != np.float32:
        raise ValueError(
            f"{images_file} has {len(images)} images, but the latents of {views_file} are {latents.dtype} "
            f"{latents.shape}, not float32 ({len(images)}, {width}); {cure}"
        )
    if count * views != len(images):
        raise ValueError(
            f"{views_file} lists {count} objects of {views} views, but {images_file} has {len(images)} images"
        )
    for name in ("labels", "split", "source", "mesh"):
        if arrays[name].shape != (count,):
            raise ValueError(f"{views_file} has {name} of shape {arrays[name].shape}, but ({count},) is expected")
    latents, groups = torch.from_numpy(latents), GROUPS
    if kind == "difference":
        targets, stops = latents, arrays["widths"].cumsum().tolist()
        groups = dict(zip(arrays["groups"].tolist(), map(slice, [0, *stops], stops)))
    else:
        targets = torch.cat([quaternion(latents[:, :3].double()).float(), latents[:, [3, 6]]], 1)
    return Views(
        images=torch.from_numpy(images),
        targets=targets,
        latents=latents,
        labels=torch.from_numpy(arrays["labels"]),
        classes=tuple(arrays["classes"].tolist()),
        split=arrays["split"],
        source=arrays["source"],
        mesh=arrays["mesh"],
        views=views,
        groups=groups,
        action=ACTIONS[kind],
    )


def save_views(views: Views, folder: Path | str) -> None:
    """Write images.npy and views.npz of views whose action is the `difference` of targets, for `load_views`.

    `groups` must lie one after another in an action. Both files appear only once complete.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    told = {name: getattr(views, name) for name in ("classes", "split", "source", "mesh", "views")}
    groups = {"groups": list(views.groups), "widths": [place.stop - place.start for place in views.groups.values()]}
    with open(folder / "images.partial", "wb") as file:
        np.save(file, views.images.numpy())
    with open(folder / "views.partial", "wb") as file:
        arrays = {"latents": views.targets.numpy(), "labels": views.labels.numpy(), "action": "difference"}
        np.savez(file, **arrays, **groups, **told)
    (folder / "images.partial").replace(folder / "images.npy")
    (folder / "views.partial").replace(folder / "views.npz")
