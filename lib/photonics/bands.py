"""Bands of a two-dimensional crystal by plane waves, for E along its rods (TM).

With a = 1, wave vectors k in units of 2 pi / a and frequencies omega in 2 pi c / a, Maxwell's equations for the Bloch
wave E_z = sum_G u_G exp(2 pi i (k + G) r) are

    |k + G|^2 u = omega^2 eps u,    eps_GG' = eps(G - G'),

a Hermitian problem for v = |k + G| u, with the inverse of the matrix eps in the middle. The group velocity is an
expectation value, d omega / dk = u* (k + G) u / omega with u* eps u = 1, and no difference of frequencies is taken.

K wave vectors, N plane waves, B bands; any number of crystals may stand before them.
"""

from typing import NamedTuple

import numpy as np


class Bands(NamedTuple):
    """``frequencies`` (..., K, B), ascending, and ``velocities`` (..., K, B, 2) in units of c."""

    frequencies: np.ndarray
    velocities: np.ndarray


def plane_waves(cutoff: int) -> np.ndarray:
    """Reciprocal vectors G (N, 2), N = (2 cutoff + 1)^2, in units of 2 pi / a."""
    each = np.arange(-cutoff, cutoff + 1)
    return np.stack(np.meshgrid(each, each, indexing="ij"), -1).reshape(-1, 2)


def epsilon_matrix(permittivity: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """eps(G - G'), (..., N, N): exact Fourier coefficients of the pixels, each constant, of images (..., n, n).

    Raises:
        ValueError: a permittivity is not a positive, finite number.
    """
    wrong = permittivity[~(np.isfinite(permittivity) & (permittivity > 0))]
    if wrong.size:
        raise ValueError(f"A permittivity is {wrong[0]:g}; it must be a positive, finite number, as of a dielectric.")
    size, most = permittivity.shape[-1], 2 * np.abs(waves).max()
    orders = np.arange(-most, most + 1)
    pixel = np.sinc(orders / size) * np.exp(-1j * np.pi * orders / size)
    image = np.fft.fft2(permittivity)[..., orders[:, None] % size, orders % size] / size**2
    differences = waves[:, None] - waves + most
    return (image * pixel[:, None] * pixel)[..., differences[..., 0], differences[..., 1]]


def _bloch_waves(permittivity: np.ndarray, k: np.ndarray, bands: int, cutoff: int):
    """omega^2 (..., K, B), u (..., K, N, B) with u* eps u = 1, and k + G (K, N, 2)."""
    waves = plane_waves(cutoff)
    inverse = np.linalg.inv(epsilon_matrix(permittivity, waves))[..., None, :, :]
    moved = k[:, None] + waves
    length = np.linalg.norm(moved, axis=-1).clip(min=1e-9)  # at Gamma, where the lowest frequency is 0
    squares, v = np.linalg.eigh(length[:, :, None] * inverse * length[:, None])
    squares, v = squares[..., :bands].clip(min=0), v[..., :bands]
    return squares, v / length[..., None] * np.sqrt(squares)[..., None, :], moved


def plane_wave_bands(permittivity: np.ndarray, k: np.ndarray, bands: int, cutoff: int) -> Bands:
    """The lowest bands of crystals (..., n, n) at wave vectors (K, 2)."""
    squares, u, moved = _bloch_waves(permittivity, k, bands, cutoff)
    momentum = np.einsum("...kgb,kgi->...kbi", np.abs(u) ** 2, moved)
    frequencies = np.sqrt(squares)
    return Bands(frequencies, momentum / frequencies.clip(min=1e-9)[..., None])


def half_zone(points: int) -> np.ndarray:
    """Centers (K, 2) of the points x points cells of the Brillouin zone of which k_x > 0; -k has the same frequencies.

    Raises:
        ValueError: the number is odd, so that Gamma is one of them, or 1.
    """
    if points < 2 or points % 2:
        raise ValueError(
            f"A k-grid of {points} has Gamma among its points, where the lowest band has no velocity; "
            "take an even number."
        )
    each = (np.arange(points) + 0.5) / points - 0.5
    return np.stack(np.meshgrid(each[points // 2 :], each, indexing="ij"), -1).reshape(-1, 2)


def bands_on_grid(
    permittivity: np.ndarray, cells: int, subcells: int, bands: int, cutoff: int, expansion: int
) -> Bands:
    """Bands in the half zone on a grid of cells * subcells points along each axis, solved only at the centers of cells.

    Inside a cell they follow by k.p theory: the lowest `expansion` Bloch waves u_i of its center span the others. At d
    from the center, |k + G|^2 is larger by 2 d (k + G) + d^2, hence a matrix of order `expansion` for every point,

        omega_i^2 delta_ij + 2 d P_ij + d^2 S_ij,    P_ij = u_i* (k + G) u_j,  S_ij = u_i* u_j.

    Returns:
        K = cells^2 * subcells^2 / 2, cell by cell.
    """
    squares, u, moved = _bloch_waves(permittivity, half_zone(cells), expansion, cutoff)
    adjoint = u.conj().swapaxes(-1, -2)
    overlap = (adjoint @ u)[..., None, :, :]
    momentum = [(adjoint @ (moved[..., axis, None] * u))[..., None, :, :] for axis in (0, 1)]
    each = ((np.arange(subcells) + 0.5) / subcells - 0.5) / cells
    dx, dy = (offset.reshape(-1, 1, 1) for offset in np.meshgrid(each, each, indexing="ij"))
    matrix = 2 * (dx * momentum[0] + dy * momentum[1]) + (dx**2 + dy**2) * overlap
    diagonal = np.arange(expansion)
    matrix[..., diagonal, diagonal] += squares[..., None, :]
    found, z = np.linalg.eigh(matrix)
    frequencies, z = np.sqrt(found[..., :bands].clip(min=0)), z[..., :bands]
    slopes = [(z.conj() * ((p + d * overlap) @ z)).sum(-2).real for p, d in zip(momentum, (dx, dy))]
    velocities = np.stack(slopes, -1) / frequencies.clip(min=1e-9)[..., None]
    before = permittivity.shape[:-2]
    return Bands(frequencies.reshape(*before, -1, bands), velocities.reshape(*before, -1, bands, 2))
