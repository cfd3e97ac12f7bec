"""Muon's directions are orthogonal, it takes hidden matrices alone, and AdamW the rest."""

from typing import get_args

import pytest
import tiny
import torch
from torch import nn

from lib.method.methods import build
from lib.method.optimizers import build_optimizer, hidden_matrices, one_cycle, orthogonalize
from lib.pipeline.settings import Method


@pytest.mark.parametrize("shape", [(2, 24, 96), (3, 96, 24), (1, 32, 32)])
def test_directions_are_nearly_the_nearest_orthogonal_matrix(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    new = (left.mT @ found @ right.mT).diagonal(dim1=1, dim2=2)  # its values along the same singular vectors
    large = values > 0.05 * values[:, :1]
    assert 0.65 < new[large].min() and new[large].max() < 1.25
    assert torch.allclose(found, left @ new.diag_embed() @ right, atol=1e-3)


def test_the_iteration_is_that_of_the_wide_matrix():
    x = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slow = x / x.norm()
    for _ in range(5):
        gram = slow @ slow.mT
        slow = 3.4445 * slow + (-4.7750 * gram + 2.0315 * gram @ gram) @ slow
    assert torch.allclose(orthogonalize(x), slow, atol=1e-9)


@pytest.mark.parametrize("method", get_args(Method))
def test_muon_takes_hidden_matrices_and_adamw_every_other_parameter(method):
    run = tiny.run(method, optimizer="muon", weight_decay=0.0)
    model = build(run, tiny.views())
    names = {id(p): name for name, p in model.named_parameters()}
    taken = {names[id(p)] for p in hidden_matrices(model)}
    assert "encoder.net.3.weight" in taken and "encoder.net.0.weight" not in taken
    assert not [name for name in taken if "read_" in name or "hypernetwork" in name or name.endswith("bias")]
    assert ("predictor.blocks.0.qkv.weight" in taken) == hasattr(model, "predictor")

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, run.pretrain, fused=True)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    for name, parameter in model.named_parameters():
        step = (parameter - before[name]).detach().flatten(1 if parameter.ndim > 1 else 0)
        if name in taken:  # steps of length lr along every singular direction
            largest = torch.linalg.matrix_norm(step, 2).item() / max(1, step.shape[0] / step.shape[1]) ** 0.5
            assert 0.6 * 0.02 < largest < 1.3 * 0.02, name
        else:  # Adam's first step is the learning rate times the sign
            assert step.abs().numpy() == pytest.approx(run.pretrain.learning_rate, rel=1e-2), name


def test_adam_decays_by_its_gradient_and_adamw_apart_from_it():
    def after(kind):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 2.0)
        spec = tiny.run(optimizer=kind, learning_rate=0.1, weight_decay=0.5).pretrain
        optimizer = build_optimizer(model, spec, fused=False)
        model.weight.grad = torch.full((1, 1), 1e-3)
        optimizer.step()
        return model.weight.item()

    assert after("adam") == pytest.approx(1.9, abs=1e-3)
    assert after("adamw") == pytest.approx(2 * (1 - 0.05) - 0.1, abs=1e-3)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing():
    rates = [one_cycle(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 25) and rates[10] == 1 and rates[100] == pytest.approx(0)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert one_cycle(0, 100, 0.0) == 1
