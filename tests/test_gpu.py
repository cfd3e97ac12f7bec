"""A GPU trains and evaluates as the processor does, but for rounding.  Skipped where there is none."""

from pathlib import Path

import pandas as pd
import pytest
import test_essl
import tiny
import torch
from lightning_fabric import Fabric

from lib.essl import evaluation, training
from lib.essl.bridge import NAME as E_SIMCLR
from lib.essl.methods import METHODS as ESSL_METHODS
from lib.evaluation.evaluate import evaluate_run
from lib.method.methods import METHODS, build
from lib.method.pretrain import pretrain
from lib.people import adult, fairness

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
PLACES, ROOT = ("cpu", "cuda"), Path(__file__).parents[1]


def train(run, place):
    return pretrain(run, 0, tiny.views(), fabric=Fabric(accelerator=place, devices=1, precision=run.precision))


def assert_alike(cpu, gpu, *, apart=0.02):
    """Two frames of rows with the same keys; of their values, nine in ten are no more than `apart` from each other."""
    keys = [name for name in cpu.columns if name not in ("value", "floor")]
    pd.testing.assert_frame_equal(cpu[keys], gpu[keys])
    assert ((cpu["value"] - gpu["value"]).abs() < apart * cpu["value"].abs().clip(lower=1)).mean() >= 0.9


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_a_training_has_the_same_losses(method, optimizer):
    run = tiny.run("contextssl", steps=3, optimizer=optimizer, label_weight=0.0 if method == E_SIMCLR else 1.0)
    run = run.model_copy(update={"method": method})
    (_, cpu), (_, gpu) = (train(run, place) for place in PLACES)
    # Two of three steps: what one learning rate after another makes of a difference in the last bits is no mistake.
    for one, other in zip(cpu[:2], gpu[:2], strict=True):
        assert one == pytest.approx(other, rel=0.02)


@pytest.mark.parametrize("method", ["contextssl", "sie"])
def test_half_precision_trains_though_a_gradient_overflows(method):
    run = tiny.run(method, steps=12).model_copy(update={"precision": "16-mixed"})
    _, history = train(run, "cuda")
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize("method", [name for name in METHODS if name != E_SIMCLR])
def test_an_evaluation_has_the_same_rows(method):
    run, views = tiny.run(method, label_weight=1.0, probes=("paper", "linear", "ridge", "strong")), tiny.views()
    torch.manual_seed(0)
    model = build(run, views).eval()
    assert_alike(*(evaluate_run(model.to(place), views, run, 0) for place in PLACES))


def test_an_evaluation_of_people_has_the_same_rows():
    frame, split = adult.read(ROOT / adult.FILE), adult.split()
    views, _ = adult.views(frame[::20].reset_index(drop=True), split[::20])
    run = tiny.run(
        groups=("gender", "none"), encoder="mlp", context_kinds=("gender", "none"), context_lengths=(0, 6)
    ).model_copy(update={"study": "adult", "sections": ("adult",), "dataset": "adult"})
    torch.manual_seed(0)
    model, outcomes = build(run, views).eval(), {"income": views.labels.numpy()}
    assert_alike(*(
        fairness.evaluate_fairness(model.to(place), views, run, 0, outcomes=outcomes) for place in PLACES
    ))  # fmt: skip


@pytest.mark.parametrize("method", ESSL_METHODS)
@pytest.mark.parametrize("sensitive", ["", "jigsaw"])
def test_essl_has_the_same_losses_and_rows(method, sensitive):
    images, recipe = test_essl.noise(), test_essl.RECIPE
    of = test_essl.case(method=method, sensitive=sensitive, augmentation="full", steps=3)
    found = [training.train(of, 0, torch.from_numpy(images.images), recipe, place=place) for place in PLACES]
    for one, other in zip(*(history for _, history in found), strict=True):
        assert {**one, "seconds": 0} == pytest.approx({**other, "seconds": 0}, rel=0.02)
    model = found[0][0].cpu()
    assert_alike(*(
        evaluation.evaluate(model.to(place), images, of, recipe, test_essl.PARAMS.essl.evaluate) for place in PLACES
    ), apart=0.05)  # fmt: skip
