"""How much of its task a trained model solves without looking: the shortcut that random masking closes (section 3.2).

At p = 0 an anchor (x_i, a_i) and its positive y_i have seen the same past, and every negative y_j another one. "Who has
my past?" then answers "who is my partner?", and neither image is needed. A *foreign* anchor asks for exactly that: the
image and action of another context stand in the place of (x_i, a_i), before the same past. It knows nothing about y_i.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.evaluation.embeddings import encode
from lib.method import losses
from lib.method.masking import random_context_mask
from lib.method.models import ContextTransformer
from lib.method.sampling import interleave, restrict, sample_pairs


@torch.no_grad()
def shortcut(model, views, run, contexts: int = 12) -> tuple[dict[str | None, dict[str, float]], dict[str, float]]:
    """Contexts of unseen test objects, masked alike for all models, and three ways to find the partner y_i.

    Args:
        model: a ContextSSL, in evaluation mode. views: `lib.data.views.Views`. run: `lib.pipeline.settings.Run`.
        contexts: B, as many of each group that the run was trained for, and two at least.

    Returns:
        Variant -> metric -> value, and metric -> chance (1 / K and log K for K targets)::

            anchor=pair|foreign|mean,mask=0.10   partner_accuracy   share of anchors to which their own y_i is the
                                                                    nearest target, under masks of p = .1, ...
            anchor=pair|foreign,mask=0.10        partner_info_nce   loss, nats
            layer=1, 2, ...                      attention_<self|x|y>   of a y-token: to itself, to the x and to the y
                                                                        of its past; sum 1; under the first mask
            None                                 attention_uniform_<self|x|y>   the same if all seen tokens got equal
                                                                                weight

        ``pair`` is the anchor (x_i, a_i) as it is, ``foreign`` a foreign one; ``mean`` asks no model: the mean of the
        features in the anchor's past and in the target's, nearest by Euclidean distance. Attention is the mean over
        heads, contexts and the later half of the places, where the past is long.
    """
    context, groups, device, settings = run.context, run.groups, next(model.parameters()).device, run.evaluate
    objects, m = views.objects("test"), context.pairs_per_object
    pairs = min(run.model.block_size // 2, m * len(objects))  # as in training, if there are test objects enough
    generator = torch.Generator().manual_seed(settings.sample_seed)
    at = sample_pairs(contexts, pairs, len(objects), views.views, m, generator)
    rows = (objects[:, None] * views.views + torch.arange(views.views)).flatten()
    x, y = rows[at.x], rows[at.y]
    z_x, z_y = encode(model, views, torch.stack([x, y]).flatten(), device).unflatten(0, (2, *x.shape))
    told = [groups[b % len(groups)] for b in range(contexts)]
    a = restrict(views.action(views.targets[x], views.targets[y]), told, views.groups).to(device)
    features, actions = interleave(z_x, z_y), interleave(a, torch.zeros_like(a))

    layers, found = run.model.layers, {}
    draws = layers if context.mask_per_layer else 1
    of_mask = {
        p: [
            random_context_mask(contexts, 2 * pairs, p, context.mask_unit, generator).to(device) for _ in range(draws)
        ] * (layers // draws)
        for p in settings.shortcut_masks
    }  # fmt: skip
    for p, masks in of_mask.items():
        h, foreign = with_foreign_anchors(model.predictor, features, actions, masks, turn=len(groups))
        anchor, target = h[:, 0::2], h[:, 1::2]
        mean = past_mean(features, masks[0])
        distance = torch.cdist(mean[:, 0::2], mean[:, 1::2], compute_mode="donot_use_mm_for_euclid_dist")
        found[f"anchor=mean,mask={p:.2f}"] = {"partner_accuracy": own_is_nearest(-distance)}
        for name, asking in (("pair", anchor), ("foreign", foreign)):
            found[f"anchor={name},mask={p:.2f}"] = {
                "partner_accuracy": own_is_nearest(_cosine(asking, target)),
                "partner_info_nce": losses.info_nce(asking, target, run.pretrain.temperature).item(),
            }
    masks = of_mask[settings.shortcut_masks[0]]
    uniform = masks[0] / masks[0].sum(-1, keepdim=True)
    for layer, weights in enumerate(model.predictor.attention(features, actions, masks), start=1):
        shares = attention_shares(weights.mean(1))
        found[f"layer={layer}"] = {f"attention_{name}": share for name, share in shares.items()}
    found[None] = {f"attention_uniform_{name}": share for name, share in attention_shares(uniform).items()}
    return found, {"partner_accuracy": 1 / pairs, "partner_info_nce": math.log(pairs)}


def with_foreign_anchors(
    predictor: ContextTransformer, features: Tensor, actions: Tensor, masks: list[Tensor], turn: int
) -> tuple[Tensor, Tensor]:
    """Embed contexts, and beside each anchor a foreign one: what the anchor sees, but another context's (x_i, a_i).

    The foreign anchors stand behind the sequence, where no token of it sees them.

    Args:
        features: (B, 2K, F). actions: (B, 2K, A). masks: one (B, 2K, 2K) for each layer.
        turn: context b borrows from context b - turn.

    Returns:
        (B, 2K, E) of the tokens, as without foreign anchors, and (B, K, E) of the foreign anchors, not normalized.
    """
    tokens = features.shape[1]
    longer = [torch.cat([part, part[:, 0::2].roll(turn, 0)], 1) for part in (features, actions)]
    wider = []
    for mask in masks:
        mask_with = torch.eye(longer[0].shape[1], dtype=torch.bool, device=mask.device).repeat(len(mask), 1, 1)
        mask_with[:, :tokens, :tokens] = mask
        mask_with[:, tokens:, :tokens] = _past(mask)[:, 0::2]
        wider.append(mask_with)
    h = predictor(*longer, wider)
    return h[:, :tokens], h[:, tokens:]


def past_mean(features: Tensor, mask: Tensor) -> Tensor:
    """Mean of the features that each token sees of its past: (B, T, F) and (B, T, T) to (B, T, F); 0 without a past."""
    past = _past(mask).to(features.dtype)
    return past @ features / past.sum(-1, keepdim=True).clamp(min=1)


def own_is_nearest(similarity: Tensor) -> float:
    """Share of anchors, rows of (B, K, K), whose own target is more similar than every other; ties count against it."""
    own = similarity.diagonal(dim1=1, dim2=2)[..., None]
    return ((similarity >= own).sum(-1) == 1).float().mean().item()


def attention_shares(weights: Tensor) -> dict[str, float]:
    """What the y-tokens in the later half of the places attend to: ``self``, and the past's ``x`` and ``y``.

    Args:
        weights: (B, T, T), rows sum to 1.
    """
    own = weights.diagonal(dim1=1, dim2=2)
    later = slice(weights.shape[1] // 4 * 2 + 1, None, 2)
    to_x, to_y = weights[..., 0::2].sum(-1), weights[..., 1::2].sum(-1) - own
    return {name: share[:, later].mean().item() for name, share in (("self", own), ("x", to_x), ("y", to_y))}


def _past(mask: Tensor) -> Tensor:
    """(B, T, T) without the diagonal."""
    return mask & ~torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)


def _cosine(anchor: Tensor, target: Tensor) -> Tensor:
    """(B, K, E) and (B, K, E) to (B, K, K)."""
    return F.normalize(anchor, dim=-1) @ F.normalize(target, dim=-1).mT
