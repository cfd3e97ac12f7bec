"""The masks by hand, and no leak by gradient."""

from types import SimpleNamespace

import pytest
import torch

from lib.method.masking import mask_probability, pair_causal_mask, random_context_mask
from lib.method.models import ContextTransformer


def test_three_pairs_by_hand():
    expected = torch.tensor(
        [  # x1 y1 x2 y2 x3 y3
            [1, 0, 0, 0, 0, 0],
            [0, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 0, 1, 0, 0],
            [1, 1, 1, 1, 1, 0],
            [1, 1, 1, 1, 0, 1],
        ],
        dtype=torch.bool,
    )
    assert torch.equal(pair_causal_mask(6), expected)
    assert torch.equal(random_context_mask(2, 6, 0.0)[1], expected)
    assert torch.equal(random_context_mask(1, 6, 1.0)[0], torch.eye(6, dtype=torch.bool))


@pytest.mark.parametrize("unit", ["token", "pair"])
def test_random_mask_drops_with_probability_p_and_never_adds(unit):
    generator = torch.Generator().manual_seed(0)
    masks = random_context_mask(200, 16, 0.3, unit, generator)
    base = pair_causal_mask(16)
    assert not (masks & ~base).any()
    assert masks.diagonal(dim1=1, dim2=2).all()
    past = base & ~torch.eye(16, dtype=torch.bool)
    assert abs(masks[:, past].float().mean().item() - 0.7) < 0.01
    together = (masks[:, 8, 0:8:2] == masks[:, 8, 1:8:2]).float().mean().item()
    assert (together == 1.0) == (unit == "pair")


def test_bad_masks_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="even; got 5"):
        pair_causal_mask(5)
    with pytest.raises(ValueError, match=r"\[0, 1\]; got 1.5"):
        random_context_mask(1, 4, 1.5)
    with pytest.raises(ValueError, match="got 'word'"):
        random_context_mask(1, 4, 0.5, "word")


def test_no_gradient_reaches_y_from_its_own_pair_or_the_future():
    torch.manual_seed(0)
    model = ContextTransformer(8, 6, 16, 3, 2, 5, "balanced", torch.ones(6))
    features = torch.randn(1, 10, 8, requires_grad=True)
    actions = torch.randn(1, 10, 6, requires_grad=True)
    masks = [random_context_mask(1, 10, 0.0)] * 3
    for token in range(10):
        grads = torch.autograd.grad(model(features, actions, masks)[0, token].square().sum(), (features, actions))
        reached = sum(g[0].abs().sum(-1) for g in grads) > 0
        expected = torch.arange(10) <= token
        if token % 2:
            expected[token - 1] = False
        assert torch.equal(reached, expected), f"token {token} is reached by {reached.nonzero().flatten().tolist()}"


def test_p_is_constant_until_the_ramp_and_then_falls_in_a_straight_line():
    context = SimpleNamespace(mask_probability=0.9, mask_probability_end=0.1, mask_ramp_start=0.8)
    at = [mask_probability(context, progress) for progress in (0, 0.5, 0.8, 0.9, 1)]
    assert at == pytest.approx([0.9, 0.9, 0.9, 0.5, 0.1])
