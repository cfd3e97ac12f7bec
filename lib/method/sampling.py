"""How the contexts of a training step are drawn: pairs of views, groups, and the order of tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """B contexts of K pairs, as positions among the O * V encoded views of a step: ``x`` and ``y`` are (B, K)."""

    x: Tensor
    y: Tensor


def sample_pairs(
    contexts: int, pairs: int, objects: int, views: int, pairs_per_object: int, generator: torch.Generator
) -> Pairs:
    """Draw contexts from views that are encoded once: encode once, pair many times.

    Each context takes K / m random objects and m disjoint pairs of two views of each, in random order. With m > 1
    some negatives y_j show the *same object* as the anchor, so that InfoNCE cannot be solved by identity alone: only
    where the object has turned to (or which color it has) tells them apart.

    Args:
        contexts: B. pairs: K. objects: O encoded in this step. views: V of each. pairs_per_object: m.
        generator: source of randomness.

    Raises:
        ValueError: m does not divide K, needs more views than V, or more objects than O.
    """
    m = pairs_per_object
    if pairs % m or 2 * m > views or pairs // m > objects:
        raise ValueError(
            f"{pairs} pairs, {m} of each object, need a multiple of {m} pairs, {2 * m} views and {pairs // m} objects "
            f"in a step; got {views} views of {objects} objects. Change pretrain.objects_per_step or "
            "pretrain.views_per_object."
        )
    chosen = torch.rand(contexts, objects, generator=generator).argsort(1)[:, : pairs // m]
    view = torch.rand(contexts, pairs // m, views, generator=generator).argsort(-1)[..., : 2 * m]
    position = (chosen[..., None] * views + view).reshape(contexts, pairs, 2)
    order = torch.rand(contexts, pairs, generator=generator).argsort(1)
    position = position.gather(1, order[..., None].expand(-1, -1, 2))
    return Pairs(position[..., 0], position[..., 1])


def sample_groups(contexts: int, groups: Sequence[str], per: str, generator: torch.Generator) -> list[str]:
    """The group G of each context: in random turn over the contexts (paper), or one for the whole batch (release)."""
    start = int(torch.randint(len(groups), (), generator=generator))
    return [groups[(start + (b if per == "context" else 0)) % len(groups)] for b in range(contexts)]


def active_components(groups: Sequence[str], columns: Mapping[str, slice], action_dim: int) -> Tensor:
    """(B, A): 1 at the action's components that belong to each context's group, else 0; ``none`` has only 0.

    Args:
        groups: of the B contexts. columns: where each group lies in an action, `lib.data.views.GROUPS`. action_dim: A.
    """
    active = torch.zeros(len(groups), action_dim)
    for row, group in zip(active, groups):
        if group != "none":
            row[columns[group]] = 1
    return active


def interleave(x: Tensor, y: Tensor) -> Tensor:
    """(B, K, C) and (B, K, C) to tokens (B, 2K, C): x_1, y_1, x_2, y_2, ..."""
    return torch.stack([x, y], dim=2).flatten(1, 2)
