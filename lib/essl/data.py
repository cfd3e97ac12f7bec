"""The images of E-SSL: photographs of CIFAR-10, or scenes that are drawn here and need no download.

A scene is a stand-in for a photograph: one thing of ten classes before a backdrop with texture and spots, and noise.
What makes it like a photograph for this chapter is built in, and so no discovery:

- things are upright, and a class looks much like another one upside down (goblet and mushroom, table and trough, ...),
  so that the way up tells the class; little else tells the way up, and the backdrop does not;
- every scene is as likely as its mirror image, so that a horizontal flip loses nothing;
- color tells a class half of the time: then a thing has the hue of its class;
- each part of a thing is brighter above than below, which an inversion of colors turns around;
- most things have the fine stripes of their class, which a blur removes.

So scenes show how the chapter works. Which signs they show is for measurements to say: trainings of 100 steps of one
seed show none reliably, not even that being invariant to a rotation hurts, though the way up tells the class. That of
photographs is measured, in results/essl-cifar10-jpeg. That being sensitive to a rotation helps can hardly be seen on
scenes: things that look alike upside down make a quarter turn hard to tell, and a clear light or shadow, which would
tell it, makes the invariance harmless. Nor can they show that photographs have these properties, how large an effect is
on photographs, or anything that hangs on natural textures, on backgrounds that go with a class, or on the many shapes
and poses of one class.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from types import SimpleNamespace

import numpy as np

from lib.data.arrays import SPLITS
from lib.data.augment import load_sources

SIDE = 32  # of all images, px
TITLES = {"scenes": "scenes drawn here, not photographs", "cifar10": "CIFAR-10", "cifar10-jpeg":
          "CIFAR-10 (JPEG-recompressed)"}  # fmt: skip


@dataclass(frozen=True)
class Images:
    """N images with classes and a split."""

    images: np.ndarray  # uint8 (N, 32, 32, 3)
    labels: np.ndarray  # int64 (N,), index into classes
    split: np.ndarray  # str (N,): train, validation, test
    classes: tuple[str, ...]
    title: str  # what titles call the images


def load(spec) -> Images:
    """The images that the settings ``essl`` name, at most as many of each split as they say.

    scenes: drawn, each on its own, from `data_seed`. cifar10 and cifar10-jpeg: those of `lib.data.augment.load_sources`
    with the root `essl.root`; which ones is drawn from `data_seed`.

    Raises:
        FileNotFoundError, ValueError: one sentence that names what is missing or broken in the folder of images, or
            says that the images that were chosen cannot be learned from.
    """
    counts = {split: getattr(spec, f"{split}_images") for split in SPLITS}
    if spec.name == "scenes":
        split = np.repeat(SPLITS, list(counts.values()))
        labels = np.arange(len(split)) % len(THINGS)
        return Images(draw(labels, spec.data_seed), labels, split, tuple(THINGS), TITLES[spec.name])
    if spec.name == "cifar10-jpeg" and not spec.root:
        raise ValueError(
            "essl.root is empty, but essl.name is cifar10-jpeg; write there a folder, or a .tar, .tar.gz or .tar.xz of "
            "it, with <split>/<class>/<name>.jpg or .png."
        )
    try:
        found = load_sources(SimpleNamespace(name=spec.name, root=spec.root, seed=spec.data_seed, images=None))
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(str(error).replace("augment.root", "essl.root")) from error  # the reader's own setting
    if found.images.shape[1] != SIDE:
        raise ValueError(
            f"The images in {spec.root} are {found.images.shape[1]} x {found.images.shape[2]} px, but {SIDE} x {SIDE} "
            "are expected; resize them."
        )
    if "validation" not in found.split:
        raise ValueError(
            f"{spec.root} has no validation images: a tenth of its {(found.split == 'train').sum()} training images is "
            "none; put ten or more into train, or images of each class into validation."
        )
    generator = np.random.default_rng(spec.data_seed)
    chosen = [generator.permutation(np.flatnonzero(found.split == split))[:most] for split, most in counts.items()]
    if len(seen := np.unique(found.labels[chosen[0]])) < 2:
        raise ValueError(
            f"All training images of {spec.root or spec.name} are of the class {found.classes[seen[0]]}, but two or "
            f"more are needed; add another class to each split, or raise essl.train_images (now {spec.train_images})."
        )
    at = np.concatenate(chosen)
    return Images(found.images.numpy()[at], found.labels[at], found.split[at], found.classes, TITLES[spec.name])


@dataclass(frozen=True)
class Part:
    """A part of a thing, in its own unit of length; it stands at x = 0 on the ground, y = 0, and y goes up."""

    color: int  # 0: of the class; 1, 2: any
    x: float  # of the center
    y: float
    below: float  # half width at the lower edge
    above: float  # at the upper edge
    height: float  # half of it
    round: bool = False  # an ellipse


#: Class -> the parts of its things, from back to front.
THINGS: dict[str, Sequence[Part]] = {
    "goblet": (
        Part(1, 0.0, 0.06, 0.4, 0.3, 0.07), Part(1, 0.0, 0.45, 0.09, 0.09, 0.4), Part(0, 0.0, 1.1, 0.2, 0.6, 0.35),
    ),
    "mushroom": (Part(1, 0.0, 0.4, 0.16, 0.11, 0.42), Part(0, 0.0, 1.1, 0.6, 0.2, 0.35)),
    "house": (
        Part(0, 0.0, 0.4, 0.55, 0.55, 0.4), Part(1, 0.0, 1.1, 0.8, 0.1, 0.35), Part(2, 0.2, 0.22, 0.13, 0.13, 0.22),
    ),
    "boat": (
        Part(0, 0.0, 0.35, 0.3, 0.8, 0.35), Part(1, 0.0, 1.05, 0.5, 0.5, 0.36),
        Part(2, 0.2, 1.1, 0.13, 0.13, 0.13, round=True),
    ),
    "tree": (Part(1, 0.0, 0.35, 0.12, 0.09, 0.37), Part(0, 0.0, 1.05, 0.55, 0.55, 0.45, round=True)),
    "lamp": (
        Part(1, 0.0, 1.15, 0.06, 0.06, 0.4), Part(0, 0.0, 0.45, 0.55, 0.55, 0.45, round=True),
        Part(2, 0.0, 0.9, 0.2, 0.12, 0.1),
    ),
    "fir": (
        Part(1, 0.0, 0.15, 0.11, 0.11, 0.17), Part(0, 0.0, 0.6, 0.6, 0.2, 0.32), Part(0, 0.0, 1.15, 0.45, 0.0, 0.38),
    ),
    "carrot": (Part(1, 0.0, 1.35, 0.1, 0.35, 0.2), Part(0, 0.0, 0.6, 0.0, 0.55, 0.6)),
    "table": (
        Part(1, -0.6, 0.5, 0.1, 0.1, 0.5), Part(1, 0.6, 0.5, 0.1, 0.1, 0.5), Part(0, 0.0, 1.1, 0.8, 0.8, 0.13),
    ),
    "trough": (
        Part(1, -0.7, 0.7, 0.1, 0.1, 0.5), Part(1, 0.7, 0.7, 0.1, 0.1, 0.5), Part(0, 0.0, 0.13, 0.7, 0.8, 0.13),
    ),
}  # fmt: skip


def draw(labels: np.ndarray, seed: int, batch: int = 500) -> np.ndarray:
    """Scenes (N, 32, 32, 3), uint8, of things of the classes `labels` (N,); each batch from a generator of its own."""
    parts = [
        _draw(labels[start : start + batch], np.random.default_rng([seed, start]))
        for start in range(0, len(labels), batch)
    ]
    return np.concatenate(parts)


def _draw(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    count = len(labels)

    def uniform(low: float, high: float) -> np.ndarray:
        return generator.uniform(low, high, (count, 1, 1)).astype(np.float32)

    def normal(deviation: float) -> np.ndarray:
        return generator.normal(0, deviation, (count, 1, 1)).astype(np.float32)

    def color(hue: np.ndarray, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
        """RGB (N, 1, 1, 3)."""
        h, s, v = hue[..., None], uniform(*saturation)[..., None], uniform(*value)[..., None]
        k = (np.array([5, 3, 1], np.float32) + 6 * h) % 6
        return v * (1 - s * np.minimum(k, 4 - k).clip(0, 1))

    def often(shares: np.ndarray, others: np.ndarray) -> np.ndarray:
        """What goes with the class, half of the time."""
        return np.where(generator.random((count, 1, 1)) < 0.5, shares, others).astype(np.float32)

    def texture(shortest: float, longest: float, stretch: float = 1) -> np.ndarray:
        """Three plane waves of wavelengths in px; standard deviation 1, (N, 32, 32)."""
        total = 0
        for _ in range(3):
            angle, phase = uniform(0, 2 * np.pi), uniform(0, 2 * np.pi)
            rate = 2 * np.pi / uniform(shortest, longest)
            total = total + np.cos(rate * (np.cos(angle) * x + np.sin(angle) * stretch * y) + phase)
        return np.sqrt(2 / 3) * total

    def ellipse(left: np.ndarray, up: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
        """How much of each pixel an ellipse covers, (N, 32, 32)."""
        distance = 1 - np.hypot((x - left) / width, (y - up) / height)
        return (0.5 + distance * np.minimum(width, height)).clip(0, 1)

    def paint(covered: np.ndarray, with_color: np.ndarray) -> None:
        nonlocal image
        image = image + covered[..., None] * (with_color - image)

    # Pixel centers from the middle of the image, y upward, px.
    x = (np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2)[None, None, :]
    y = -x.transpose(0, 2, 1)
    label = labels[:, None, None]
    any_hue = (0, 1)

    rough = 1 + 0.15 * texture(20, 80) + 0.1 * texture(4, 20)
    image = color(uniform(*any_hue), (0.1, 0.7), (0.25, 0.9)) * rough[..., None]
    for _ in range(2):
        spot = uniform(1.5, 5)
        paint(ellipse(uniform(-16, 16), uniform(-16, 16), spot, spot * uniform(0.6, 1.5)),
              color(uniform(*any_hue), (0.1, 0.8), (0.2, 0.9)))  # fmt: skip

    unit, middle, foot = uniform(11, 15), uniform(-4, 4), uniform(-14, -6)
    width = unit * uniform(0.85, 1.15) * np.where(generator.random((count, 1, 1)) < 0.5, -1, 1)  # or its mirror image
    height = unit * uniform(0.85, 1.15)
    own = often(label / len(THINGS) + normal(0.05), uniform(*any_hue)) % 1
    colors = np.stack([color(own, (0.3, 0.9), (0.4, 1)), color(uniform(*any_hue), (0.1, 0.8), (0.25, 0.9)),
                       color(uniform(*any_hue), (0.1, 0.9), (0.2, 1))])  # fmt: skip
    # Stripes of 3 to 5 px: none, upright, lying or checks, the class's own seven times of ten, or by chance.
    kind = np.where(generator.random((count, 1, 1)) < 0.7, label % 4, generator.integers(0, 4, (count, 1, 1)))
    rate, phase = 2 * np.pi / uniform(3, 5), uniform(0, 2 * np.pi)
    upright, lying = np.cos(rate * x + phase), np.cos(rate * y + phase)
    stripes = 0.16 * np.select([kind == 1, kind == 2, kind == 3], [upright, lying, upright * lying], 0)

    most = max(map(len, THINGS.values()))
    absent = Part(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    table = np.array([[astuple(part) for part in (*parts, *[absent] * (most - len(parts)))]
                      for parts in THINGS.values()], np.float32)  # fmt: skip
    for number in range(most):
        which, left, up, below, above, half, is_round = table[labels, number].T[..., None, None]
        left, up = middle + left * width, foot + up * height
        below, above = (of * np.abs(width) * uniform(0.88, 1.12) for of in (below, above))
        there, half = half > 0, np.maximum(half * height * uniform(0.95, 1.08), 0.3)
        higher = ((y - up) / half / 2 + 0.5).clip(0, 1)  # 0 at the lower edge, 1 at the upper one
        edge = below + higher * (above - below)
        straight = (0.5 + edge - np.abs(x - left)).clip(0, 1) * (0.5 + half - np.abs(y - up)).clip(0, 1)
        covered = np.where(is_round, ellipse(left, up, np.maximum(below, 0.5), half), straight) * there
        light = 0.85 + 0.25 * higher + stripes * (which == 0)
        paint(covered, colors[which[:, 0, 0].astype(int), np.arange(count)] * light[..., None])
    image = image + generator.normal(0, 0.03, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)
