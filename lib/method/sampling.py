"""What a training step sees: objects and their views, contexts of pairs, groups, and the order of tokens.

Step t of a training is a function of its seed and t: nothing is carried from step to step, see `Draws`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lib.data.views import Views


class Draws:
    """The randomness of one training step: a generator for each stream, which knows seed, step and stream alone.

    So a training that is resumed, or whose data are fetched ahead, sees what it would have seen, and no stream depends
    on how much was drawn from another. Streams: ``objects``, ``views``, ``pairs``, ``groups``, ``masks``, ``labels``;
    and ``weights``, before the first step.

    Args:
        seed: of the training. step: from 0. device: number of the device, each of which has draws of its own.
    """

    def __init__(self, seed: int, step: int, device: int = 0) -> None:
        self.key = f"{seed}/{step}/" if device == 0 else f"{seed}/{step}/{device}/"

    def __call__(self, stream: str) -> torch.Generator:
        """A new generator, on the CPU, at the beginning of the stream."""
        digest = hashlib.sha256((self.key + stream).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))  # of which torch takes 32 bits


class Batch(NamedTuple):
    """O objects with V views each: ``images`` (O, V, H, W, 3) uint8, ``targets`` (O, V, A), ``labels`` (O,) int64."""

    images: Tensor
    targets: Tensor
    labels: Tensor


def sample_batch(views: Views, spec, draws: Draws) -> Batch:
    """Random training objects and random distinct views of each.

    Args:
        spec: the settings ``pretrain``, with O = ``objects_per_step``, if there are as many, and ``views_per_object``.
    """
    objects = views.objects("train")
    chosen = objects[torch.randperm(len(objects), generator=draws("objects"))[: spec.objects_per_step]]
    order = torch.rand(len(chosen), views.views, generator=draws("views")).argsort(1)[:, : spec.views_per_object]
    rows = chosen[:, None] * views.views + order
    return Batch(views.images[rows.flatten()].unflatten(0, rows.shape), views.targets[rows], views.labels[chosen])


class Pairs(NamedTuple):
    """B contexts of K pairs, as positions among the O * V encoded views of a step: ``x`` and ``y`` are (B, K)."""

    x: Tensor
    y: Tensor


def sample_pairs(
    contexts: int, pairs: int, objects: int, views: int, pairs_per_object: int, generator: torch.Generator
) -> Pairs:
    """Draw contexts from views that are encoded once: encode once, pair many times.

    Each context takes K / m random objects and m disjoint pairs of two views of each, in random order; no two contexts
    share an object if there are enough, else each draws anew. With m > 1 some negatives y_j show the *same object* as
    the anchor: only where the object has turned to (or which color it has) tells them apart.

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
    each = pairs // m
    if contexts * each <= objects:
        chosen = torch.randperm(objects, generator=generator)[: contexts * each].view(contexts, each)
    else:
        chosen = torch.rand(contexts, objects, generator=generator).argsort(1)[:, :each]
    view = torch.rand(contexts, each, views, generator=generator).argsort(-1)[..., : 2 * m]
    position = (chosen[..., None] * views + view).reshape(contexts, pairs, 2)
    order = torch.rand(contexts, pairs, generator=generator).argsort(1)
    position = position.gather(1, order[..., None].expand(-1, -1, 2))
    return Pairs(position[..., 0], position[..., 1])


def sample_groups(contexts: int, groups: Sequence[str], per: str, generator: torch.Generator) -> list[str]:
    """The group G of each context: in random turn over the contexts (paper), or one for the whole batch (release)."""
    start = int(torch.randint(len(groups), (), generator=generator))
    return [groups[(start + (b if per == "context" else 0)) % len(groups)] for b in range(contexts)]


def active_components(groups: Sequence[str], columns: Mapping[str, slice], action_dim: int) -> Tensor:
    """(B, A): 1 at the action's components that belong to each of B groups, else 0.

    Args:
        groups: names; ``rotation+color`` has the components of both, ``none`` has none.
        columns: where each group lies in an action, `lib.data.views.GROUPS`. action_dim: A.
    """
    active = torch.zeros(len(groups), action_dim)
    for row, group in zip(active, groups):
        for name in group.split("+"):
            if name != "none":
                row[columns[name]] = 1
    return active


def restrict(actions: Tensor, groups: str | Sequence[str], columns: Mapping[str, slice]) -> Tensor:
    """Actions as contexts tell them: every component outside the context's group is zero.

    Args:
        actions: (..., A) for one group's name, (B, K, A) for the names of B contexts. columns: as above.
    """
    names = [groups] if isinstance(groups, str) else groups
    active = active_components(names, columns, actions.shape[-1]).to(actions)
    return actions * (active[0] if isinstance(groups, str) else active[:, None])


def interleave(x: Tensor, y: Tensor) -> Tensor:
    """(B, K, C) and (B, K, C) to tokens (B, 2K, C): x_1, y_1, x_2, y_2, ..."""
    return torch.stack([x, y], dim=2).flatten(1, 2)
