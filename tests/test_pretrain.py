"""Contexts are drawn as promised, training learns, resumes to the same bytes, and stops at a NaN."""

import random
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tiny
import torch
from lightning_fabric import Fabric

from lib.data.views import GROUPS
from lib.method import sampling
from lib.method.methods import METHODS, Step, build
from lib.method.pretrain import load_model, pretrain, save_model
from lib.method.sampling import Draws, active_components, restrict, sample_batch, sample_groups, sample_pairs
from lib.pipeline.settings import Method

BOTH = ("rotation", "color")


@pytest.fixture
def views():
    return tiny.views()


@pytest.fixture
def train(views):
    fabric = Fabric(accelerator="cpu", devices=1)
    return lambda run, **options: pretrain(run, 0, views, fabric=fabric, **options)


def test_pairs_are_disjoint_views_of_one_object_m_of_each():
    pairs = sample_pairs(50, 12, 8, 7, 3, torch.Generator().manual_seed(0))
    for x, y in zip(pairs.x.tolist(), pairs.y.tolist()):
        assert len(set(x + y)) == 24
        assert all(i // 7 == j // 7 for i, j in zip(x, y))
        assert sorted(np.unique([i // 7 for i in x], return_counts=True)[1]) == [3] * 4
    with pytest.raises(ValueError, match="8 views and 4 objects in a step; got 7 views"):
        sample_pairs(1, 16, 8, 7, 4, torch.Generator())


def test_contexts_share_no_image_where_there_are_objects_enough():
    pairs = sample_pairs(3, 4, 12, 2, 1, torch.Generator().manual_seed(0))
    assert sorted(torch.cat([pairs.x, pairs.y]).flatten().tolist()) == list(range(24))
    pairs = sample_pairs(4, 4, 12, 2, 1, torch.Generator().manual_seed(0))  # too few: each context draws anew
    assert all(len(set(x + y)) == 8 for x, y in zip(pairs.x.tolist(), pairs.y.tolist()))


def test_groups_take_turns_in_a_batch_or_rule_it():
    generator = torch.Generator().manual_seed(0)
    assert sorted(sample_groups(4, BOTH, "context", generator)) == ["color"] * 2 + ["rotation"] * 2
    by_batch = {tuple(sample_groups(3, BOTH, "batch", generator)) for _ in range(20)}
    assert by_batch == {("rotation",) * 3, ("color",) * 3}


def test_an_action_is_restricted_to_the_columns_of_its_group():
    active = active_components(["color", "none", "rotation", "rotation+color"], GROUPS, 6)
    assert active.tolist() == [[0, 0, 0, 0, 1, 1], [0] * 6, [1, 1, 1, 1, 0, 0], [1] * 6]
    assert active_components(["gender"], {"gender": slice(1, 2)}, 3).tolist() == [[0, 1, 0]]
    actions = torch.arange(1.0, 7).expand(2, 3, 6)
    assert torch.equal(restrict(actions, "color", GROUPS)[1, 2], torch.tensor([0.0, 0, 0, 0, 5, 6]))
    by_context = restrict(actions, ["color", "rotation"], GROUPS)
    assert torch.equal(by_context.sum((1, 2)), torch.tensor([33.0, 30.0]))


def test_the_other_group_of_an_action_never_reaches_the_model(views):
    """What a context may not tell must not change a loss: color latents in a rotation context."""
    run = tiny.run(groups=("rotation",))
    step, batch = Step(build(run, views), run, views).eval(), sample_batch(views, run.pretrain, Draws(0, 0))
    recolored = batch.targets.clone()
    recolored[..., 4:] = torch.rand_like(recolored[..., 4:])
    losses = [
        step(batch._replace(targets=t), Draws(0, 0), 0.5)["loss"]
        for t in (batch.targets, recolored, batch.targets.flip(0))
    ]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_a_stream_knows_its_seed_and_step_alone():
    def drawn(draws, stream):
        return tuple(torch.rand(3, generator=draws(stream)).tolist())

    draws = Draws(0, 5)
    before = drawn(draws, "pairs")
    torch.rand(1000, generator=draws("masks"))
    torch.rand(1000)
    assert drawn(draws, "pairs") == before == drawn(Draws(0, 5), "pairs")
    others = [(Draws(0, 5), "masks"), (Draws(0, 6), "pairs"), (Draws(1, 5), "pairs"), (Draws(0, 5, 1), "pairs")]
    assert len({before, *(drawn(*other) for other in others)}) == 5


def test_more_draws_of_one_stream_leave_the_others_alone(train, monkeypatch):
    """Masks anew in each layer and labels on top: objects, pairs and groups stay as they were."""
    seen = []
    for name in ("sample_pairs", "sample_groups"):
        function = getattr(sampling, name)

        def spied(*args, function=function):
            seen.append(function(*args))
            return seen[-1]

        monkeypatch.setattr(sampling, name, spied)
    for changes in ({}, {"mask_per_layer": True, "mask_unit": "pair", "label_weight": 1.0}):
        seen.append(changes)
        train(tiny.run(steps=3, **changes))
    first, second = seen[1:7], seen[8:]
    assert [str(draw) for draw in first] == [str(draw) for draw in second] and len(first) == 6


@pytest.mark.parametrize("method", get_args(Method))
def test_the_loss_falls(train, method):
    _, history = train(tiny.run(method, steps=30, checkpoint_every=30))
    first, last = (sum(row["loss"] for row in rows) / 5 for rows in (history[:5], history[-5:]))
    assert last < 0.95 * first


@pytest.mark.parametrize(
    ("method", "optimizer"), [("contextssl", "muon"), ("vicreg-plus", "adamw"), ("simclr", "muon"), ("sie", "adam")]
)
def test_an_interrupted_training_ends_at_the_same_bytes(train, tmp_path, method, optimizer):
    stop = random.randrange(1, 12)
    every = random.randrange(1, stop + 1)
    run = tiny.run(method, optimizer=optimizer, checkpoint_every=every, label_weight=1.0)
    checkpoint = tmp_path / "training.pt"
    straight, history = train(run)

    def interrupt(done):
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, checkpoint=checkpoint, report=interrupt)
    torch.rand(random.randrange(100))  # nothing may depend on torch's global source of randomness
    steps = []
    resumed, resumed_history = train(run, checkpoint=checkpoint, report=steps.append)
    assert steps == list(range(stop // every * every, 13)), f"{stop=} {every=}"
    assert resumed_history == history, f"{stop=} {every=}"
    for name, model in (("straight", straight), ("resumed", resumed)):
        save_model(model, tmp_path / name)
    assert (tmp_path / "straight").read_bytes() == (tmp_path / "resumed").read_bytes(), f"{stop=} {every=}"
    assert not list(tmp_path.glob("*.part"))


def test_a_loss_that_is_not_finite_stops_at_once(train):
    with pytest.raises(FloatingPointError, match=r"loss of tiny, seed 0 is (nan|inf) at step 0; lower"):
        train(tiny.run(temperature=1e-45), label="tiny, seed 0")


def test_a_gradient_that_is_not_finite_stops_at_once(train, monkeypatch):
    """The root of zero is zero, but not its slope."""
    flat = lambda model, *_: {"loss": sum((0 * of).sum() for of in model.parameters()).abs().sqrt()}  # noqa: E731
    monkeypatch.setitem(METHODS, "contextssl", replace(METHODS["contextssl"], step=flat))
    with pytest.raises(FloatingPointError, match=r"The gradient of tiny is nan at step 0; lower pretrain"):
        train(tiny.run())


def test_weights_come_back_as_they_were_and_misfits_are_told(views, tmp_path):
    run, path = tiny.run(), tmp_path / "folder" / "model.safetensors"
    model = build(run, views)
    save_model(model, path)
    loaded = load_model(path, run, views)
    assert not loaded.training
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(FileNotFoundError, match="dvc repro pretrain@main"):
        load_model(Path("nowhere"), run, views)
    with pytest.raises(ValueError, match="other model params"):
        load_model(path, tiny.run(width=32), views)
