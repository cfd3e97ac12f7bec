"""How much of its task a trained model solves without looking: the shortcut that random masking closes (section 4.2).

At p = 0 an anchor (x_i, a_i) and its positive y_i have seen the same past, and every negative y_j another one. "Who has
my past?" then answers "who is my partner?", and neither image is needed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib import losses
from lib.evaluate import encode
from lib.masking import random_context_mask
from lib.sampling import active_components, interleave, sample_pairs


@torch.no_grad()
def shortcut(model, views, params, groups: tuple[str, ...], contexts: int = 12) -> dict:
    """Contexts of unseen test objects, masked as in the last training step, and three ways to find the partner y_i.

    Args:
        model: a ContextSSL, in evaluation mode. views: `lib.data.Views`. params: resolved for the run.
        groups: that the run was trained for. contexts: B, as many of each group.

    Returns:
        ``p``, the mask probability; ``pairs``, K; ``accuracy``: share of anchors whose own y_i is the nearest of the K
        targets, for the anchor as it is (``pair``), for a *foreign* anchor, image and action of another context in the
        place of (x_i, a_i), before the same past (``foreign``), and for the mean of the features in that past alone,
        no model asked (``mean``); ``chance`` is 1 / K. ``info_nce``: the loss for ``pair`` and ``foreign``, nats, and
        ``chance``, log K. ``attention``: for each layer, how a y-token shares its attention between ``self``, the
        past's ``x`` and the past's ``y``, mean over heads, contexts and the later half of the tokens.
    """
    context, tokens = params.context, params.model.block_size
    pairs, device = tokens // 2, next(model.parameters()).device
    generator = torch.Generator().manual_seed(params.evaluate.sample_seed)
    objects = views.objects("test")
    per_object = context.pairs_per_object
    while pairs // per_object > len(objects):  # few test objects: more pairs of each
        per_object *= 2
    at = sample_pairs(contexts, pairs, len(objects), views.views, per_object, generator)
    rows = (objects[:, None] * views.views + torch.arange(views.views)).flatten()
    x, y = rows[at.x], rows[at.y]
    z = encode(model, views, torch.stack([x, y]).flatten(), device).unflatten(0, (2, *x.shape))
    active = active_components([groups[b % len(groups)] for b in range(contexts)], views.groups, views.targets.shape[1])
    a = (views.action(views.targets[x], views.targets[y]) * active[:, None]).to(device)

    features, actions = interleave(*z), interleave(a, torch.zeros_like(a))
    p = context.mask_probability_end
    mask = random_context_mask(contexts, tokens, p, context.mask_unit, generator).to(device)
    own = torch.eye(tokens, dtype=torch.bool, device=device)
    past = mask & ~own
    # A foreign anchor for each place i, behind the sequence: it sees what (x_i, a_i) sees, and nobody sees it.
    foreign = torch.cat([past[:, 0::2], torch.eye(pairs, dtype=torch.bool, device=device).expand(contexts, -1, -1)], -1)
    whole = torch.cat([torch.cat([mask, mask.new_zeros(contexts, tokens, pairs)], -1), foreign], 1)
    strangers = [torch.cat([whole_, part.roll(len(groups), 0)], 1) for whole_, part in ((features, z[0]), (actions, a))]
    h = model.predictor(*strangers, [whole] * params.model.layers)
    target, anchor, stranger = h[:, 1:tokens:2], h[:, 0:tokens:2], h[:, tokens:]
    seen = past.float()
    mean = seen @ features / seen.sum(-1, keepdim=True).clamp(min=1)

    layers = [w.mean((0, 1))[1::2] for w in model.predictor.attention(features, actions, [mask] * params.model.layers)]
    later = [w[pairs // 2 :] for w in layers]
    place = torch.arange(tokens, device=device)
    own_place = place[1::2][pairs // 2 :, None] == place
    return {
        "p": p, "pairs": pairs,
        "accuracy": {
            "pair": _accuracy(anchor, target), "foreign": _accuracy(stranger, target),
            "mean": _accuracy(mean[:, 0::2], mean[:, 1::2]), "chance": 1 / pairs,
        },
        "info_nce": {
            "pair": losses.info_nce(anchor, target, params.pretrain.temperature).item(),
            "foreign": losses.info_nce(stranger, target, params.pretrain.temperature).item(),
            "chance": torch.tensor(pairs).log().item(),
        },
        "attention": [
            {
                "self": (w * own_place).sum(1).mean().item(),
                "x": w[:, 0::2].sum(1).mean().item(),
                "y": (w * ~own_place)[:, 1::2].sum(1).mean().item(),
            }
            for w in later
        ],
    }  # fmt: skip


def _accuracy(anchor: Tensor, target: Tensor) -> float:
    """Share of (B, K, E) anchors to which their own target is nearer than every other; ties count against it."""
    cosine = F.normalize(anchor, dim=-1) @ F.normalize(target, dim=-1).mT
    right = cosine.diagonal(dim1=1, dim2=2)[..., None]
    return ((cosine >= right).sum(-1) == 1).float().mean().item()
