"""What the rows say against what was published: differences with intervals, and a verdict by rule.

Published is a sign alone (Dangovski et al. 2022: the figure that opens the paper, in random crops and one more
transformation; and that E- gains in SimCLR, SimSiam and Barlow Twins, for which code is released). No number of it is
compared: data, encoder and length of the training are others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t

from lib.essl.study import Case

HURT_AS_INVARIANCE = ("rotation", "vertical-flip", "jigsaw", "blur", "inversion")
#: Role and transformation -> what it does to accuracy as published: 1 raises it, -1 lowers it.
PUBLISHED = (
    {("invariance", of): 1 for of in ("horizontal-flip", "grayscale")}
    | {("invariance", of): -1 for of in HURT_AS_INVARIANCE}
    | {("sensitivity", of): 1 for of in HURT_AS_INVARIANCE}
)
PUBLISHED_METHODS = {"simclr": 1, "simsiam": 1, "barlow-twins": 1}
SIGNS = {1: "helps", -1: "hurts", 0: "not published"}


class Pair(NamedTuple):
    """Two runs to compare, and the published sign of the difference, 0 for none."""

    run: str
    against: str
    published: int = 0


def diagnosis_pairs(cases: Sequence[Case]) -> list[Pair]:
    """Every case against random crops alone, and every sensitivity against its control."""
    pairs = [Pair(case.name, "crop", PUBLISHED.get((case.role, case.transformation), 0)) for case in cases[1:]]
    controlled = [case.transformation for case in cases if case.role == "control"]
    return pairs + [Pair(f"{of}-sensitivity", f"{of}-control") for of in controlled]


def methods_pairs(cases: Sequence[Case]) -> list[Pair]:
    """E- against plain, of as many images, and against plain of as long a training."""
    names, pairs = [case.name for case in cases], []
    for case in cases:
        if case.role == "sensitivity":
            sign = PUBLISHED_METHODS.get(case.method, 0)
            others = [name for name in (f"plain-{case.method}", f"longer-{case.method}") if name in names]
            pairs += [Pair(case.name, other, sign) for other in others]
    return pairs


def differences(rows: pd.DataFrame, pairs: Sequence[Pair], metric: str) -> pd.DataFrame:
    """A line for each pair: difference in percentage points, its interval (95 %), published sign, verdict.

    Seeds are paired, and the noise is estimated from all runs of `rows` together, as what a run and a seed do not
    explain (two-way analysis of variance): with few seeds each, a difference alone knows little of its own spread.

    Args:
        rows: of `lib.essl.study.rows_of`, of one study; test images count.

    Returns:
        run, against, metric, difference, low, high, n (seeds), published, verdict. With one seed there is no interval.
    """
    table = rows[(rows["split"] == "test") & (rows["metric"] == metric)].pivot(
        index="run", columns="seed", values="value"
    )
    runs, n = table.shape
    reach = np.nan
    if n > 1:
        noise = table.sub(table.mean(axis=1), axis=0) - table.mean() + table.to_numpy().mean()
        freedom = (runs - 1) * (n - 1)
        variance = (noise.to_numpy() ** 2).sum() / freedom
        reach = t.ppf(0.975, freedom) * np.sqrt(2 * variance / n)
    mean, lines = table.mean(axis=1), []
    for run, against, published in pairs:
        found = mean[run] - mean[against]
        lines.append((run, against, metric, found, found - reach, found + reach, n, SIGNS[published],
                      verdict(found, reach, n, published)))  # fmt: skip
    columns = ["run", "against", "metric", "difference", "low", "high", "n", "published", "verdict"]
    return pd.DataFrame(lines, columns=columns)


def verdict(difference: float, reach: float, n: int, published: int) -> str:
    """agrees or differs (with the published sign), helps or hurts (where none is), or not told apart at this n.

    Args:
        difference: in points. reach: half of its interval, nan for none. n: seeds. published: 1, -1, or 0 for none.
    """
    if not abs(difference) > reach:
        return f"not told apart at n = {n}"
    sign = int(np.sign(difference))
    return SIGNS[sign] if published == 0 else "agrees" if sign == published else "differs"
