"""Contexts are drawn as promised, training learns, resumes to the same weights, and stops at a NaN."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from lib.pipeline import settings as schema
from lib.method import pretrain as training
from lib.data.views import GROUPS, Views, quaternion
from lib.method.methods import ContextSSLStep, build
from lib.method.sampling import active_components, sample_groups, sample_pairs

SPEC = schema.load("profiles/ci.yaml")
PARAMS = replace(
    SPEC,
    data=replace(SPEC.data, image_size=16, views=6),
    model=replace(
        SPEC.model, feature_dim=16, width=16, layers=2, heads=2, output_dim=16, block_size=8, projector_dim=16,
        projector_out=16,
    ),
    context=replace(SPEC.context, pairs_per_object=2),
    pretrain=replace(
        SPEC.pretrain, steps=12, objects_per_step=6, views_per_object=4, contexts_per_step=4, checkpoint_every=5
    ),
)  # fmt: skip
BOTH = ("rotation", "color")
METHODS = ("contextssl", "simclr", "vicreg", "simclr-plus", "vicreg-plus", "equimod", "sen", "sie")


@pytest.fixture
def views():
    """Six views of 20 objects: a pattern of each object's own, whose red is the floor's hue, and noise."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.rand(120, 7, generator=generator)
    images = torch.rand(20, 16, 16, 3, generator=generator).repeat_interleave(6, 0) * 150
    images += torch.rand(120, 16, 16, 3, generator=generator) * 20
    images[..., 0] += 80 * latents[:, None, None, 3]
    images = images.to(torch.uint8)
    targets = torch.cat([quaternion(latents[:, :3]), latents[:, [3, 6]]], 1)
    split = np.array(["train"] * 16 + ["validation"] * 2 + ["test"] * 2)
    names = np.array(["parametric"] * 20)
    return Views(images, targets, latents, torch.zeros(20, dtype=torch.long), ("thing",), split, names, names, 6)


@pytest.fixture
def train(views, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SCRATCH", tmp_path)
    fabric = Fabric(accelerator="cpu", devices=1)

    def run(params=PARAMS, method="contextssl", seed=0):
        return training.pretrain(fabric, params, method, BOTH, seed, views, "test run")

    return run


def test_pairs_are_disjoint_views_of_one_object_m_of_each():
    pairs = sample_pairs(50, 12, 8, 7, 3, torch.Generator().manual_seed(0))
    for x, y in zip(pairs.x.tolist(), pairs.y.tolist()):
        assert len(set(x + y)) == 24
        assert all(i // 7 == j // 7 for i, j in zip(x, y))
        assert sorted(np.unique([i // 7 for i in x], return_counts=True)[1]) == [3] * 4
    with pytest.raises(ValueError, match="8 views and 4 objects in a step; got 7 views"):
        sample_pairs(1, 16, 8, 7, 4, torch.Generator())


def test_groups_take_turns_in_a_batch_or_rule_it():
    generator = torch.Generator().manual_seed(0)
    assert sorted(sample_groups(4, BOTH, "context", generator)) == ["color"] * 2 + ["rotation"] * 2
    by_batch = {tuple(sample_groups(3, BOTH, "batch", generator)) for _ in range(20)}
    assert by_batch == {("rotation",) * 3, ("color",) * 3}


def test_a_group_is_active_in_its_own_columns_and_none_in_no_column():
    active = active_components(["color", "none", "rotation"], GROUPS, 6)
    assert active.tolist() == [[0, 0, 0, 0, 1, 1], [0] * 6, [1, 1, 1, 1, 0, 0]]
    assert active_components(["gender"], {"gender": slice(1, 2)}, 3).tolist() == [[0, 1, 0]]


def test_the_other_group_of_an_action_never_reaches_the_model(views):
    """What a context may not tell must not change a loss: color latents in a rotation context."""
    step = ContextSSLStep(build(PARAMS, "contextssl", BOTH, views), PARAMS, ("rotation",), views).eval()
    images, targets = views.images[:36].unflatten(0, (6, 6))[:, :4], views.targets[:36].unflatten(0, (6, 6))[:, :4]
    recolored = targets.clone()
    recolored[..., 4:] = torch.rand_like(recolored[..., 4:])
    losses = [
        step(images, t, views.labels[:6], torch.Generator().manual_seed(1), 0.5)
        for t in (targets, recolored, targets.flip(0))
    ]
    assert torch.equal(losses[0]["loss"], losses[1]["loss"])
    assert not torch.equal(losses[0]["loss"], losses[2]["loss"])


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls(train, method):
    params = replace(PARAMS, pretrain=replace(PARAMS.pretrain, steps=30, learning_rate=3e-3, checkpoint_every=30))
    _, history = train(params, method)
    first, last = (sum(row["loss"] for row in rows) / 5 for rows in (history[:5], history[-5:]))
    assert last < 0.95 * first


def test_an_interrupted_training_ends_at_the_same_weights(train, tmp_path, monkeypatch):
    straight, history = train()
    for file in tmp_path.rglob("*.pt"):
        file.unlink()
    clip, calls = Fabric.clip_gradients, iter(range(8))

    def interrupted(*args, **kwargs):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return clip(*args, **kwargs)

    monkeypatch.setattr(Fabric, "clip_gradients", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train()
    monkeypatch.setattr(Fabric, "clip_gradients", clip)
    resumed, resumed_history = train()
    assert resumed_history == history
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_another_training_does_not_take_the_checkpoint(train):
    first, _ = train()
    other, _ = train(replace(PARAMS, context=replace(PARAMS.context, mask_probability=0.1)))
    assert not torch.equal(first.predictor.read_in.weight, other.predictor.read_in.weight)


def test_a_loss_that_is_not_finite_stops_at_once(train):
    params = replace(PARAMS, pretrain=replace(PARAMS.pretrain, temperature=1e-45))
    with pytest.raises(FloatingPointError, match=r"loss of test run is (nan|inf) at step 0; lower"):
        train(params)


def test_weights_come_back_as_they_were_and_misfits_are_told(train, views, tmp_path):
    model, _ = train()
    training.save_run_model(model, tmp_path / "run", 0)
    loaded = training.load_run_model(tmp_path / "run", 0, PARAMS, "contextssl", BOTH, views)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(FileNotFoundError, match="dvc repro pretrain@run"):
        training.load_run_model(tmp_path / "run", 1, PARAMS, "contextssl", BOTH, views)
    wider = replace(PARAMS, model=replace(PARAMS.model, width=32))
    with pytest.raises(ValueError, match="other model params"):
        training.load_run_model(tmp_path / "run", 0, wider, "contextssl", BOTH, views)
