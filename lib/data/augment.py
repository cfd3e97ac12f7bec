"""Hand-crafted augmentations as actions: crop, blur and color with known parameters (section 4.4, appendix B.3).

A source image is seen in several views. Each view is the source, first cropped, then colored, then blurred, by
parameters that are drawn independently; a combination has two of the three groups and leaves the third out. Parameters
are what a transformation is told; *latents* are the same on a scale on which repeated transformations add up, so that
the action from one view to another is a difference of latents, as it is for the latents of 3DIEBench (appendix B.3):

=====  ====================================  =========================================================================
group  parameters (range)                    latents
=====  ====================================  =========================================================================
crop   top, left, height, width of the box,  offset of the box's center from the image's, down and right, in sides of
       in sides of the image: height times   the image (-0.5 to 0.5); natural logarithm of height and width. The action
       width from ``crop_area`` to 1, height says how far the box moves and by which ratio it grows.
       over width from 1 / ``crop_ratio`` to
       ``crop_ratio``, anywhere inside
blur   standard deviation of the Gaussian,   its square in px^2: variances of Gaussians in a row add up, so the action
       px: 0 (no blur) to ``blur_sigma``     is the variance by which y is blurred more than x (less, where negative)
color  factors of brightness, contrast and   natural logarithms of the three factors, which multiply in a row; the turn
       saturation, 1 / f to f; turn of the   of the hue, which adds up. The action holds three log ratios and one
       hue, turns, -``hue`` to ``hue``       difference; one turn is the whole color circle
=====  ====================================  =========================================================================

The paper leaves open which parameters it told and how; these are ours. Colors are clipped to what a picture can show,
and a crop cuts away, so two views determine their action but an action alone does not always lead from x to y.
"""

from __future__ import annotations

import io
import math
import tarfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from kornia import enhance
from kornia.filters import gaussian_blur2d
from PIL import Image
from torch import Tensor
from torchvision.datasets import CIFAR10
from tqdm import tqdm

from lib.data.arrays import SPLITS
from lib.data.views import Views, difference, load_views

COMBINATIONS = {"crop-blur": ("crop", "blur"), "color-blur": ("color", "blur"), "crop-color": ("crop", "color")}
LATENTS = {
    "crop": ("offset down", "offset right", "log height", "log width"),
    "blur": ("variance",),
    "color": ("log brightness", "log contrast", "log saturation", "hue turn"),
}
SUFFIXES = (".jpg", ".jpeg", ".png")


def crop(images: Tensor, box: Tensor) -> Tensor:
    """The boxes, resized to the whole picture (bilinear); (N, 3, H, W) to the same.

    Args:
        images: (N, 3, H, W) float in [0, 1].
        box: (N, 4) top, left, height, width, in sides of the image; (0, 0, 1, 1) gives the image back.
    """
    top, left, height, width = box.unbind(-1)
    zero = torch.zeros_like(top)
    # Coordinates run from -1 to 1: the box's size is the scale, twice its center's offset the shift.
    theta = torch.stack([width, zero, 2 * left + width - 1, zero, height, 2 * top + height - 1], -1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur, one standard deviation for each image; (N, 3, H, W) to the same.

    Args:
        images: (N, 3, H, W) float.
        sigma: (N, 1) px; 0 gives the image back.
        radius: of the kernel, px, below H and W; three times the largest sigma.
    """
    # A kernel needs some width; this one is 1 in the middle and 0 elsewhere.
    return gaussian_blur2d(images, 2 * radius + 1, sigma.clamp(min=1e-2).expand(-1, 2))


def color(images: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast, saturation, hue in this order, each as torchvision defines it; (N, 3, H, W) to the same.

    Args:
        images: (N, 3, H, W) float in [0, 1].
        factors: (N, 4) brightness, contrast, saturation (factors), hue (turns); (1, 1, 1, 0) gives the image back.
    """
    brightness, contrast, saturation, hue = factors.unbind(-1)
    images = enhance.adjust_brightness_accumulative(images, brightness)
    images = enhance.adjust_contrast_with_mean_subtraction(images, contrast)
    images = enhance.adjust_saturation_with_gray_subtraction(images, saturation)
    return enhance.adjust_hue(images, 2 * math.pi * hue)


def sample(groups: Sequence[str], count: int, spec, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw parameters: group -> (count, parameters of the group), see the table above.

    A crop's area is uniform and its logarithmic ratio too, both before height and width are cut to the image's side;
    the position is uniform among those inside. Sigma and the hue's turn are uniform, the factors' logarithms too.

    Args:
        groups: of crop, blur, color. spec: `lib.pipeline.settings.Augment`. generator: source of randomness.
    """

    def uniform(low: float, high: float, columns: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, columns, generator=generator)

    drawn = {}
    for group in groups:
        if group == "crop":
            area, ratio = uniform(spec.crop_area, 1), uniform(-math.log(spec.crop_ratio), math.log(spec.crop_ratio))
            size = (area * torch.cat([ratio, -ratio], 1).exp()).sqrt().clamp(max=1)
            drawn[group] = torch.cat([(1 - size) * uniform(0, 1, 2), size], 1)
        elif group == "blur":
            drawn[group] = uniform(0, spec.blur_sigma)
        else:
            factors = [uniform(-math.log(f), math.log(f)) for f in (spec.brightness, spec.contrast, spec.saturation)]
            drawn[group] = torch.cat([*(f.exp() for f in factors), uniform(-spec.hue, spec.hue)], 1)
    return drawn


def latents(group: str, parameters: Tensor) -> Tensor:
    """Parameters of a group (N, P) to its latents (N, L), named in `LATENTS`."""
    if group == "crop":
        corner, size = parameters.split(2, 1)
        return torch.cat([corner + size / 2 - 0.5, size.log()], 1)
    if group == "blur":
        return parameters**2
    return torch.cat([parameters[:, :3].log(), parameters[:, 3:]], 1)


def columns(groups: Sequence[str]) -> dict[str, slice]:
    """Where each group lies in the latents and actions of a combination."""
    places, start = {}, 0
    for group in groups:
        places[group] = slice(start, start + len(LATENTS[group]))
        start += len(LATENTS[group])
    return places


def augment(images: Tensor, parameters: Mapping[str, Tensor], spec) -> Tensor:
    """Apply the groups that have parameters, crop before color before blur: (N, H, W, 3) uint8 to the same."""
    x = images.permute(0, 3, 1, 2).float() / 255
    if "crop" in parameters:
        x = crop(x, parameters["crop"])
    if "color" in parameters:
        x = color(x, parameters["color"])
    if "blur" in parameters:
        x = blur(x, parameters["blur"], math.ceil(3 * spec.blur_sigma))
    return (x * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Sources:
    """O source images with classes, before any augmentation."""

    images: Tensor  # uint8 (O, H, W, 3)
    labels: np.ndarray  # int64 (O,), index into classes
    classes: tuple[str, ...]
    split: np.ndarray  # str (O,): train, validation, test
    source: np.ndarray  # str (O,): parametric, real (renders of the miniature) or photo
    name: np.ndarray  # str (O,): of the object or the file

    @property
    def counts(self) -> pd.DataFrame:
        """Images of each class (rows, all of `classes`) in each split (columns, those of `SPLITS`)."""
        names = np.array(self.classes)[self.labels]
        return pd.crosstab(names, self.split).reindex(index=self.classes, columns=SPLITS, fill_value=0)


def make_views(sources: Sources, combination: str, spec, batch: int = 1024) -> Views:
    """`augment.views` views of each source image, with targets = latents of the combination's two groups.

    Row = image * views + view. Every view is augmented, the first too. All in memory: N * 3 * H * W bytes.

    Args:
        sources: of `load_sources`. combination: a key of `COMBINATIONS`. spec: `lib.pipeline.settings.Augment`.
        batch: images augmented at once; the drawn parameters do not depend on it.
    """
    groups, count = COMBINATIONS[combination], len(sources.images) * spec.views
    drawn = sample(groups, count, spec, torch.Generator().manual_seed(spec.seed))
    images = torch.empty((count, *sources.images.shape[1:]), dtype=torch.uint8)
    for rows in tqdm(torch.arange(count).split(batch), desc=f"views, {combination}", mininterval=1):
        part = {group: parameters[rows] for group, parameters in drawn.items()}
        images[rows] = augment(sources.images[rows // spec.views], part, spec)
    targets = torch.cat([latents(group, parameters) for group, parameters in drawn.items()], 1)
    return Views(
        images=images,
        targets=targets,
        latents=targets,
        labels=torch.from_numpy(sources.labels),
        classes=sources.classes,
        split=sources.split,
        source=sources.source,
        mesh=sources.name,
        views=spec.views,
        groups=columns(groups),
        action=difference,
    )


def load_sources(spec, folder: Path | str = "build/data/3diebench") -> Sources:
    """The source images that `spec` (`lib.pipeline.settings.Augment`) names, at most `augment.images`, drawn at random.

    augmented-mini: renders of the miniature in `folder`; its objects' split is kept, so no test object is trained on.
    cifar10: torchvision's files in `augment.root`, downloaded to build/cifar10 where the root is "".
    cifar10-jpeg: a folder (or a .tar, .tar.gz, .tar.xz of it) with <split>/<class>/<name>.jpg or .png in
    `augment.root`. Both have train and test; without validation, a tenth of train becomes it. Every split has images of
    every class, and no two classes are the same but for case.

    Raises:
        FileNotFoundError, ValueError: one sentence that names what is missing or broken.
    """
    generator = np.random.default_rng(spec.seed)
    if spec.name == "augmented-mini":
        return _renders(spec, folder, generator)
    return _cifar10(spec, generator) if spec.name == "cifar10" else _image_folder(spec, generator)


def _renders(spec, folder: Path | str, generator: np.random.Generator) -> Sources:
    """As many views as needed of each object, and not all objects where one view of each is too many."""
    views = load_views(folder)
    objects = len(views.labels)
    each = -(-spec.images // objects)
    if each > views.views:
        raise ValueError(f"augment.images is {spec.images}, but {folder} has {len(views.images)} images; lower it.")
    chosen = np.sort(generator.permutation(objects)[: spec.images // each])
    view = generator.permuted(np.tile(np.arange(views.views), (len(chosen), 1)), axis=1)[:, :each]
    rows, of = (chosen[:, None] * views.views + view).ravel(), chosen.repeat(each)
    return Sources(
        views.images[torch.from_numpy(rows)], views.labels.numpy()[of], views.classes, views.split[of],
        views.source[of], views.mesh[of],
    )  # fmt: skip


def _photos(
    images: Callable[[np.ndarray], np.ndarray], label: np.ndarray, classes: Sequence[str], split: np.ndarray,
    name: np.ndarray, spec, generator: np.random.Generator,
) -> Sources:  # fmt: skip
    """Sources of photographs: some at random, with a validation split; `images` reads those at the given places."""
    if "validation" not in split:
        train = generator.permutation(np.flatnonzero(split == "train"))
        split = split.astype("<U10")
        split[train[: len(train) // 10]] = "validation"
    chosen = np.sort(generator.permutation(len(label))[: spec.images])
    read = torch.from_numpy(images(chosen))
    source = np.full(len(chosen), "photo")
    return Sources(read, label[chosen], tuple(classes), split[chosen], source, name[chosen])


def _cifar10(spec, generator: np.random.Generator) -> Sources:
    root = spec.root or "build/cifar10"
    try:
        parts = [CIFAR10(root, train, download=not spec.root) for train in (True, False)]
    # Nothing narrower: no network, a wrong checksum and a truncated file come as OSError, RuntimeError, EOFError, ...
    except Exception as error:
        cure = "check the network, or put cifar-10-batches-py somewhere and name its folder in augment.root"
        raise ValueError(f"CIFAR-10 cannot be had in {root} ({' '.join(str(error).split())}); {cure}.") from error
    images = np.concatenate([part.data for part in parts])
    label = np.concatenate([np.asarray(part.targets, np.int64) for part in parts])
    split = np.repeat(["train", "test"], [len(part.data) for part in parts])
    name = np.array([f"{part}-{i:05d}" for i, part in enumerate(split)])
    return _photos(lambda at: images[at], label, parts[0].classes, split, name, spec, generator)


def _image_folder(spec, generator: np.random.Generator) -> Sources:
    files = _files(Path(spec.root))
    names = sorted(files)
    split, of = (np.array(part) for part in zip(*(name.split("/")[:2] for name in names)))
    classes, label = np.unique(of, return_inverse=True)
    _check_classes(split, of, spec.root)

    def read(chosen: np.ndarray) -> np.ndarray:
        images = []
        for at in chosen:
            try:
                with Image.open(io.BytesIO(files[names[at]]())) as image:
                    images.append(np.asarray(image.convert("RGB")))
            except (OSError, SyntaxError) as error:  # a broken PNG raises the latter
                raise ValueError(
                    f"{names[at]} in {spec.root} cannot be read as an image ({error}); get it again."
                ) from error
            if images[-1].shape != images[0].shape or images[-1].shape[0] != images[-1].shape[1]:
                (height, width), (first, _) = images[-1].shape[:2], images[0].shape[:2]
                raise ValueError(
                    f"{names[at]} in {spec.root} is {height} x {width} px, but square images of one size, here "
                    f"{first} x {first}, are expected; resize it."
                )
        return np.stack(images)

    return _photos(read, label.astype(np.int64), classes.tolist(), split, np.array(names), spec, generator)


def _check_classes(split: np.ndarray, of: np.ndarray, root: str) -> None:
    """Refuse classes (N,) that are written in two ways or are not in every split (N,)."""
    written = defaultdict(set)
    for name in of:
        written[name.strip().casefold()].add(name)
    if twice := [names for names in written.values() if len(names) > 1]:
        both = " and ".join(f'"{name}"' for name in sorted(twice[0]))
        raise ValueError(f"{root} has the classes {both}, the same but for case or spaces; rename one of them.")
    images = pd.crosstab(of, split)
    for name, counts in images[(images == 0).any(axis=1)].iterrows():
        part, has = counts.idxmin(), ", ".join(f"{count:,} {at}" for at, count in counts.items())
        raise ValueError(
            f"{root} has no images of the class {name} in {part} ({has}), but each split must have all {len(images)} "
            f"classes; add {part}/{name}, or remove the class from all splits."
        )


def _files(root: Path) -> dict[str, Callable[[], bytes]]:
    """<split>/<class>/<name> -> its bytes, for the images of a folder or an archive.

    An archive is read where it is: unpacking 60,000 small files, as torchvision's ImageFolder needs them, takes longer
    than all of the reading.
    """
    wanted = "augment.root must be a folder or a .tar, .tar.gz, .tar.xz with <split>/<class>/<name>.jpg or .png"
    if root.is_dir():
        found = {path.relative_to(root).as_posix(): path.read_bytes for path in root.glob("*/*/*")}
    elif root.is_file():
        try:
            with tarfile.open(root) as archive:
                members = [member for member in archive if member.isfile()]
                content = {str(Path(member.name)): archive.extractfile(member).read() for member in members}
        except (tarfile.TarError, EOFError, OSError) as error:
            why = str(error).splitlines()[0].rstrip(":")
            raise ValueError(f"{root} cannot be read as an archive ({why}); get it again; {wanted}.") from error
        found = {name: (lambda data=data: data) for name, data in content.items()}
    else:
        raise FileNotFoundError(f'"{root}" does not exist; {wanted}.')
    images = {name: read for name, read in found.items() if Path(name).suffix.lower() in SUFFIXES}
    images = {name: read for name, read in images.items() if name.count("/") == 2}
    splits = {name.split("/")[0] for name in images}
    if missing := {"train", "test"} - splits:
        raise FileNotFoundError(f"{root} has no images in {min(missing)}/<class>/; {wanted}, train and test.")
    if unknown := splits - set(SPLITS):
        raise ValueError(f"{root} has the split {min(unknown)}; the splits are {', '.join(SPLITS)}.")
    return images
