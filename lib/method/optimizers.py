"""Optimizers and the course of the learning rate."""

import math
from collections import defaultdict

import torch
from torch import Tensor, nn

from lib.method.models import Block


def build_optimizer(model: nn.Module, spec, *, fused: bool) -> torch.optim.Optimizer:
    """The optimizer of a training.

    Args:
        model: what is trained.
        spec: the settings ``pretrain``; ``optimizer`` is ``adam`` (the paper's; its weight decay is part of the
            gradient, and so of little effect), ``adamw`` (weight decay apart from the gradient) or ``muon``.
        fused: let PyTorch update all parameters in one pass.
    """
    if spec.optimizer == "muon":
        hidden = hidden_matrices(model)
        chosen = {id(parameter) for parameter in hidden}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
        return Muon(hidden, rest, spec.muon_learning_rate, spec.learning_rate, spec.weight_decay, fused=fused)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[spec.optimizer]
    return kind(model.parameters(), spec.learning_rate, weight_decay=spec.weight_decay, fused=fused)


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """What Muon is for: matrices between hidden layers, and kernels as matrices with a row for each output channel.

    What reads pixels, columns or actions and what writes features, embeddings or predictions stays with AdamW, as norms
    and biases do.
    """
    kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    found = kernels[1:]
    for module in model.modules():
        if isinstance(module, Block):
            found += [module.qkv.weight, module.out.weight, module.mlp[0].weight, module.mlp[2].weight]
        elif isinstance(module, nn.Sequential):
            found += [layer.weight for layer in module if isinstance(layer, nn.Linear)][1:-1]
    return found


class Muon(torch.optim.AdamW):
    """Momentum orthogonalized by Newton-Schulz (Jordan et al. 2024) for matrices, AdamW for the rest.

    `torch.optim.Muon` orthogonalizes in bfloat16, one matrix after the other; on processors without bfloat16 that takes
    ten times as long as float32 does.

    Args:
        matrices, others: parameters. matrix_lr: of the matrices. lr: of the others. weight_decay: of both, in units of
            the learning rate. fused: as for AdamW.
    """

    def __init__(
        self, matrices: list[nn.Parameter], others: list[nn.Parameter], matrix_lr: float, lr: float,
        weight_decay: float, *, fused: bool,
    ) -> None:  # fmt: skip
        groups = [{"params": others, "muon": False}, {"params": matrices, "lr": matrix_lr, "muon": True}]
        super().__init__([group for group in groups if group["params"]], lr, weight_decay=weight_decay, fused=fused)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if group["muon"]:
                self._step_matrices(group)
        return super().step(closure)

    def _step_matrices(self, group: dict, momentum: float = 0.95) -> None:
        alike = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:  # "step" is not used, but AdamW asks for it when a state is loaded
                state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}
            buffer = state["momentum"]
            buffer.mul_(momentum).add_(parameter.grad)
            update = parameter.grad.add(buffer, alpha=momentum).flatten(1)  # Nesterov's
            alike[update.shape].append((parameter, update))
            parameter.grad = None  # AdamW leaves a parameter without a gradient alone
        for (rows, columns), of_shape in alike.items():
            directions = orthogonalize(torch.stack([update for _, update in of_shape]))
            for (parameter, _), direction in zip(of_shape, directions):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                scale = max(1, rows / columns) ** 0.5
                parameter.add_(direction.view_as(parameter), alpha=-group["lr"] * scale)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix with orthonormal rows or columns, roughly: singular values come to lie between .7 and 1.2.

    Newton-Schulz iteration x <- (a + b xx' + c (xx')^2) x (Jordan et al. 2024). The factor in brackets is a polynomial
    of xx' alone, so the iteration runs on these small square matrices and the wide x is multiplied once.

    Args:
        matrices: (N, rows, columns).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    gram = x @ x.mT
    identity = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
    product = factor = a * identity + b * gram + c * gram @ gram
    for _ in range(steps - 1):
        gram = factor @ gram @ factor
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product
    x = product @ x
    return x if wide else x.mT


def one_cycle(step: int, steps: int, warmup_fraction: float) -> float:
    """The learning rate of a step as a share of its peak: half a cosine up from 1/25, then half a cosine down to 0.

    The one-cycle policy (Smith and Topin 2019), which leaves the optimizer's momentum as it is.
    """
    warmup = steps * warmup_fraction
    if step < warmup:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / warmup)) / 2
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
