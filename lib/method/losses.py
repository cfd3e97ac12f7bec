"""The losses of the paper, one function each."""

import torch
import torch.nn.functional as F
from torch import Tensor


def _check_pairs(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape or x.dim() != 3:
        raise ValueError(
            "Embeddings of x and y must have one shape (contexts, pairs, width); "
            f"got {tuple(x.shape)} and {tuple(y.shape)}."
        )


def info_nce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """InfoNCE at every context length, both ways, with negatives from the same context (equation for L_ContextSSL).

    The anchor h((x_i, a_i) | C_i) must find h(y_i | C_i) among the K targets h(y_j | C_j) of its context, and the
    symmetric term swaps the roles. Every position i has seen i - 1 pairs, so the mean over i is the mean over context
    lengths.

    Args:
        x: (B, K, E) output embeddings of the tokens (x_i, a_i), not normalized.
        y: (B, K, E) output embeddings of the tokens y_i, not normalized.
        temperature: tau > 0.

    Returns:
        Scalar, in nats, mean over contexts, pairs and the two directions; log K for a constant model.
    """
    _check_pairs(x, y)
    logits = F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).mT / temperature
    target = torch.arange(x.shape[1], device=x.device).repeat(len(x))
    return (F.cross_entropy(logits.flatten(0, 1), target) + F.cross_entropy(logits.mT.flatten(0, 1), target)) / 2


def info_nce_batch(x: Tensor, y: Tensor, temperature: float, images: tuple[Tensor, Tensor]) -> Tensor:
    """InfoNCE as the released code computes it: every other token of every context is a negative.

    x-tokens are negatives of x-tokens too, contexts of different groups meet, and cosines are clamped from below at
    1e-7, which silences the gradient of each pair that is already more than orthogonal. A token of the image of
    the anchor or of its partner is no negative (in the release, whose contexts share no image, there is none).

    Args:
        x, y, temperature: as for `info_nce`.
        images: numbers of the images in the tokens x and y, (B, K) each.

    Returns:
        Scalar, in nats; log(2BK - 1) for a constant model without equal images.
    """
    _check_pairs(x, y)
    tokens = F.normalize(torch.stack([x, y], dim=2).flatten(0, 2), dim=-1)
    logits = (tokens @ tokens.T).clamp(min=1e-7) / temperature
    partner = torch.arange(len(tokens), device=x.device) ^ 1
    image = torch.stack(tuple(images), dim=2).flatten().to(x.device)
    same = (image[:, None] == image) | (image[partner][:, None] == image)
    same[torch.arange(len(tokens), device=x.device), partner] = False
    return F.cross_entropy(logits.masked_fill(same, float("-inf")), partner)


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """SimCLR's normalized temperature-scaled cross-entropy (Chen et al. 2020, equation 1).

    Args:
        z1, z2: (N, E) projections of two views of the same N objects, not normalized.
        temperature: tau > 0.

    Returns:
        Scalar, in nats: each of the 2N projections against its partner and 2N - 2 negatives.
    """
    if z1.shape != z2.shape or z1.dim() != 2:
        raise ValueError(f"Both views must have one shape (N, width); got {tuple(z1.shape)} and {tuple(z2.shape)}.")
    z = F.normalize(torch.cat([z1, z2]), dim=-1)
    logits = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z1)))


def variance_hinge(z: Tensor) -> Tensor:
    """VICReg's variance term of one view (Bardes et al. 2022, equation 1): mean over dimensions of max(0, 1 - std).

    Args:
        z: (N, E), N >= 2.
    """
    return F.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean()


def vicreg_terms(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three terms of VICReg (Bardes et al. 2022, equations 1 to 5).

    Args:
        z1, z2: (N, E) projections of two views of the same N objects, N >= 2.

    Returns:
        Invariance, the mean squared difference; variance, `variance_hinge` averaged over the views; covariance, the
        squared off-diagonal covariances divided by E, summed over the views. A constant model has 0, .99 and 0.
    """
    if z1.shape != z2.shape or z1.dim() != 2 or len(z1) < 2:
        raise ValueError(
            f"Both views must have one shape (N, width), N >= 2; got {tuple(z1.shape)} and {tuple(z2.shape)}."
        )
    covariance = z1.new_zeros(())
    for z in (z1, z2):
        matrix = torch.cov(z.T)
        covariance = covariance + (matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1]
    return (z1 - z2).square().mean(), (variance_hinge(z1) + variance_hinge(z2)) / 2, covariance


def vicreg(z1: Tensor, z2: Tensor, weights) -> dict[str, Tensor]:
    """VICReg's loss: the weighted sum of `vicreg_terms`, as ``loss``, and the three terms by name.

    Args:
        z1, z2: (N, E) projections of two views of the same N objects, N >= 2. weights: the settings ``baselines``.
    """
    invariance, variance, covariance = vicreg_terms(z1, z2)
    total = (
        weights.invariance_weight * invariance
        + weights.variance_weight * variance
        + weights.covariance_weight * covariance
    )
    return {"loss": total, "invariance": invariance, "variance": variance, "covariance": covariance}


def auxiliary_loss(prediction: Tensor, target: Tensor, active: Tensor) -> Tensor:
    """Mean squared error of the auxiliary predictor, on the components of each context's group alone.

    Section 3.2, "Avoiding collapse to Invariance": from (x_i, a_i) predict the latents of y_i. Errors of the other
    group are not counted: a rotation context must not ask for color.

    Args:
        prediction: (B, T', A) predicted latents at the chosen tokens.
        target: (B, T', A) latents of y, standardized, so that 1 is the error of a constant.
        active: (B, A) 1 where a component belongs to the context's group, else 0; a context of no group has only 0.

    Returns:
        Scalar: mean over active contexts of the mean over their active components; 0 if none is active.
    """
    error = (prediction - target).square().mean(dim=1)
    components = active.sum(dim=1)
    per_context = (error * active).sum(dim=1) / components.clamp(min=1)
    return per_context.sum() / (components > 0).sum().clamp(min=1)
