"""The shortcut diagnostic: hand-made models that take the shortcut or cannot, and what a foreign anchor may see."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from lib.data.views import GROUPS, Views, action, quaternion
from lib.evaluation.shortcut import attention_shares, own_is_nearest, past_mean, shortcut, with_foreign_anchors
from lib.method.masking import pair_causal_mask, random_context_mask
from lib.method.models import ContextTransformer

LAYERS, WIDTH = 2, 8


def measured(predictor, views, p, groups=("rotation", "color"), contexts=12, **context):
    """The diagnostic of a predictor under masks of p, by (variant but for the mask, metric), and chance by metric.

    32 pairs, four of each object.
    """
    model = SimpleNamespace(encoder=Pixels(), predictor=predictor, parameters=predictor.parameters)
    run = tiny.run(
        groups=groups, shortcut_masks=(p,), block_size=64, layers=LAYERS, pairs_per_object=4, **context
    )  # fmt: skip
    found, chance = shortcut(model, views, run, contexts)
    plain = {variant: variant and variant.removesuffix(f",mask={p:.2f}") for variant in found}
    return {(plain[variant], metric): v for variant, of in found.items() for metric, v in of.items()}, chance


def accuracy(found, anchor):
    return found[f"anchor={anchor}", "partner_accuracy"]


@pytest.fixture(scope="module")
def views():
    """12 test objects of 8 views; the "images" are noise, so that nothing in them tells which belong together."""
    generator = torch.Generator().manual_seed(0)
    pose = quaternion((torch.rand(96, 3, generator=generator) - 0.5) * torch.pi)
    color = torch.rand(96, 2, generator=generator)
    return Views(
        images=torch.randint(256, (96, 2, 2, 3), dtype=torch.uint8, generator=generator),
        targets=torch.cat([pose, color], 1), latents=torch.zeros(96, 7), labels=torch.zeros(12, dtype=torch.int64),
        classes=("any",), split=np.full(12, "test"), source=None, mesh=None, views=8,
        groups=GROUPS, action=action,
    )  # fmt: skip


class Pixels(nn.Module):
    """An encoder without weights: the centered pixels."""

    def forward(self, images):
        return images.flatten(1).float() / 127.5 - 1


class PastMean(nn.Module):
    """A predictor that takes the shortcut: every token is the mean of what it sees of its past, images unseen."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, features, actions, masks):
        return self.one * past_mean(features, masks[0])

    def attention(self, features, actions, masks):
        return [(m / m.sum(-1, keepdim=True))[:, None] for m in masks]


def untrained(feature_dim=WIDTH):
    torch.manual_seed(0)
    return ContextTransformer(feature_dim, 6, 16, LAYERS, 2, 5, "balanced", torch.ones(6)).eval()


def test_at_p_0_the_mean_of_the_past_finds_the_partner_and_a_model_may_live_on_it(views):
    found, chance = measured(PastMean(), views, 0.0)
    assert chance == {"partner_accuracy": 1 / 32, "partner_info_nce": math.log(32)}
    assert accuracy(found, "mean") == pytest.approx(1)
    # The cosine cannot tell the empty past of the first place, a zero, from anything.
    assert accuracy(found, "pair") == accuracy(found, "foreign") == pytest.approx(31 / 32)
    pair, foreign = (found[f"anchor={who}", "partner_info_nce"] for who in ("pair", "foreign"))
    assert foreign == pytest.approx(pair, rel=1e-5) and pair < math.log(32) - 0.3


def test_at_p_1_there_is_no_past_to_find_the_partner_by(views):
    found, chance = measured(PastMean(), views, 1.0)
    assert accuracy(found, "mean") == accuracy(found, "foreign") == 0  # all alike: ties count against it
    assert found["anchor=pair", "partner_info_nce"] == pytest.approx(chance["partner_info_nce"])
    for part, share in (("self", 1), ("x", 0), ("y", 0)):
        assert found[None, f"attention_uniform_{part}"] == pytest.approx(share)


def test_a_foreign_anchor_without_past_is_at_chance(views):
    found, chance = measured(untrained(12), views, 1.0, contexts=64)
    p = chance["partner_accuracy"]
    assert abs(accuracy(found, "foreign") - p) < 4 * (p / (64 * 32)) ** 0.5


def test_masking_takes_the_shortcut_away_step_by_step(views):
    found = [measured(PastMean(), views, p, groups=("rotation",))[0] for p in (0.0, 0.2, 0.5, 0.9)]
    for anchor in ("foreign", "mean"):
        assert torch.tensor([accuracy(f, anchor) for f in found]).diff().max() < 0, anchor


def test_all_models_are_asked_under_the_same_masks_whatever_their_own(views):
    def found(**own):
        model = SimpleNamespace(encoder=Pixels(), predictor=predictor, parameters=predictor.parameters)
        changes = dict(shortcut_masks=(0.1, 0.9), block_size=64, layers=LAYERS, pairs_per_object=4)
        return shortcut(model, views, tiny.run(**changes, **own))[0]

    predictor = PastMean()
    one = found(mask_probability=0.9, mask_probability_end=0.1)
    assert one == found(mask_probability=0.0, mask_probability_end=0.0)
    light, heavy = (one[f"anchor=foreign,mask={p}"]["partner_accuracy"] for p in ("0.10", "0.90"))
    assert light > heavy + 0.1
    # Attention is that under the first mask: of 63 earlier tokens at most, nine of ten are seen.
    assert one[None]["attention_uniform_self"] < 0.05


@pytest.mark.parametrize("groups", [("rotation",), ("rotation", "color"), ("rotation", "none")])
def test_every_number_is_there_for_any_groups_and_masks_per_layer(views, groups):
    found, _ = measured(untrained(12), views, 0.5, groups, mask_per_layer=True)
    for variant, name in (("layer=1", "attention"), ("layer=2", "attention"), (None, "attention_uniform")):
        assert sum(found.pop((variant, f"{name}_{part}")) for part in ("self", "x", "y")) == pytest.approx(1, abs=1e-5)
    asked = {(f"anchor={who}", f"partner_{what}") for who in ("pair", "foreign") for what in ("accuracy", "info_nce")}
    assert set(found) == asked | {("anchor=mean", "partner_accuracy")}


def test_few_test_objects_give_fewer_pairs(views):
    few = dataclasses.replace(views, split=np.array(["test"] * 3 + ["train"] * 9))
    assert measured(untrained(12), few, 0.5)[1]["partner_accuracy"] == 1 / 12


# ---- foreign anchors


@pytest.fixture(scope="module")
def drawn():
    """Three contexts of five pairs: features, actions, one mask for each layer."""
    generator = torch.Generator().manual_seed(0)
    features, actions = (torch.randn(3, 10, n, generator=generator) for n in (WIDTH, 6))
    return features, actions, [random_context_mask(3, 10, 0.3, "token", generator) for _ in range(LAYERS)]


def test_the_other_tokens_do_not_notice_the_foreign_anchors(drawn):
    h, foreign = with_foreign_anchors(untrained(), *drawn, turn=1)
    torch.testing.assert_close(h, untrained()(*drawn))
    assert foreign.shape == (3, 5, 5)


def test_a_foreign_anchor_is_the_other_anchor_before_this_past(drawn):
    """Slowly: put image and action of context b - 1 in the place of (x_i, a_i), and read that place."""
    features, actions, masks = drawn
    _, foreign = with_foreign_anchors(untrained(), *drawn, turn=1)
    for b in range(3):
        for i in range(5):
            z, a = features[b].clone(), actions[b].clone()
            z[2 * i], a[2 * i] = features[b - 1, 2 * i], actions[b - 1, 2 * i]
            expected = untrained()(z[None], a[None], [mask[b : b + 1] for mask in masks])[0, 2 * i]
            torch.testing.assert_close(foreign[b, i], expected)


def test_no_gradient_reaches_a_foreign_anchor_from_the_pair_that_it_replaces(drawn):
    features, actions = (part.clone().requires_grad_() for part in drawn[:2])
    whole = [random_context_mask(3, 10, 0.0)] * LAYERS
    _, foreign = with_foreign_anchors(untrained(), features, actions, whole, turn=1)
    for i in range(5):
        loss = foreign[2, i].square().sum()
        grads = torch.autograd.grad(loss, (features, actions), retain_graph=True)
        reached = sum(g.abs().sum(-1) for g in grads) > 0
        expected = torch.zeros(3, 10, dtype=torch.bool)
        expected[2, : 2 * i] = True  # the past that the two anchors share
        expected[1, 2 * i] = True  # the borrowed image and action
        assert torch.equal(reached, expected), f"place {i}: {reached.nonzero().tolist()}"


# ---- small parts, by hand


def test_past_mean_by_hand():
    features = torch.tensor([[[1.0], [2.0], [5.0], [6.0], [9.0], [9.0]]])
    mean = past_mean(features, pair_causal_mask(6)[None])[0, :, 0]
    assert mean.tolist() == [0, 0, 1.5, 1.5, 3.5, 3.5]
    assert not past_mean(features, torch.eye(6, dtype=torch.bool)[None]).any()


def test_own_is_nearest_counts_ties_against_itself():
    similarity = torch.tensor([[[3.0, 1.0, 2.0], [0.0, 0.0, -1.0], [1.0, 2.0, 0.0]]])
    assert own_is_nearest(similarity) == pytest.approx(1 / 3)


def test_attention_shares_equal_a_slow_sum(drawn):
    weights = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0)) * pair_causal_mask(12)
    weights = weights / weights.sum(-1, keepdim=True)
    slow = {"self": 0.0, "x": 0.0, "y": 0.0}
    for b in range(3):
        for place in (3, 4, 5):  # the later half of six
            token = 2 * place + 1
            for other in range(12):
                name = "self" if other == token else "xy"[other % 2]
                slow[name] += weights[b, token, other].item() / 9
    shares = attention_shares(weights)
    assert shares == pytest.approx(slow) and sum(shares.values()) == pytest.approx(1)


def test_attention_is_the_one_that_forward_uses(drawn):
    """The weights, put through the blocks again, give forward's output."""
    features, actions, masks = drawn
    model = untrained()
    weights = model.attention(*drawn)
    x = model._tokens(features, actions)
    for block, mask, weight in zip(model.blocks, masks, weights, strict=True):
        torch.testing.assert_close(weight.sum(-1), torch.ones(3, 2, 10))
        assert not weight[~mask[:, None].expand_as(weight)].any()
        x = block.add(x, weight @ block.heads_of(x)[2])
    torch.testing.assert_close(model.read_out(model.norm(x)), model(*drawn))
