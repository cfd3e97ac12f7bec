"""The density of states of a crystal, by the generalized Gilat-Raubenheimer method, and the labels made of it.

A band is taken as linear in each small square cell of the Brillouin zone, omega + v (k - k_0). The states of a cell of
side h then have the density of a sum of two uniform variables, of widths |v_x| h and |v_y| h: a trapezoid.

As published, frequencies are in units in which all crystals have the same mean permittivity, omega sqrt(<eps>): then
all densities grow alike, as that of the empty lattice, 2 pi omega.
"""

import numpy as np
from scipy.ndimage import gaussian_filter1d

from lib.photonics.bands import Bands, bands_on_grid

#: Frequencies at which a label is given: the first 400 of 500 points on 0 to 1.2, as published.
GRID = np.linspace(0, 1.2, 500)[:400]
#: What the published error counts: points 100 to 399.
COUNTED = slice(100, 400)
EMPTY = 2 * np.pi * GRID
_BINS_PER_DEVIATION = 20


def density_of_states(bands: Bands, spacing: float, smoothing: float, grid: np.ndarray = GRID) -> np.ndarray:
    """States of a cell of the crystal per unit of frequency, (..., len(grid)), smoothed by a Gaussian.

    Args:
        bands: at the centers of the squares of half a zone (`half_zone`). spacing: their side.
        smoothing: standard deviation, in units of the frequency.
        grid: frequencies, ascending; the density has the same unit, inverted.
    """
    *crystals, points, count = bands.frequencies.shape
    each = int(np.prod(crystals))
    width = smoothing / _BINS_PER_DEVIATION
    bins = int(np.ceil((grid[-1] - grid[0]) / width)) + 10 * _BINS_PER_DEVIATION
    edges = grid[0] - 5 * smoothing + width * np.arange(bins + 1)
    centers = bands.frequencies.reshape(each, -1) - edges[0]
    half = np.abs(bands.velocities).reshape(each, -1, 2) * spacing / 2
    a, b = half.clip(min=width / 2)[..., 0], half.clip(min=width / 2)[..., 1]
    # The number of states below x is a second integral of four steps: sum of +-(x - c)^2 / 2 over the corners c < x. In
    # it sums over corners are taken once for all x, by powers of c.
    weight = 2 * spacing**2 / (4 * a * b) / 2
    below = np.zeros((each, bins + 1))
    x = edges - edges[0]
    for sign_a in (1, -1):
        for sign_b in (1, -1):
            corner = centers + sign_a * a + sign_b * b
            place = np.ceil(corner / width).clip(0, bins + 1).astype(int) + (bins + 2) * np.arange(each)[:, None]
            sums = [
                np.bincount(place.ravel(), (weight * corner**power).ravel(), each * (bins + 2))
                .reshape(each, -1)[:, :-1].cumsum(1)
                for power in (0, 1, 2)
            ]  # fmt: skip
            below += sign_a * sign_b * (x**2 * sums[0] - 2 * x * sums[1] + sums[2])
    density = gaussian_filter1d(np.diff(below) / width, _BINS_PER_DEVIATION, mode="constant")
    middle = edges[:-1] + width / 2
    return np.stack([np.interp(grid, middle, of) for of in density]).reshape(*crystals, len(grid))


def labels(permittivity: np.ndarray, spec, at_once: int = 16) -> np.ndarray:
    """The density of states of crystals (N, n, n) at `GRID`, (N, 400), in units of the mean permittivity.

    Args:
        spec: the settings ``photonics.labels``. at_once: crystals whose matrices are in memory together.
    """
    found = []
    for start in range(0, len(permittivity), at_once):
        part = permittivity[start : start + at_once]
        bands = bands_on_grid(part, spec.cells, spec.subcells, spec.bands, spec.waves, spec.expansion)
        scale = np.sqrt(part.mean((-2, -1)))
        scaled = Bands(bands.frequencies * scale[:, None, None], bands.velocities * scale[:, None, None, None])
        found.append(density_of_states(scaled, 1 / (spec.cells * spec.subcells), spec.smoothing))
    return np.concatenate(found)


def errors(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The published error of each crystal, (N,): the sum of |differences| over that of the density, in percent."""
    return 100 * np.abs(predicted - true)[:, COUNTED].sum(1) / np.abs(true)[:, COUNTED].sum(1)
