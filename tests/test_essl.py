"""E-SSL: transformations, the losses of five methods, the objective, and studies that resume and are not recomputed."""

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from lib.essl import evaluation, methods, study, training
from lib.essl.methods import METHODS
from lib.essl.objective import ESSL
from lib.essl.transformations import ORDERS, SETS, all_transformed, random_color, random_crop, sometimes, transform
from lib.method import losses
from lib.pipeline import essl_photographs, settings, store
from lib.report import claims, summary

ROOT = Path(__file__).parents[1]
PARAMS = settings.load(ROOT / "profiles/ci.yaml")
RECIPE = PARAMS.essl.recipe


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=6, size=8):
    return torch.rand(count, size, size, 3, generator=generator())


class Images(NamedTuple):
    images: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    classes: tuple = ("dark", "light")
    title: str = "noise"


def noise(train=64, other=32):
    """Dark and light noise."""
    split = np.repeat(["train", "validation", "test"], [train, other, other])
    labels = np.arange(len(split)) % 2
    draws = np.random.default_rng(0).integers(0, 100, (len(split), 32, 32, 3))
    return Images((draws + 100 * labels[:, None, None, None]).astype(np.uint8), labels, split)


# ---- Transformations


def apply(name, g, images):
    return transform(images, name, torch.full((len(images),), g))


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_of_different_transformations_and_starts_with_the_identity(name):
    images = pictures(1, 16)
    seen = [apply(name, g, images) for g in range(len(SETS[name]))]
    torch.testing.assert_close(seen[0], images)
    assert all(not torch.allclose(a, b) for a, b in itertools.combinations(seen, 2))
    assert {image.shape for image in seen} == {images.shape} and 0 <= min(image.min() for image in seen)


def test_sets_have_their_published_sizes():
    sizes = {name: len(transformations) for name, transformations in SETS.items()}
    assert sizes == {"horizontal-flip": 2, "grayscale": 2, "rotation": 4, "vertical-flip": 2, "jigsaw": 24, "blur": 4,
                     "inversion": 2}  # fmt: skip
    assert set(sizes) == set(settings.Transformation.__args__)


def test_quarter_turns_compose_as_their_group():
    images = pictures()
    for a, b in itertools.product(range(4), repeat=2):
        assert apply("rotation", a, apply("rotation", b, images)).equal(apply("rotation", (a + b) % 4, images))
    # Counterclockwise: what was at the right is on top.
    assert apply("rotation", 1, images)[:, 0].equal(images[:, :, -1])


def test_flips_and_the_inversion_are_undone_by_themselves():
    images = pictures()
    for name in ("horizontal-flip", "vertical-flip", "inversion"):
        torch.testing.assert_close(apply(name, 1, apply(name, 1, images)), images)
    assert apply("horizontal-flip", 1, images)[:, :, 0].equal(images[:, :, -1])
    assert apply("vertical-flip", 1, images)[:, 0].equal(images[:, -1])


def test_the_classes_of_the_jigsaw_are_the_orders_of_its_quarters():
    quarters = torch.arange(4.0).view(1, 2, 2, 1).repeat_interleave(4, 1).repeat_interleave(4, 2).expand(-1, -1, -1, 3)
    read = [tuple(apply("jigsaw", g, quarters)[0, ::4, ::4, 0].flatten().int().tolist()) for g in range(24)]
    assert read == list(ORDERS) and len(set(read)) == 24
    images = pictures()
    for g, order in enumerate(ORDERS):  # a quarter moves as a whole
        moved = apply("jigsaw", g, images)
        place = order.index(3)
        top, left = 4 * (place // 2), 4 * (place % 2)
        assert moved[:, top : top + 4, left : left + 4].equal(images[:, 4:, 4:])


def test_blurs_grow_and_keep_what_is_constant():
    images = pictures(3, 32)
    spread = [apply("blur", g, images).std().item() for g in range(4)]
    assert spread == sorted(spread, reverse=True)
    torch.testing.assert_close(apply("blur", 3, torch.full((1, 8, 8, 3), 0.3)), torch.full((1, 8, 8, 3), 0.3))


def test_each_image_gets_the_transformation_of_its_own_label():
    images, g = pictures(), torch.tensor([0, 1, 2, 3, 3, 0])
    for image, label, of in zip(images, g, transform(images, "rotation", g)):
        assert of.equal(image.rot90(int(label), (0, 1)))
    with pytest.raises(ValueError, match="'shear' is an unknown transformation; known are: horizontal-flip, .*blur"):
        transform(images, "shear", g)


def test_the_third_view_is_seen_under_all_transformations_or_a_sample():
    images = pictures(5)
    transformed, g = all_transformed(images, "rotation", 4, generator())
    assert sorted(g.view(4, 5)[:, 0].tolist()) == [0, 1, 2, 3]
    assert transformed.equal(transform(images.repeat(4, 1, 1, 1), "rotation", g))
    transformed, g = all_transformed(images, "jigsaw", 4, generator())
    assert transformed.shape == (20, 8, 8, 3) and all(len(set(of.tolist())) == 4 for of in g.view(4, 5).T)


def test_invariance_is_the_identity_half_of_the_time_and_else_each_other_equally():
    """Of 4,000 images: standard errors of .8 points or less."""
    image = pictures(1, 4)
    seen = sometimes(image.expand(4000, -1, -1, -1), "rotation", 0.5, generator())
    shares = [(seen == image.rot90(k, (1, 2))).flatten(1).all(1).float().mean().item() for k in range(4)]
    assert shares == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6], abs=0.03)


def test_a_crop_resamples_the_box_that_it_shows():
    ramp = torch.linspace(0, 1, 32)[None, :, None, None].expand(50, 32, 32, 3)
    whole = random_crop(ramp, 16, (1.0, 1.0), 0.0, generator())
    assert whole.shape == (50, 16, 16, 3)
    rows = random_crop(ramp, 16, (0.2, 0.2), 0.0, generator())
    seen = (rows[:, -1, 0, 0] - rows[:, 0, 0, 0]) * 31 / 32 * 16 / 15  # share of the height, from center to center
    ratio = 0.2**0.5 * torch.tensor([3 / 4, 4 / 3]).sqrt()
    assert ratio[0] - 0.03 < seen.min() and seen.max() < ratio[1] + 0.03
    wide = ramp.transpose(1, 2)
    mirrored = random_crop(wide, 16, (0.2, 0.2), 0.5, generator())
    backward = (mirrored[:, 0, -1, 0] < mirrored[:, 0, 0, 0]).float().mean()
    assert 0.3 < backward < 0.7


def test_colors_change_by_one_matrix_as_step_by_step():
    """Brightness, contrast, saturation, hue and gray, step by step, on images that nothing clips."""
    images = 0.45 + 0.1 * pictures(64, 4)
    found, draws = random_color(images, generator(3)), generator(3)
    uniform, (jittered, gray) = 2 * torch.rand(4, 64, generator=draws) - 1, torch.rand(2, 64, generator=draws)
    luma = lambda x: (x * torch.tensor([0.299, 0.587, 0.114])).sum(-1, keepdim=True)  # noqa: E731
    assert 40 < (jittered < 0.8).sum() < 60 and 5 < (gray < 0.2).sum() < 22

    def turned(x, angle):
        """In the plane of I and Q, with the rounded coefficients of the standard."""
        r, g, b = x.unbind(-1)
        y, i, q = luma(x)[..., 0], 0.5959 * r - 0.2746 * g - 0.3213 * b, 0.2115 * r - 0.5227 * g + 0.3112 * b
        i, q = math.cos(angle) * i - math.sin(angle) * q, math.sin(angle) * i + math.cos(angle) * q
        return torch.stack([y + 0.956 * i + 0.619 * q, y - 0.272 * i - 0.647 * q, y - 1.106 * i + 1.703 * q], -1)

    for i, x in enumerate(images):
        if jittered[i] < 0.8:
            b, c, s = 1 + 0.4 * uniform[:3, i]
            x = b * x
            x = c * x + (1 - c) * luma(x).mean()
            x = s * x + (1 - s) * luma(x)
            x = turned(x, 2 * math.pi * 0.1 * uniform[3, i].item())
        torch.testing.assert_close(found[i], luma(x).expand_as(x) if gray[i] < 0.2 else x, atol=2e-4, rtol=0)


# ---- The losses of the five methods


@pytest.fixture
def z():
    return torch.randn(2, 5, 3, generator=generator(), requires_grad=True)


def unit(v):
    return v / v.norm()


def given(name, z, **changes):
    """A method whose two views have these projections."""
    of = METHODS[name](RECIPE.model_copy(update=changes))
    of.project = lambda x1, x2: z
    return of


def test_simclr_has_negatives_of_the_other_view_alone(z):
    n, total = 5, 0.0
    for one, other in (z, z.flip(0)):
        for i in range(n):
            scores = [torch.dot(unit(one[i]), unit(other[j])) / RECIPE.temperature for j in range(n)]
            total += -torch.log(scores[i].exp() / sum(score.exp() for score in scores)) / (2 * n)
    torch.testing.assert_close(given("simclr", z)(None, None), total)


def test_barlow_twins_against_a_loop(z):
    (z1, z2), total = z, 0.0
    for i, j in itertools.product(range(3), repeat=2):
        a, b = z1[:, i] - z1[:, i].mean(), z2[:, j] - z2[:, j].mean()
        c = (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())
        total = total + ((1 - c) ** 2 if i == j else 0.3 * c**2)
    torch.testing.assert_close(given("barlow-twins", z, redundancy_weight=0.3)(None, None), total, atol=1e-4, rtol=1e-4)
    # Equal views whose dimensions are not correlated have nothing to lose.
    z1 = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert methods.barlow_twins(z1, z1, 0.3) == pytest.approx(0, abs=1e-6)
    assert methods.barlow_twins(z1, -z1, 0.3) == pytest.approx(8, abs=1e-4)


def test_vicreg_against_a_loop(z):
    total, n, width = 25 * sum((z[0, i] - z[1, i]).square().sum() for i in range(5)) / 15, 5, 3
    for of in z:
        spread = [(((of[:, j] - of[:, j].mean()) ** 2).sum() / (n - 1) + 1e-4) ** 0.5 for j in range(width)]
        total = total + 25 / 2 * sum(torch.relu(1 - s) for s in spread) / width
        for i, j in itertools.permutations(range(width), 2):
            covariance = ((of[:, i] - of[:, i].mean()) * (of[:, j] - of[:, j].mean())).sum() / (n - 1)
            total = total + covariance**2 / width
    torch.testing.assert_close(given("vicreg", z)(None, None), total)


def test_the_variance_of_vicreg_keeps_projections_from_shrinking():
    """A norm at the end of its projector would undo the shrinking, and leave the term nothing to do."""
    of, (x1, x2) = METHODS["vicreg"](RECIPE), pictures(32, 16).chunk(2)
    last = [layer for layer in of.p1 if isinstance(layer, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight *= 0.01
    _, variance, _ = losses.vicreg_terms(*of.project(x1, x2))
    variance.backward()
    assert variance > 0.9 and (last.weight.grad * last.weight).sum() < -1e-4


def test_byol_against_a_loop(z):
    """From each view the target of the other one."""
    (t1, t2), total = torch.randn(2, 5, 3, generator=generator(1)), 0.0
    of = given("byol", z)
    of.q, of.target = torch.nn.Linear(3, 3), torch.nn.Identity()
    for i in range(5):
        for view, target in ((z[0, i], t2[i]), (z[1, i], t1[i])):
            total = total + (unit(of.q(view)) - unit(target)).square().sum() / 5
    torch.testing.assert_close(of(t1, t2), total)


def test_simsiam_is_a_cosine_whose_target_gets_no_gradient(z):
    of = given("simsiam", z)
    of.q = torch.nn.Identity()
    loss = of(None, None)
    torch.testing.assert_close(loss, -sum(torch.dot(unit(a), unit(b)) for a, b in zip(*z)) / 5)
    loss.backward()
    gradient = z.grad.clone()
    z.grad = None
    p = [F.normalize(v, dim=1) for v in z]
    fixed = [v.detach() for v in p]
    (-(p[0] * fixed[1]).sum(1).mean() / 2 - (p[1] * fixed[0]).sum(1).mean() / 2).backward()
    torch.testing.assert_close(gradient, z.grad)


def test_byol_predicts_a_target_that_moves_and_gets_no_gradient():
    of, (x1, x2) = METHODS["byol"](RECIPE), pictures(8, 16).chunk(2)
    loss = of(x1, x2)
    loss.backward()
    assert 0 <= loss <= 8
    assert all(parameter.grad is None for parameter in of.target.parameters())
    assert all(parameter.grad is not None for parameter in [*of.f.parameters(), *of.q.parameters()])
    with torch.no_grad():
        for parameter in of.f.parameters():
            parameter += 1
        slow, fast = next(of.target.parameters()), next(of.f.parameters())
        before = slow.clone()
        of.after_step(1.0)  # at the end it stands still
        assert slow.equal(before)
        of.after_step(0.0)
        torch.testing.assert_close(slow, before + (1 - RECIPE.target_momentum) * (fast - before))
    assert methods.squared_distance(x1[0, 0], -3 * x1[0, 0]) == pytest.approx(4)
    assert methods.squared_distance(x1[0, 0], 3 * x1[0, 0]) == pytest.approx(0, abs=1e-6)


# ---- The objective


@pytest.mark.parametrize("method", METHODS)
def test_the_objective_is_the_sum_of_the_paper(method):
    model, (x1, x2) = ESSL(method, "rotation", False, RECIPE).eval(), pictures(8, 16).chunk(2)
    x3 = pictures(4, 8)
    parts = model(x1, x2, x3, generator())
    entropy = 0.0
    for image in x3:
        for g in range(4):
            logits = model.p2(model.f(image.rot90(g, (0, 1))[None]))[0]
            entropy = entropy - logits.log_softmax(0)[g] / 16
    torch.testing.assert_close(parts["sensitivity"], entropy)
    weight = RECIPE.sensitivity_weights[method]
    torch.testing.assert_close(parts["loss"], parts["invariance"] + weight * entropy)
    parts["sensitivity"].backward()
    assert next(model.f.parameters()).grad.abs().sum() > 0  # it shapes the encoder, not p2 alone


def test_the_control_has_the_same_views_and_labels_that_nothing_tells():
    model = ESSL("simclr", "rotation", True, RECIPE)
    x, told = pictures(200, 8), []
    model.p2 = torch.nn.Identity()
    record = lambda logits, g: told.append(g) or logits.sum()  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "cross_entropy", record)
        model.invariant.forward = lambda x1, x2: torch.zeros(())
        model(x, x, x, generator())
    _, g = all_transformed(x, "rotation", 4, generator())
    assert told[0].shape == g.shape and 0.2 < (told[0] == g).float().mean() < 0.3


# ---- Training and evaluation


def case(**changes):
    given = dict(name="tiny", study="essl-diagnosis", method="simclr", role="baseline", augmentation="crop", steps=6,
                 seeds=(0,))  # fmt: skip
    return study.Case(**given | changes)


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_an_interrupted_training_goes_on_to_the_same_weights(method, tmp_path):
    of = case(method=method, sensitive="jigsaw")
    spec = RECIPE.model_copy(update={"checkpoint_every": 2, "view_size": 16, "third_size": 8})
    images = torch.from_numpy(noise().images)
    whole, history = training.train(of, 0, images, spec)

    def stop(step):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(of, 0, images, spec, checkpoint=tmp_path / "part.pt", report=stop)
    steps = []
    resumed, again = training.train(of, 0, images, spec, checkpoint=tmp_path / "part.pt", report=steps.append)
    assert steps == [5, 6]
    for name, value in whole.state_dict().items():
        assert value.equal(resumed.state_dict()[name]), name
    assert [row["loss"] for row in history] == [row["loss"] for row in again]
    other, _ = training.train(of, 1, images, spec)
    assert not next(other.f.parameters()).equal(next(whole.f.parameters()))


def test_a_loss_that_is_not_finite_ends_a_training(monkeypatch):
    monkeypatch.setattr(training, "losses_of", lambda *_: {"loss": torch.tensor(float("nan"))})
    with pytest.raises(FloatingPointError, match="The loss of tiny, seed 0, is nan at step 0; lower essl.recipe.learn"):
        training.train(case(), 0, torch.from_numpy(noise().images), RECIPE)


def test_the_imagenet_recipes_take_a_step():
    """Of LARS, on random tensors; their batches, and lambda for each method, stand in the settings."""
    essl = settings.load(ROOT / "profiles/paper.yaml").essl
    batches = {method: essl.on_imagenet(method).batch for method in essl.imagenet}
    weights = {m: essl.on_imagenet(m).sensitivity_weights[m] for m in essl.imagenet}
    assert batches["simclr"] == 4096 and weights == {"simclr": 0.4, "simsiam": 0.08, "barlow-twins": 8.0}
    spec = essl.on_imagenet("simclr").model_copy(update={"view_size": 32, "third_size": 32})
    assert (spec.optimizer, spec.learning_rate, spec.temperature) == ("lars", 4.8, 0.2)
    of = case(augmentation="full", sensitive="rotation")
    model = training.initialized(of, 0, spec)
    optimizer = training.optimizer_of(model, spec)
    kernel, bias = model.f.net.conv1.weight, model.f.net.bn1.bias
    before = kernel.detach().clone()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8))
    parts = training.losses_of(model, images, of, spec, training.Draws(0, 0))
    parts["loss"].backward()
    shift = -4.8 * bias.grad.clone()
    optimizer.step()
    assert torch.isfinite(parts["loss"])
    # A kernel moves by 1/1000 of its norm times the rate, whatever its gradient; biases as in SGD.
    moved = (kernel.detach() - before).norm()
    torch.testing.assert_close(moved, 4.8e-3 * before.norm(), rtol=1e-4, atol=0)
    torch.testing.assert_close(bias.detach(), shift)


@pytest.mark.parametrize("method", ["simsiam", "barlow-twins"])
def test_the_other_imagenet_recipes_take_a_step_too(method):
    """With smaller views, and a narrower last projection than Barlow Twins' 8,192."""
    spec = settings.load(ROOT / "profiles/paper.yaml").essl.on_imagenet(method)
    small = {"view_size": 32, "third_size": 32, "projector": (512, 512, 512)}
    spec, of = spec.model_copy(update=small), case(method=method, augmentation="full", sensitive="rotation")
    model = training.initialized(of, 0, spec)
    optimizer, before = training.optimizer_of(model, spec), model.f.net.conv1.weight.detach().clone()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8))
    parts = training.losses_of(model, images, of, spec, training.Draws(0, 0))
    parts["loss"].backward()
    optimizer.step()
    told = {name: part.item() for name, part in parts.items()}
    assert told["loss"] == pytest.approx(told["invariance"] + spec.sensitivity_weights[method] * told["sensitivity"])
    assert torch.isfinite(parts["loss"]) and not before.equal(model.f.net.conv1.weight)


def test_neighbors_vote_by_cosine():
    bank = torch.tensor([[1.0, 0], [9, 1], [0, 1], [0, 2], [0, 3]])
    labels = np.array([0, 0, 1, 1, 1])
    found = evaluation.knn(bank, labels, torch.tensor([[5.0, 0.1], [0.1, 5]]), (1, 200), 0.1)
    assert found[1].tolist() == [0, 1] and found[200].tolist() == [0, 1]
    # With equal weights the three others win.
    assert evaluation.knn(bank, labels, torch.tensor([[5.0, 0.1]]), (200,), 1e6)[200].tolist() == [1]


def test_the_probe_is_selected_on_validation_images(monkeypatch):
    """With penalty k a probe that knows class k alone."""

    class Knows:
        def __init__(self, C, **_):
            self.known = round(1 / (2 * C * 6))

        def fit(self, x, y):
            pass

        def score(self, x, y):
            return (self.predict(x) == y).mean()

        def predict(self, x):
            return np.full(len(x), self.known)

    labels = {"train": np.array([0, 0, 0, 2, 2, 1]), "validation": np.array([0, 1, 1]), "test": np.array([2, 2])}
    of = {split: torch.randn(len(y), 4, generator=generator()) for split, y in labels.items()}
    monkeypatch.setattr(evaluation, "LogisticRegression", Knows)
    found = evaluation.linear(of, labels, (1, 2, 3))
    assert found["validation"].tolist() == [1, 1, 1] and found["test"].tolist() == [1, 1]


# ---- Studies


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_bytes((ROOT / "profiles/ci.yaml").read_bytes())
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    return PARAMS.essl


def test_cases_follow_from_lists():
    essl = PARAMS.essl
    assert [case.name for case in study.diagnosis(essl)] == [
        "crop", "rotation-invariance", "rotation-sensitivity", "rotation-control", "jigsaw-invariance",
        "jigsaw-sensitivity",
    ]  # fmt: skip
    cases = {case.name: case for case in study.methods(essl)}
    assert list(cases) == ["plain-simclr", "e-simclr", "longer-simclr", "plain-byol", "e-byol"]
    # Two views of 32 x 32, and with these four of 16 x 16: half as many pixels again.
    assert study.cost_of_a_step(essl.recipe) == 1.5
    assert cases["longer-simclr"].steps == 1.5 * cases["plain-simclr"].steps
    assert not cases["longer-simclr"].sensitive and cases["e-simclr"].sensitive == "rotation"


def test_rows_come_from_the_store(workspace, monkeypatch):
    images, cases = noise(), study.diagnosis(workspace)[:3]
    rows = study.rows_of(cases, images, workspace)
    assert set(rows["run"]) == {"crop", "rotation-invariance", "rotation-sensitivity"} and set(rows["seed"]) == {0, 1}
    test = rows[rows["split"] == "test"]
    assert test.groupby(["run", "seed"]).size().eq([3, 3, 3, 3, 4, 4]).all()
    assert (test["floor"] == np.where(test["metric"] == "transformation", 25, 50)).all() and (test["n"] == 32).all()
    assert test.loc[test["metric"] == "linear", "value"].min() > 90  # dark or light
    monkeypatch.setattr(study, "train", None)
    monkeypatch.setattr(evaluation, "evaluate", None)
    assert study.rows_of(cases, images, workspace).equals(rows)


@pytest.mark.parametrize(
    ("changes", "anew"),
    [
        ({"checkpoint_every": 9}, set()),
        ({"probability": 0.4}, {"rotation-invariance"}),
        ({"third_size": 8}, {"rotation-sensitivity", "rotation-control"}),
        ({"temperature": 0.3}, {"crop", "rotation-invariance", "rotation-sensitivity", "rotation-control"}),
    ],
)
def test_a_changed_setting_trains_what_reads_it(changes, anew):
    essl = PARAMS.essl
    edited = essl.model_copy(update={"recipe": essl.recipe.model_copy(update=changes)})
    cases = study.diagnosis(essl)[:4]
    assert {of.name for of in cases if study.recipe(of, 0, essl) != study.recipe(of, 0, edited)} == anew
    assert len({store.key(study.recipe(of, 0, essl)) for of in cases}) == 4


def test_a_method_that_computes_other_weights_trains_its_own_cases_anew(monkeypatch):
    cases = [case(method=method) for method in METHODS]
    before = [study.recipe(of, 0, PARAMS.essl) for of in cases]
    monkeypatch.setattr(METHODS["vicreg"], "version", 9)
    assert [of.method for of, was in zip(cases, before) if study.recipe(of, 0, PARAMS.essl) != was] == ["vicreg"]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "diagnosis.transformations",
            ["rotatoin"],
            "essl.diagnosis.transformations[0] is the text 'rotatoin'; choose one of: h",
        ),
        ("diagnosis.controls", ["blur"], "its controls must be of its transformations."),
        ("diagnosis.steps", 0, "essl.diagnosis.steps is 0; it must be greater than or equal to 1."),
        (
            "methods.names",
            ["byol"],
            '"steps": 4}; each of longer must be in names, too: add it there, or take it out of longer.',
        ),
    ],
)
def test_what_does_not_hold_is_one_sentence(key, value, sentence):
    given = PARAMS.essl.model_dump(mode="json")
    part, key = key.split(".")
    given[part][key] = value
    with pytest.raises(ValueError) as error:
        settings.section("essl", given)
    assert str(error.value).startswith(f"essl.{part}") and sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_needs_its_lambda():
    recipe = RECIPE.model_copy(update={"sensitivity_weights": {"byol": 0.4}})
    essl = PARAMS.essl.model_copy(update={"recipe": recipe})
    with pytest.raises(ValueError, match="essl.recipe.sensitivity_weights has no simclr; write its lambda there."):
        study.recipe(case(sensitive="rotation"), 0, essl)
    study.recipe(case(), 0, essl)  # plain it needs none


def test_photographs_change_data_and_size_alone(monkeypatch):
    monkeypatch.chdir(ROOT)
    before = settings.load()
    after = settings.from_dict(essl_photographs.changed(Path("images.tar")))
    own = before.essl.photographs
    assert after.essl.name == "cifar10-jpeg" and after.essl.root.endswith("/images.tar")
    assert (after.essl.train_images, after.essl.recipe.batch) == (own.train_images, own.batch)
    assert (after.essl.diagnosis.steps, after.essl.diagnosis.seeds) == (own.steps, own.seeds)
    assert after.essl.diagnosis.transformations == own.transformations
    assert after.model_copy(update={"essl": None}) == before.model_copy(update={"essl": None})


# ---- Claims


def rows(study="essl-diagnosis", **values):
    """Test rows of runs, with one value for each seed, in percent; a constant is right for a tenth."""
    told = [
        (study, run, seed, "test", "linear", value, 10.0) for run, of in values.items() for seed, value in enumerate(of)
    ]
    return pd.DataFrame(told, columns=["study", "run", "seed", "split", "metric", "value", "floor"])


def test_the_interval_of_two_trainings_is_welch_s():
    a, b = [50.0, 52.5, 51.0, 55.0], [49.0, 50.0, 50.5]
    named = claims.by_name(summary.of_essl(rows(a=a, b=b)))
    found = claims.judge(
        {"left": "diagnosis.a.linear", "minus": "diagnosis.b.linear", "relation": ">", "bound": 0}, named
    )
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert [100 * end for end in found.interval] == pytest.approx([interval.low, interval.high])
    assert 100 * found.estimate == pytest.approx(np.mean(a) - np.mean(b)) and found.seeds == 3


def test_a_published_sign_is_told_from_noise_or_not_testable(monkeypatch):
    monkeypatch.chdir(ROOT)
    signs = {"horizontal-flip": 5, "grayscale": -5, "rotation": -5, "vertical-flip": 0.1}
    of = {f"{name}-invariance": [50 + gain, 50.8 + gain, 49 + gain] for name, gain in signs.items()}
    measured = summary.of_essl(rows(crop=[50, 50.5, 49], **of))
    cases = study.diagnosis(settings.load(ROOT / "profiles/full.yaml").essl)
    budgets = study.budgets(cases, settings.load(ROOT / "profiles/full.yaml").essl)
    found = claims.decide("41_diagnosis", measured, True, budgets).set_index("id")["verdict"]
    assert found["essl-invariance-to-horizontal-flip-helps-linear"] == "holds (stand-in data)"
    assert found["essl-invariance-to-grayscale-helps-linear"] == "does not"
    assert found["essl-invariance-to-rotation-hurts-linear"] == "holds (stand-in data)"
    assert found["essl-invariance-to-vertical-flip-hurts-linear"] == "mixed"
    assert found["essl-invariance-to-blur-hurts-linear"] == "not testable"
    alone = claims.decide("41_diagnosis", measured[measured["seed"] == 0], True, budgets).set_index("id")
    line = alone.loc["essl-invariance-to-horizontal-flip-helps-linear"]
    assert (line["verdict"], line["estimate"], line["interval"]) == ("not testable", "0.050", "")


def test_every_claim_of_the_chapter_is_about_a_training_of_the_profile_full(monkeypatch):
    monkeypatch.chdir(ROOT)
    essl = settings.load("profiles/full.yaml").essl
    names = {f"diagnosis.{case.name}.{of}" for case in study.diagnosis(essl) for of in ("kNN-20", "linear")}
    names |= {f"methods.{case.name}.linear" for case in study.methods(essl)}
    asked = [*claims.load(notebook="41_diagnosis"), *claims.load(notebook="42_essl_methods")]
    assert len(asked) == 2 * (2 + 5 + 5 + 7) + 5 + 5
    assert {claim[side] for claim in asked for side in ("left", "minus", "learned")} <= names


def test_a_notebook_can_read_the_section_that_it_is_given():
    given = settings.load(ROOT / "profiles/paper.yaml").model_dump(mode="json")["essl"]
    assert settings.section("essl", given).on_imagenet("simsiam").sensitivity_weights == {"simsiam": 0.08}
