"""What a checkpoint makes of images: features of its encoder, and embeddings at every kind and length of context."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.method.models import ContextCache
from lib.method.sampling import restrict


def context_pairs(views, settings, seed: int) -> Tensor:
    """An evaluation context of `seed`, the same for all checkpoints: (K, 2) image rows, one pair to an object.

    K is half of the longest context. The paper takes "other unlabelled data from the test set", the released code takes
    training pairs; the default follows the code, so that no test image is seen before it is asked about. Objects are
    drawn without replacement while they last. Shorter contexts are prefixes.
    """
    generator = torch.Generator().manual_seed(seed)
    objects, pairs = views.objects(settings.context_source), max(settings.context_lengths) // 2
    order = torch.cat([torch.randperm(len(objects), generator=generator) for _ in range(pairs // len(objects) + 1)])
    view = torch.rand(pairs, views.views, generator=generator).argsort(1)[:, :2]
    return objects[order[:pairs], None] * views.views + view


def sample_rows(views, split: str, limit: int, generator: torch.Generator) -> Tensor:
    """Images for a probe, at most ``limit``, as many views of each object as of any other: (objects, v) rows, v >= 2.

    Pairs are neighbors in a row (and its two ends), so each image is once a first and once a second view.
    """
    objects = views.objects(split)
    count = min(max(2, -(-limit // len(objects))), views.views)
    objects = objects[torch.randperm(len(objects), generator=generator)[: max(1, limit // count)]]
    view = torch.rand(len(objects), views.views, generator=generator).argsort(1)[:, :count]
    return objects[:, None] * views.views + view


@torch.no_grad()
def encode(model: nn.Module, views, rows: Tensor, device: torch.device, batch: int = 256) -> Tensor:
    """Encoder features of image rows: (M,) to (M, F)."""
    return torch.cat([model.encoder(views.images[part].to(device)) for part in rows.split(batch)])


@torch.no_grad()
def embed(
    model: nn.Module, features: Tensor, actions: Tensor | None, cache: ContextCache | None, batch: int = 512
) -> Tensor:
    """Normalized embeddings of views, or predictions of them from another view and an action.

    Args:
        model: with a context transformer ``predictor``, or a baseline.
        features: (M, F). actions: (M, A), or None for the views themselves (y-tokens, whose action is zero).
        cache: of the context, any length; None for a baseline.

    Returns:
        (M, E), L2-normalized.
    """
    found = []
    for at in torch.arange(len(features), device=features.device).split(batch):
        z, a = features[at], None if actions is None else actions[at]
        if cache is not None:
            a = z.new_zeros(len(z), model.predictor.action_dim) if a is None else a
            found.append(model.predictor.read(z, a, cache))
        else:
            found.append(model.embed(z) if a is None else model.predict(z, a))
    return F.normalize(torch.cat(found), dim=-1)


@torch.no_grad()
def context_caches(model: nn.Module, views, settings, device: torch.device, seed: int) -> dict[str, ContextCache]:
    """Keys and values of the longest context of each kind, of one draw; every shorter context is a prefix of them."""
    rows = context_pairs(views, settings, seed)
    features = encode(model, views, rows.flatten(), device)
    actions = views.action(views.targets[rows[:, 0]], views.targets[rows[:, 1]]).to(device)
    caches = {}
    for kind in settings.context_kinds:
        x = restrict(actions, kind, views.groups)
        tokens = torch.stack([x, torch.zeros_like(x)], dim=1).flatten(0, 1)
        caches[kind] = model.predictor.context(features, tokens)
    return caches
