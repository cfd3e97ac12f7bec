"""Each loss against a slow loop, its symmetry, and what a constant model pays."""

import math

import pytest
import torch

from lib.method.losses import auxiliary_loss, info_nce, info_nce_batch, nt_xent, vicreg_terms


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def cross_entropy(scores, target):
    return math.log(sum(math.exp(s) for s in scores)) - scores[target]


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 7, generator=generator), torch.randn(2, 5, 7, generator=generator)


def test_info_nce_is_the_double_loop_of_the_paper(pairs):
    x, y = pairs
    slow = []
    for b in range(2):
        for i in range(5):
            slow.append(cross_entropy([cosine(x[b, i], y[b, j]) / 0.3 for j in range(5)], i))
            slow.append(cross_entropy([cosine(y[b, i], x[b, j]) / 0.3 for j in range(5)], i))
    assert info_nce(x, y, 0.3).item() == pytest.approx(sum(slow) / len(slow), abs=1e-5)
    assert torch.allclose(info_nce(x, y, 0.3), info_nce(y, x, 0.3))
    order = torch.randperm(5)
    assert torch.allclose(info_nce(x, y, 0.3), info_nce(x[:, order], y[:, order], 0.3))


def test_info_nce_knows_its_context_only(pairs):
    x, y = pairs
    alone = (info_nce(x[:1], y[:1], 0.3) + info_nce(x[1:], y[1:], 0.3)) / 2
    assert torch.allclose(info_nce(x, y, 0.3), alone)


def test_released_info_nce_is_the_loop_over_all_tokens_with_its_clamp(pairs):
    x, y = pairs
    tokens = [t for b in range(2) for i in range(5) for t in (x[b, i], y[b, i])]
    slow = 0.0
    for i, anchor in enumerate(tokens):
        others = [j for j in range(len(tokens)) if j != i]
        scores = [max(cosine(anchor, tokens[j]), 1e-7) / 0.3 for j in others]
        slow += cross_entropy(scores, others.index(i ^ 1)) / len(tokens)
    different = torch.arange(20).view(2, 2, 5).unbind(1)
    assert info_nce_batch(x, y, 0.3, different).item() == pytest.approx(slow, abs=1e-5)


def test_released_info_nce_takes_no_copy_of_a_positive_for_a_negative(pairs):
    x, y = pairs
    images = torch.arange(10).view(1, 2, 5).expand(2, -1, -1).unbind(1)  # both contexts hold the same images
    tokens = [t for b in range(2) for i in range(5) for t in (x[b, i], y[b, i])]
    shown = [int(t) for b in range(2) for i in range(5) for t in (images[0][b, i], images[1][b, i])]
    slow = 0.0
    for i, anchor in enumerate(tokens):
        allowed = [j for j in range(len(tokens)) if j == i ^ 1 or shown[j] not in (shown[i], shown[i ^ 1])]
        scores = [max(cosine(anchor, tokens[j]), 1e-7) / 0.3 for j in allowed]
        slow += cross_entropy(scores, allowed.index(i ^ 1)) / len(tokens)
    assert info_nce_batch(x, y, 0.3, images).item() == pytest.approx(slow, abs=1e-5)


def test_nt_xent_is_the_loop_of_simclr(pairs):
    z1, z2 = pairs[0][0], pairs[1][0]
    z = torch.cat([z1, z2])
    slow = 0.0
    for i in range(10):
        others = [j for j in range(10) if j != i]
        slow += cross_entropy([cosine(z[i], z[j]) / 0.5 for j in others], others.index((i + 5) % 10)) / 10
    assert nt_xent(z1, z2, 0.5).item() == pytest.approx(slow, abs=1e-5)


def test_a_constant_model_pays_the_logarithm_of_its_choices():
    same = torch.ones(3, 4, 2)
    assert info_nce(same, same, 0.1).item() == pytest.approx(math.log(4), abs=1e-5)
    different = torch.arange(24).view(3, 2, 4).unbind(1)
    assert info_nce_batch(same, same, 0.1, different).item() == pytest.approx(math.log(23), abs=1e-5)
    assert nt_xent(same[0], same[0], 0.1).item() == pytest.approx(math.log(7), abs=1e-5)


def test_auxiliary_loss_counts_the_active_group_alone():
    generator = torch.Generator().manual_seed(1)
    prediction, target = torch.randn(3, 4, 6, generator=generator), torch.randn(3, 4, 6, generator=generator)
    active = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]]).float()
    slow = 0.0
    for b, components in ((0, range(0, 4)), (1, range(4, 6))):
        errors = [(prediction[b, k, c] - target[b, k, c]) ** 2 for k in range(4) for c in components]
        slow += sum(errors) / len(errors) / 2
    assert auxiliary_loss(prediction, target, active).item() == pytest.approx(float(slow), abs=1e-5)
    prediction.requires_grad_()
    auxiliary_loss(prediction, target, active).backward()
    assert torch.equal(prediction.grad.abs().sum(1) > 0, active > 0)
    assert auxiliary_loss(prediction, target, torch.zeros(3, 6)).item() == 0


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(2, 5, 4\)"):
        info_nce(torch.zeros(2, 3, 4), torch.zeros(2, 5, 4), 0.1)
    with pytest.raises(ValueError, match="one shape"):
        nt_xent(torch.zeros(3, 4), torch.zeros(2, 4), 0.1)
    with pytest.raises(ValueError, match=r"N >= 2; got \(1, 4\)"):
        vicreg_terms(torch.zeros(1, 4), torch.zeros(1, 4))
