"""Photonics: bands and densities of states against what is known of them, symmetries, learning, and the rows."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from lib.photonics import learn, study, symmetries
from lib.photonics.bands import Bands, bands_on_grid, epsilon_matrix, half_zone, plane_wave_bands, plane_waves
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
            "A permittivity is -2; it must be a po",
        ),
        (lambda: epsilon_matrix(np.zeros((4, 4)), plane_waves(1)), "A permittivity is 0; it must be a positive number"),
        (lambda: half_zone(1), "A k-grid of 1 has Gamma among its points, where the lowest band has no velocity; take"),
    ],
)
def test_bad_input_gets_one_sentence(call, told):
    with pytest.raises(ValueError, match=told) as caught:
        call()
    assert str(caught.value).count(".") <= 2 and "\n" not in str(caught.value)


# ---- Density of states


def on_fine_grid(crystal, points=32):
    """The label by plane waves at every point, without k.p theory."""
    found, scale = plane_wave_bands(crystal, half_zone(points), LABELS.bands, LABELS.waves), np.sqrt(crystal.mean())
    return density_of_states(Bands(found.frequencies * scale, found.velocities * scale), 1 / points, LABELS.smoothing)


def test_density_of_states_integrates_to_the_number_of_bands():
    found = bands_on_grid(crystals("blob", "train", [0, 1], 32, 0), 4, 3, 4, 3, 10)
    grid = np.linspace(-0.2, found.frequencies.max() + 0.5, 4000)
    states = np.trapezoid(density_of_states(found, 1 / 12, 0.01, grid), grid)
    assert np.allclose(states, 4, atol=1e-3)


def test_density_of_states_of_the_empty_lattice_grows_with_the_frequency():
    assert errors(labels(np.full((1, 16, 16), 3.0), LABELS), EMPTY[None]) < 0.5


@pytest.mark.parametrize("family", FIELDS)
def test_density_of_states_agrees_with_a_fine_grid(family):
    some = crystals(family, "train", range(60), 32, 0)
    some = some[np.argsort(contrast(some))[[30, 50, 58]]]
    fine = np.stack([on_fine_grid(crystal) for crystal in some])
    assert errors(labels(some, LABELS), fine).max() < 1.5


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


def test_the_centered_blob_tells_its_half_cell_translation_and_a_moved_one_does_not():
    """By hand-made features: low Fourier coefficients and the fill. What E-SimCLR predicts must be there to be seen."""
    images = torch.from_numpy(crystals("blob", "train", range(900), 32, 0))

    def accuracy(images):
        shown = symmetries.half_cell_translations(images)
        waves = torch.fft.fft2(shown / shown.mean((2, 3), keepdim=True))[:, :, :3, [0, 1, 2, -1, -2]].flatten(2)
        scale = (shown / shown.mean((2, 3), keepdim=True)).std((2, 3))[..., None]
        fill = (shown > shown.mean((2, 3), keepdim=True)).double().mean((2, 3))[..., None]
        features = torch.cat([waves.real / scale, waves.imag / scale, fill], 2)
        train, test = features[:, :700].flatten(0, 1), features[:, 700:].flatten(0, 1)
        of_train, of_test = (torch.arange(4).repeat_interleave(n) for n in (700, 200))
        forest = HistGradientBoostingClassifier(max_iter=25, random_state=0).fit(train.numpy(), of_train.numpy())
        return forest.score(test.numpy(), of_test.numpy())

    assert accuracy(images) > 0.6
    assert accuracy(symmetries.translated(images, generator())) < 0.35


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
    assert (rows[rows["metric"] == "error_least"]["value"].values <= told["value"].max() + 1e3).all()
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
    assert set(found["constant model"]) == {"fails", "no numbers"}
    alone = claims.decide("43_photonics", summary.of_photonics(rows[rows["seed"] == 0]), True)
    assert set(alone["verdict"]) == {"not testable"}
