"""The finite sets of transformations to be invariant or sensitive to, and the random views of images.

Images are (N, S, S, 3), float, in [0, 1]. Random numbers are drawn on the processor from a generator that is handed in,
so a view is a function of that generator alone, on whatever device the images are.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import permutations

import torch
from torch import Generator, Tensor

#: The luma of a color: ITU-R BT.601, as in torchvision.
LUMA = torch.tensor([0.299, 0.587, 0.114])
RGB_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
YIQ_TO_RGB = torch.linalg.inv(RGB_TO_YIQ)
#: Standard deviations of Gaussian kernels 0 (no blur), 5, 9 and 15 px wide on images 32 px wide, in sides of the image:
#: 0.3 ((k - 1) / 2 - 1) + 0.8 px for a kernel k px wide, OpenCV's rule, which torchvision's function gaussian_blur has
#: where none is given; its class GaussianBlur draws them at random instead.
BLURS = (0.0, 1.1 / 32, 1.7 / 32, 2.6 / 32)
ORDERS = tuple(permutations(range(4)))


# ---- Finite sets


def identity(images: Tensor) -> Tensor:
    return images


def grayscale(images: Tensor) -> Tensor:
    return (images @ LUMA.to(images))[..., None].expand_as(images)


def invert(images: Tensor) -> Tensor:
    return 1 - images


def jigsaw(images: Tensor, order: Sequence[int]) -> Tensor:
    """The four quarters in another order: quarter i of the result is quarter order[i]; S is even."""
    half = images.shape[1] // 2
    quarters = images.unflatten(1, (2, half)).unflatten(3, (2, half)).transpose(2, 3).flatten(1, 2)
    return quarters[:, order].unflatten(1, (2, 2)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


@cache
def _gaussian(size: int, sigma: float) -> Tensor:
    """(S, S): each row averages along an axis of the image with Gaussian weights, which sum to 1 at the border, too."""
    distance = (torch.arange(size)[:, None] - torch.arange(size)) / size
    return (-(distance**2) / (2 * sigma**2)).softmax(dim=1)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur; sigma in sides of the image."""
    weights = _gaussian(images.shape[1], sigma).to(images)
    return _along_both_axes(images, weights, weights)


def _flip(axis: int) -> Callable[[Tensor], Tensor]:
    return partial(torch.flip, dims=(axis,))


#: Name -> the transformations T_g of a set, g = 0, 1, ...; T_0 is the identity. Quarter turns are counterclockwise.
SETS: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "horizontal-flip": (identity, _flip(2)),
    "grayscale": (identity, grayscale),
    "rotation": tuple(partial(torch.rot90, k=k, dims=(1, 2)) for k in range(4)),
    "vertical-flip": (identity, _flip(1)),
    "jigsaw": tuple(partial(jigsaw, order=order) for order in ORDERS),
    "blur": (identity, *(partial(blur, sigma=sigma) for sigma in BLURS[1:])),
    "inversion": (identity, invert),
}


def transform(images: Tensor, name: str, g: Tensor) -> Tensor:
    """Apply T_g of a set, with a g (N,) for each image.

    Raises ValueError if there is no such set.
    """
    if name not in SETS:
        raise ValueError(f"{name!r} is an unknown transformation; known are: {', '.join(SETS)}.")
    g, transformed = g.to(images.device), torch.empty_like(images)
    for number, transformation in enumerate(SETS[name]):
        chosen = (g == number).nonzero()[:, 0]
        if len(chosen):
            transformed[chosen] = transformation(images[chosen])
    return transformed


def sometimes(images: Tensor, name: str, p: float, generator: Generator) -> Tensor:
    """Invariance: the identity with probability 1 - p, else any other transformation of the set, all equally often."""
    count = len(images)
    g = torch.randint(1, len(SETS[name]), (count,), generator=generator)
    return transform(images, name, g * (torch.rand(count, generator=generator) < p))


def all_transformed(images: Tensor, name: str, most: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Sensitivity: every image under every transformation of the set, or under `most` different ones drawn for it.

    Returns:
        (C * N, S, S, 3) and g (C * N,), C = min(|G|, most).
    """
    drawn = torch.rand(len(images), len(SETS[name]), generator=generator).argsort(dim=1)[:, :most]
    g = drawn.T.flatten()
    return transform(images.repeat(drawn.shape[1], 1, 1, 1), name, g), g.to(images.device)


# ---- Random views, for a whole batch at once


def _along_both_axes(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Matrices (M, H) and (M, W), or one for each image, applied along height and width: (N, H, W, 3) to (N, M, M, 3).

    Each time the first axis is summed over, and what came second comes first: two products give the order back.
    """
    for matrix in (rows, columns):
        count, height, width, channels = images.shape
        images = (matrix @ images.reshape(count, height, width * channels)).unflatten(2, (width, channels))
        images = images.transpose(1, 2)
    return images


def _resampling(start: Tensor, length: Tensor, flipped: Tensor, size_in: int, size_out: int) -> Tensor:
    """(N, size_out, size_in): weights that resample a part of an axis, bilinear, and averaging where it is reduced.

    Args:
        start, length: (N,) of the part, in sides of the image. flipped: (N,) whether it is read backward.
    """
    place = (torch.arange(size_out) + 0.5) / size_out
    place = torch.where(flipped[:, None], 1 - place, place)
    center = (start[:, None] + place * length[:, None]) * size_in - 0.5
    reach = (length * size_in / size_out).clamp(min=1)[:, None, None]
    weights = (1 - (center[:, :, None] - torch.arange(size_in)).abs() / reach).clamp(min=0)
    return weights / weights.sum(dim=2, keepdim=True)


def random_crop(images: Tensor, size: int, area: Sequence[float], flip: float, generator: Generator) -> Tensor:
    """A random box of each image, resized, and mirrored left to right with probability `flip`.

    Args:
        size: side of the result in pixels. area: smallest and largest share of the image's area; the ratio of height
            and width is between 3/4 and 4/3, and where the image is too narrow for a box, the box is cut to fit.
    """
    count, height, width, _ = images.shape
    area, ratio, top, left, mirrored = (
        torch.rand(5, count, generator=generator)
        * torch.tensor([area[1] - area[0], 2 * math.log(4 / 3), 1, 1, 1])[:, None]
        + torch.tensor([area[0], -math.log(4 / 3), 0, 0, 0])[:, None]
    )
    high, wide = (area * ratio.exp()).sqrt().clamp(max=1), (area / ratio.exp()).sqrt().clamp(max=1)
    rows = _resampling(top * (1 - high), high, torch.zeros(count, dtype=torch.bool), height, size)
    columns = _resampling(left * (1 - wide), wide, mirrored < flip, width, size)
    return _along_both_axes(images, rows.to(images.device), columns.to(images.device))


def random_color(images: Tensor, generator: Generator) -> Tensor:
    """Color jitter (.4, .4, .4, .1) with probability .8, then grayscale with probability .2 (Chen et al. 2020).

    Brightness b, contrast c, saturation and hue in this order are, without clipping in between, one 3 x 3 matrix and
    one brightness added for each image: the last two leave grays as they are. The hue turns in the plane of I and Q of
    YIQ, which keeps the luma, not in HSV as torchvision's does.
    """
    count, one = len(images), torch.eye(3)
    uniform = 2 * torch.rand(4, count, generator=generator) - 1
    jittered, gray = torch.rand(2, count, generator=generator) < torch.tensor([[0.8], [0.2]])
    brightness, contrast, saturation, hue = uniform * torch.tensor([0.4, 0.4, 0.4, 0.1])[:, None] * jittered
    b, c, s = (1 + of[:, None, None] for of in (brightness, contrast, saturation))

    to_gray = LUMA.expand(3, 3)
    turn = torch.zeros(count, 3, 3)
    cos, sin = (2 * math.pi * hue).cos(), (2 * math.pi * hue).sin()
    turn[:, 0, 0], turn[:, 1, 1], turn[:, 2, 2], turn[:, 1, 2], turn[:, 2, 1] = 1, cos, cos, -sin, sin
    matrix = b * c * (YIQ_TO_RGB @ turn @ RGB_TO_YIQ) @ (s * one + (1 - s) * to_gray)
    matrix = torch.where(gray[:, None, None], to_gray @ matrix, matrix).to(images)

    pixels = images.flatten(1, 2)
    mean = pixels.mean(dim=1, keepdim=True) @ LUMA.to(images)[:, None]
    return torch.baddbmm(((1 - c) * b).to(images) * mean, pixels, matrix.mT).clamp(0, 1).view_as(images)


def random_view(images: Tensor, augmentation: str, size: int, area: Sequence[float], generator: Generator) -> Tensor:
    """A view of each image: ``crop``, a random crop alone, or ``full``, with horizontal flip and color, too.

    Args:
        images: (N, H, W, 3), uint8.
    """
    images, full = images.float() / 255, augmentation == "full"
    images = random_crop(images, size, area, 0.5 if full else 0.0, generator)
    return random_color(images, generator) if full else images
