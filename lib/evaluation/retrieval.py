"""Retrieval among the views of one object: MRR and hit rates (appendix B.6; Tables 1 and 8)."""

import torch
from torch import Tensor


def ranks(cosine: Tensor) -> Tensor:
    """Rank of each query's target among the views of its own object; query j asks for view j.

    Ties count against us: every view at least as near as the target is ranked before it, so that a collapsed model,
    which cannot tell views apart, gets the last rank and not the first.

    Args:
        cosine: (O, V, V) of queries, in rows, and views.

    Returns:
        (O, V) int64 in 1..V.
    """
    wanted = cosine.diagonal(dim1=1, dim2=2)
    # The target ties with itself once.
    return (cosine >= wanted[..., None]).sum(-1)


def scores(rank: Tensor) -> dict[str, float]:
    """Mean reciprocal rank and hit rates at 1 and 5 of ranks of any shape."""
    return {
        "mrr": rank.reciprocal().mean().item(),
        "hit_at_1": (rank <= 1).float().mean().item(),
        "hit_at_5": (rank <= 5).float().mean().item(),
    }


def report(rank: Tensor) -> dict[str, float]:
    """Scores of queries from view 0 to views 0..V-1 of each object.

    The query to view 0 carries the identity transformation and asks for the source itself, which lies in the library:
    it says nothing about prediction. ``mrr`` has it in, as the released code (and so the published tables) does,
    ``mrr_without_identity`` leaves it out, ``mrr_identity`` has it alone; hit rates the same. The source stays in the
    library in all of them.

    Args:
        rank: (O, V), column j the query to view j.
    """
    parts = {"": rank, "_without_identity": rank[:, 1:], "_identity": rank[:, :1]}
    return {metric + suffix: value for suffix, of in parts.items() for metric, value in scores(of).items()}


def chance(views: int) -> dict[str, float]:
    """`report` of a random order of V views, whatever is asked: mean of 1/1..1/V, 1/V and min(5, V)/V."""
    return report(torch.arange(1, views + 1)[:, None].expand(-1, views))


def nearest(queries: Tensor, library: Tensor, k: int) -> Tensor:
    """The k nearest views for each query, nearest first: (O, Q, E) and (O, V, E) to (O, Q, min(k, V))."""
    return (queries @ library.mT).topk(min(k, library.shape[1]), dim=-1).indices
