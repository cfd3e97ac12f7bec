"""Crystals of two materials on a square cell, as images of permittivity.

An image (..., n, n) holds the relative permittivity of n x n square pixels; x runs along the axis before the last, y
along the last, and the lattice constant a is 1. Both families are made here, after what is known of the published ones,
whose generators are not all public:

- ``blob``: one star-shaped blob in the center of the cell. That it is centered lets an eye see a shift by half a cell.
- ``pm``: where a Fourier sum with |n| <= 1, averaged over the mirror x -> -x, is high: plane group pm. The axis is the
  same in all crystals, which lets an eye see a quarter turn.

As published, both permittivities are uniform on 1 to 20, and the fraction of the first material on .01 to .99.
"""

from collections.abc import Iterable

import numpy as np
from numpy.random import Generator

EPSILON = (1.0, 20.0)
FILL = (0.01, 0.99)
SPLITS = ("train", "validation", "test", "unlabeled")


def _blob(size: int, rng: Generator) -> np.ndarray:
    """Field that is high in the center: minus the radius, in units of one that varies with the angle."""
    x = (np.arange(size) + 0.5) / size - 0.5
    angle, outline = np.arctan2(x, x[:, None]), np.ones((size, size))
    for m in range(1, 6):
        outline += rng.normal(0, 0.5 / m) * np.cos(m * angle + rng.uniform(0, 2 * np.pi))
    return -np.hypot(x, x[:, None]) / np.maximum(outline, 0.15)


def _pm(size: int, rng: Generator) -> np.ndarray:
    """Real part of a Fourier sum, the coefficients of n_x and -n_x being alike."""
    coefficients = rng.uniform(0, 1, (3, 3)) * np.exp(2j * np.pi * rng.uniform(0, 1, (3, 3)))
    coefficients = (coefficients + coefficients[::-1]) / 2
    waves = np.exp(2j * np.pi * np.outer(np.arange(-1, 2), (np.arange(size) + 0.5) / size))
    return (waves.T @ coefficients @ waves).real


FIELDS = {"blob": _blob, "pm": _pm}


def crystals(family: str, split: str, numbers: Iterable[int], size: int, *seeds: int) -> np.ndarray:
    """Permittivity (N, size, size) of the crystals with the given numbers; each is a function of its own number.

    Args:
        family: a name of `FIELDS`. split: of `SPLITS`; different splits, or seeds, have different crystals.
    """
    found = []
    for number in numbers:
        rng = np.random.default_rng([*seeds, list(FIELDS).index(family), SPLITS.index(split), number])
        # Mirror images of a pixel differ by rounding errors, which would break the mirror at the threshold.
        field = FIELDS[family](size, rng).round(9)
        inside = field > np.quantile(field, 1 - rng.uniform(*FILL))
        found.append(np.where(inside, *rng.uniform(*EPSILON, 2)))
    return np.stack(found)


def rods(epsilon: float, radius: float, size: int) -> np.ndarray:
    """The textbook's crystal: round rods in air, one in the center of each cell. Radius in units of a."""
    x = (np.arange(size) + 0.5) / size - 0.5
    return np.where(np.hypot(x, x[:, None]) < radius, epsilon, 1.0)


def contrast(permittivity: np.ndarray) -> np.ndarray:
    """The larger of a crystal's two permittivities over the smaller, (...,); 1 is the empty lattice."""
    return permittivity.max((-2, -1)) / permittivity.min((-2, -1))
