"""Photonics: bands and densities of states against what is known of them, symmetries, learning, and the rows."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from lib.photonics import learn, study, symmetries
from lib.photonics.bands import bands_on_grid, epsilon_matrix, half_zone, plane_wave_bands, plane_waves
from lib.photonics.crystals import FIELDS, contrast, crystals, rods
from lib.photonics.dos import EMPTY, GRID, density_of_states, errors, labels
from lib.pipeline import settings
from lib.report import claims, summary

SPEC = settings.load("profiles/ci.yaml").photonics
LABELS = settings.load("profiles/laptop.yaml").photonics.labels


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- Crystals


@pytest.mark.parametrize("family", FIELDS)
def test_a_crystal_has_two_materials_and_is_a_function_of_its_number(family):
    many = crystals(family, "train", range(40), 32, 0)
    assert all(len(np.unique(crystal)) == 2 for crystal in many) and many.min() >= 1 and many.max() <= 20
    assert np.array_equal(crystals(family, "train", [7], 32, 0)[0], many[7])
    assert not np.array_equal(crystals(family, "test", [7], 32, 0)[0], many[7])
    assert not np.array_equal(crystals(family, "train", [7], 32, 0, 1)[0], many[7])


def test_every_pm_crystal_has_its_mirror_to_the_pixel():
    many = crystals("pm", "train", range(60), 32, 0)
    assert np.array_equal(many, many[:, ::-1])
    assert not np.array_equal(many, many[:, :, ::-1])


# ---- Bands


def test_the_empty_lattice_is_exact():
    k = np.array([[0.1, 0.23], [0.5, -0.5], [0.31, 0.0]])
    lengths = np.sort(np.linalg.norm(k[:, None] + plane_waves(2), axis=-1), 1)[:, :8]
    found = plane_wave_bands(np.full((16, 16), 4.0), k, 8, 2)
    assert np.allclose(found.frequencies, lengths / 2, atol=1e-12, rtol=0)
    assert np.allclose(np.linalg.norm(found.velocities[[0, 2], 0], axis=-1), 1 / 2)


def test_rods_have_the_gap_of_the_textbook():
    edge = np.linspace(0, 0.5, 7)
    k = np.concatenate([np.stack([edge, 0 * edge], 1), np.stack([0 * edge + 0.5, edge], 1), np.stack([edge, edge], 1)])
    found = plane_wave_bands(rods(8.9, 0.2, 128), k, 2, 5).frequencies
    assert found[:, 0].max() == pytest.approx(0.32, abs=0.01)
    assert found[:, 1].min() == pytest.approx(0.44, abs=0.01)


def test_group_velocities_are_the_slopes_of_the_bands():
    crystal, step = crystals("blob", "train", [3], 32, 0)[0], 1e-5
    k = np.array([[0.13, 0.31], [0.4, -0.22]])
    found = plane_wave_bands(crystal, k, 5, 3).velocities
    for axis, move in enumerate(step * np.eye(2)):
        after, before = (plane_wave_bands(crystal, k + sign * move, 5, 3).frequencies for sign in (1, -1))
        assert np.allclose(found[..., axis], (after - before) / (2 * step), atol=1e-6)


def test_bands_between_the_centers_of_cells_are_those_of_plane_waves():
    some, cells = crystals("pm", "train", range(4), 32, 0), LABELS.cells
    found = bands_on_grid(some, cells, 3, LABELS.bands, LABELS.waves, LABELS.expansion)
    each = (np.arange(3) - 1) / (3 * cells)
    k = half_zone(cells)[:, None] + np.stack(np.meshgrid(each, each, indexing="ij"), -1).reshape(-1, 2)
    true = plane_wave_bands(some, k.reshape(-1, 2), LABELS.bands, LABELS.waves)
    assert np.abs(found.frequencies - true.frequencies).max() < 1e-3
    assert np.abs(found.velocities - true.velocities).mean() < 1e-3


def test_crystals_at_once_have_the_bands_of_each_alone():
    two = crystals("pm", "train", range(2), 32, 0)
    together = bands_on_grid(two, 2, 3, 3, 2, 6)
    for i in range(2):
        assert np.allclose(together.frequencies[i], bands_on_grid(two[i], 2, 3, 3, 2, 6).frequencies, atol=1e-12)


@pytest.mark.parametrize(
    "call, told",
    [
        (
            lambda: epsilon_matrix(np.array([[1.0, -2.0]] * 2), plane_waves(1)),
            "A permittivity is -2; it must be a positive, finite number",
        ),
        (lambda: epsilon_matrix(np.zeros((4, 4)), plane_waves(1)), "A permittivity is 0; it must be a positive"),
        (lambda: epsilon_matrix(np.array([[1.0, np.inf]] * 2), plane_waves(1)), "A permittivity is inf; it must be"),
        (lambda: epsilon_matrix(np.array([[1.0, np.nan]] * 2), plane_waves(1)), "A permittivity is nan; it must be"),
        (lambda: half_zone(1), "A k-grid of 1 has Gamma among its points, where the lowest band has no velocity; take"),
    ],
)
def test_bad_input_gets_one_sentence(call, told):
    with pytest.raises(ValueError, match=told) as caught:
        call()
    assert str(caught.value).count(".") <= 2 and "\n" not in str(caught.value)


# ---- Density of states


def test_density_of_states_integrates_to_the_number_of_bands():
    found = bands_on_grid(crystals("blob", "train", [0, 1], 32, 0), 4, 3, 4, 3, 10)
    grid = np.linspace(-0.2, found.frequencies.max() + 0.5, 4000)
    states = np.trapezoid(density_of_states(found, 1 / 12, 0.01, grid), grid)
    assert np.allclose(states, 4, atol=1e-3)


def test_density_of_states_of_the_empty_lattice_grows_with_the_frequency():
    assert errors(labels(np.full((1, 16, 16), 3.0), LABELS), EMPTY[None]) < 0.5


@pytest.mark.parametrize("family, mean", [("blob", 0.35), ("pm", 0.8)])  # pm's highest contrasts want more plane waves
def test_labels_agree_with_finer_ones(family, mean):
    """In all that cuts a label short: plane waves, bands, points of the zone, and Bloch waves between them."""
    some = crystals(family, "train", range(60), 32, 0)
    some = some[np.argsort(contrast(some))[5::10]]
    finer = LABELS.model_copy(update={"waves": 5, "bands": 10, "cells": 8, "subcells": 6, "expansion": 24})
    off = errors(labels(some, LABELS), labels(some, finer))
    assert np.median(off) < 0.35 and off.mean() < mean


def test_labels_know_nothing_of_what_augments_or_scales():
    some = crystals("blob", "train", range(60), 32, 0)
    some = some[[np.argsort(contrast(some))[45]]]
    alone, image = labels(some, LABELS), torch.from_numpy(some)
    moved = [symmetries.half_cell_translations(image)[3], symmetries.quarter_turns(image)[1]]
    moved += [symmetries.any_symmetry(image, generator(seed)) for seed in range(2)]
    assert errors(labels(torch.cat(moved).numpy(), LABELS), alone).max() < 0.5
    assert errors(labels(3.7 * some, LABELS), alone).max() < 1e-6
    exchanged = some.min() + some.max() - some
    assert errors(labels(exchanged, LABELS), alone).max() > 1


# ---- Symmetries


def test_symmetries_move_pixels_and_only_pixels():
    image = torch.arange(16.0).view(1, 4, 4).repeat(200, 1, 1)
    for draw, count in (
        (symmetries.turned_and_flipped, 8), (symmetries.translated_and_flipped, 48), (symmetries.translated, 16),
    ):  # fmt: skip
        found = draw(image, generator())
        assert len(found.unique(dim=0)) == min(count, 200)
        assert torch.equal(found.flatten(1).sort(1).values, image.flatten(1))
    assert torch.equal(symmetries.half_cell_translations(image)[3, 0], image[0].roll((2, 2), (0, 1)))
    turned = symmetries.quarter_turns(image)
    assert torch.equal(symmetries.quarter_turns(turned[1])[3], image)


def told(versions, features):
    """Share of held-out crystals of whose four versions (4, N, n, n) a forest tells which is which by the features."""
    seen = features(versions / versions.mean((2, 3), keepdim=True))
    train, test = seen[:, :700].flatten(0, 1), seen[:, 700:].flatten(0, 1)
    of_train, of_test = (torch.arange(4).repeat_interleave(n).numpy() for n in (700, len(versions[0]) - 700))
    forest = HistGradientBoostingClassifier(max_iter=25, random_state=0).fit(train.numpy(), of_train)
    return forest.score(test.numpy(), of_test)


def low_waves(images):
    """Low Fourier coefficients, which a translation turns in the complex plane, and the fill."""
    waves = torch.fft.fft2(images)[:, :, :3, [0, 1, 2, -1, -2]].flatten(2) / images.std((2, 3))[..., None]
    return torch.cat([waves.real, waves.imag, (images > 1).double().mean((2, 3))[..., None]], 2)


def mirrors(images):
    """Of c_1^2 c_2*, c_n being the Fourier coefficients along either axis, the size of the sine of the phase.

    Translations and flips leave it as it is, and a mirror makes it 0 along the axis that it reverses.
    """
    c = torch.fft.fft2(images)
    products = torch.stack([c[..., 1, 0] ** 2 * c[..., 2, 0].conj(), c[..., 0, 1] ** 2 * c[..., 0, 2].conj()], -1)
    return products.angle().sin().abs()


# What E-SimCLR predicts must be there to be seen, in the views that it sees.


def test_the_centered_blob_tells_its_half_cell_translation_and_a_moved_one_does_not():
    images = torch.from_numpy(crystals("blob", "train", range(900), 32, 0))
    views = symmetries.INVARIANT["blob"](images, generator())
    moved = symmetries.translated(images, generator())
    assert told(symmetries.PREDICTED["blob"](views), low_waves) > 0.6
    assert told(symmetries.PREDICTED["blob"](moved), low_waves) < 0.35


def test_pm_tells_half_of_its_quarter_turns_and_none_if_its_mirror_has_a_random_axis():
    """0 and 180 degrees, and 90 and 270, look alike after a random flip: half is all that can be told."""
    images = torch.from_numpy(crystals("pm", "train", range(900), 32, 0))
    views = symmetries.INVARIANT["pm"](images, generator())
    turned = symmetries.one_of(symmetries.quarter_turns(views), generator())
    assert 0.4 < told(symmetries.PREDICTED["pm"](views), mirrors) < 0.55
    assert told(symmetries.PREDICTED["pm"](turned), mirrors) < 0.3


# ---- Learning


def labeled(count, first=0):
    """Crystals with an easy stand-in for a label: the empty lattice, moved by the logarithm of the contrast."""
    images = crystals("blob", "train", range(first, first + count), 32, 0)
    return learn.Labeled(images, EMPTY + np.log(contrast(images))[:, None] * np.sin(8 * GRID))


def test_validation_selects_and_the_test_crystals_do_not():
    seen = [(3.0, np.array([1.0])), (2.0, np.array([5.0])), (4.0, np.array([7.0]))]
    found = learn._selected(seen)
    assert (found.selected, found.last, found.least) == (5.0, 7.0, 1.0)


def test_kernel_ridge_learns_what_the_contrast_tells():
    splits = labeled(60), labeled(30, 100), labeled(30, 200)
    ridge = settings.load("profiles/laptop.yaml").photonics.ridge
    found = learn.kernel_ridge([learn.materials], splits, ridge).selected.mean()
    assert found < 0.2 * errors(EMPTY[None], splits[2].density).mean()


def test_features_of_ridge_do_not_change_under_symmetries():
    images = torch.from_numpy(crystals("pm", "train", range(5), 32, 0))
    moved = symmetries.any_symmetry(images, generator()).numpy()
    for features in (learn.materials, partial(learn.spectrum, most=3)):
        assert np.allclose(features(moved), features(images.numpy()), atol=1e-9)
        assert np.allclose(features(2 * moved), features(moved))


def test_fine_tuning_learns_and_is_a_function_of_the_seed():
    splits = labeled(40), labeled(20, 100), labeled(20, 200)
    of = SPEC.model_copy(update={"finetune": SPEC.finetune.model_copy(update={"steps": 40, "learning_rate": 1e-2})})
    found = [learn.fine_tune(None, True, splits, of, seed).selected for seed in (0, 0, 1)]
    assert found[0].mean() < 0.8 * errors(EMPTY[None], splits[2].density).mean()
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


def test_only_e_simclr_has_a_sensitivity_and_all_methods_differ():
    images = learn.network_input(crystals("blob", "unlabeled", range(32), 32, 0), "relative")
    found = {of: learn.pretrain(of, "blob", images, SPEC, 0) for of in ("simclr", "e-simclr", "simclr-all")}
    assert [("predicted" in history[-1]) for *_, history in found.values()] == [False, True, False]
    weights = [f.layers[0].weight for f, *_ in found.values()]
    assert not any(torch.equal(weights[i], weights[i - 1]) for i in range(3))


def test_only_with_zeros_around_an_image_can_a_network_see_a_half_cell_translation():
    """On a torus with maxima over all of it, what E-SimCLR predicts of a blob would be hidden from f."""
    images = learn.network_input(crystals("blob", "train", range(4), 32, 0), "relative")
    for padding, blind in (("circular", True), ("zeros", False)):
        f = learn.new_encoder(SPEC.network.model_copy(update={"padding": padding}), 0).eval()
        features = torch.stack([f(of) for of in symmetries.half_cell_translations(images)])
        assert torch.allclose(features, features[:1], atol=1e-5) == blind
    profiles = [settings.load(f"profiles/{name}.yaml").photonics for name in settings.PROFILES]
    assert {of.network.padding for of in profiles} == {"zeros"}


# ---- The study


def test_every_method_of_the_settings_is_known():
    assert set(study.METHODS) == set(study.NAMES) == set(settings.Learner.__args__)


def test_what_a_case_depends_on():
    full = settings.load("profiles/full.yaml").photonics
    by_name = {case.name: case for case in study.cases(full)}
    assert len(by_name) == len(study.cases(full))

    def changes(name, section, key, value):
        other = full.model_copy(update={section: getattr(full, section).model_copy(update={key: value})})
        return study.recipe_of_rows(by_name[name], 0, full) != study.recipe_of_rows(by_name[name], 0, other)

    assert changes("blob-e-simclr-50", "pretrain", "sensitivity_weight", 1.0)
    assert not changes("blob-simclr-50", "pretrain", "sensitivity_weight", 1.0)
    assert not changes("blob-scratch-50", "pretrain", "steps", 7)
    assert not changes("blob-ridge-50", "finetune", "steps", 7) and changes("blob-simclr-50", "finetune", "steps", 7)
    assert changes("pm-simclr-frozen-50", "ridge", "penalties", (1.0,))
    assert not changes("pm-scratch-50", "ridge", "penalties", (1.0,))


def test_rows_are_complete_and_come_from_the_store_the_second_time(tmp_path, monkeypatch):
    params = settings.load("profiles/ci.yaml")
    params = params.model_copy(update={"device": params.device.model_copy(update={"jobs": 1})})
    monkeypatch.setattr(study.settings, "load", lambda: params)
    monkeypatch.setattr(study.store, "folder", lambda: tmp_path)
    rows = study.rows_of(SPEC)
    assert set(rows["run"]) == {case.name for case in study.cases(SPEC)}
    told = rows[(rows["metric"] == "error") & (rows["contrast"] == "all")]
    assert list(told["method"]) == list(SPEC.methods) and (told["crystals"] == SPEC.test_labels).all()
    assert rows[rows["metric"] == "pretext"]["method"].tolist() == ["e-simclr"]
    least = rows[(rows["metric"] == "error_least") & (rows["contrast"] == "all")]
    assert list(least["run"]) == list(told["run"]) and (least["value"].values <= told["value"].values).all()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("rows.csv")}
    pd.testing.assert_frame_equal(study.rows_of(SPEC), rows)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("rows.csv")} == before


def test_methods_are_compared_seed_by_seed(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    hard = np.array([0, 3.0, 6])  # a seed's crystals are as hard for all methods
    off = {"e-simclr": [0, 0, 0], "simclr": [1.0, 1.2, 0.9], "scratch": [-1.0, -1.1, -0.8], "ridge": [0.5, -0.6, 0.1]}
    rows = pd.DataFrame([
        {"family": "blob", "labels": n, "seed": seed, "method": method, "value": 5 + hard[seed] + by, "floor": 9.0,
         "metric": "error", "contrast": "all"}
        for n in (50, 300) for method, each in off.items() for seed, by in enumerate(each)
    ])  # fmt: skip
    found = claims.decide("43_photonics", summary.of_photonics(rows), True).set_index("id")
    words = {name: found.loc[f"photonics-blob-below-{name}", "verdict"] for name in ("simclr", "scratch", "ridge")}
    assert words == {"simclr": "holds (stand-in data)", "scratch": "does not", "ridge": "mixed"}
    assert found.loc["photonics-pm-below-ridge", "because"] == "no number photonics.pm.e-simclr"
    assert set(found["constant model"]) == {"does not", "no numbers"}
    alone = claims.decide("43_photonics", summary.of_photonics(rows[rows["seed"] == 0]), True)
    assert set(alone["verdict"]) == {"not testable"}
