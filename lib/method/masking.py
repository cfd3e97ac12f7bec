"""Who may attend to whom: the two masks that close the shortcuts of context (section 3.2, "Context Masking").

Masks are boolean, ``True`` where row (query) may attend to column (key), as ``scaled_dot_product_attention`` has it.
Tokens are ordered (x_1, a_1), y_1, (x_2, a_2), y_2, ...: even positions hold x, odd positions hold y.
"""

import torch
from torch import Tensor


def pair_causal_mask(tokens: int) -> Tensor:
    """Causal mask in which y_i cannot see its own (x_i, a_i).

    Without the second condition the model could copy (x_i, a_i) into y_i and align the two without looking at y_i.
    No indirect path is left: nothing that y_i may see has seen x_i, in any layer.

    Args:
        tokens: T, even.

    Returns:
        (T, T) boolean; the diagonal is always ``True``.

    Raises:
        ValueError: T is odd.
    """
    if tokens % 2:
        raise ValueError(f"A context holds whole pairs, so the number of tokens must be even; got {tokens}.")
    mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    x = torch.arange(tokens // 2) * 2
    mask[x + 1, x] = False
    return mask


def random_context_mask(
    contexts: int, tokens: int, p: float, unit: str = "token", generator: torch.Generator | None = None
) -> Tensor:
    """Pair-causal mask from which each token, independently, loses earlier tokens with probability p.

    At p = 0 the anchor and its positive share a context that no negative has, and "which context is this?" answers
    "which pair is this?"; random dropping gives the anchor, its positive and its negatives all different contexts.

    Args:
        contexts: B.
        tokens: T, even.
        p: probability that a token is hidden from a later one, in [0, 1].
        unit: ``token`` drops single tokens (the paper: "for each token ... tokens preceding it"); ``pair`` drops
            x_j and y_j together, as the released code does.
        generator: source of randomness.

    Returns:
        (B, T, T) boolean; a token always sees itself.

    Raises:
        ValueError: T is odd, p is no probability, or the unit is unknown.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"The mask probability must lie in [0, 1]; got {p}.")
    if unit == "token":
        keep = torch.rand(contexts, tokens, tokens, generator=generator) >= p
    elif unit == "pair":
        keep = (torch.rand(contexts, tokens, tokens // 2, generator=generator) >= p).repeat_interleave(2, dim=-1)
    else:
        raise ValueError(f"mask_unit must be 'token' or 'pair'; got {unit!r}.")
    return pair_causal_mask(tokens) & (keep | torch.eye(tokens, dtype=torch.bool))


def mask_probability(context, progress: float) -> float:
    """p at a moment of the training: constant at first, as in the paper, then on a straight line to its last value.

    A token that sees a tenth of its past has never been asked with a whole context of more than a dozen tokens. The
    line's end, where contexts are nearly whole, teaches their length; most of the training before closes the shortcut.

    Args:
        context: the settings ``context``: ``mask_probability`` until the share ``mask_ramp_start`` of the training, and
            ``mask_probability_end`` at its end. progress: share of the training that is done, in [0, 1].
    """
    ramp = max(0.0, (progress - context.mask_ramp_start) / (1 - context.mask_ramp_start))
    return context.mask_probability + ramp * (context.mask_probability_end - context.mask_probability)
