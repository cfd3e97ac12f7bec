"""The paper's numbers and claims, and how ours stand beside them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

COLUMNS = (
    "artefact", "dataset", "method", "trained_group", "environment", "variant", "context_length", "metric", "target",
    "value", "std", "note",
)  # fmt: skip
#: Least and largest value of a metric, as printed (an R² below -1 would be a slip, not a result).
BOUNDS = {
    "mrr": (0, 1), "hit_at_1": (0, 1), "hit_at_5": (0, 1), "top1": (0, 100), "r2_rotation": (-1, 1),
    "r2_color": (-1, 1),
}  # fmt: skip
RELATIONS = {">=": float.__ge__, "<=": float.__le__, "<": float.__lt__, ">": float.__gt__}


def load(path: str | Path = "paper/published.csv") -> pd.DataFrame:
    """Every published number, one a row: R² and rates as printed, top-1 in percent, lengths in tokens.

    Raises:
        ValueError: a column is missing or a value lies outside its metric's bounds.
    """
    frame = pd.read_csv(path, dtype={"context_length": "Int64"}, keep_default_na=True)
    if missing := [c for c in COLUMNS if c not in frame]:
        raise ValueError(f"{path} lacks the column {missing[0]!r}.")
    for metric, (low, high) in BOUNDS.items():
        # Tables 19 and 20 also print differences.
        of_metric = frame[(frame["metric"] == metric) & (frame["variant"] != "change")]
        outside = of_metric[~of_metric["value"].between(low, high)]
        if len(outside):
            row = outside.iloc[0]
            raise ValueError(f"{path}: {row['artefact']} has {metric} = {row['value']}, outside [{low}, {high}].")
    return frame


def select(frame: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """Rows whose columns equal the wanted values; ``None`` asks for an empty cell."""
    for column, value in wanted.items():
        frame = frame[frame[column].isna() if value is None else (frame[column] == value).fillna(False)]
    return frame


def value(frame: pd.DataFrame, **wanted: object) -> float:
    """The one published number that the filters leave, or ``nan`` if there is none.

    Raises:
        ValueError: more than one row is left.
    """
    rows = select(frame, **wanted)
    if len(rows) > 1:
        raise ValueError(f"{len(rows)} published numbers match {wanted}; name more columns.")
    return float(rows["value"].iloc[0]) if len(rows) else float("nan")


def claims(path: str | Path = "paper/claims.yaml") -> list[dict]:
    """The paper's claims, each an executable predicate on results/metrics.json; the file's head explains the fields."""
    return YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))["claims"]


def _lookup(metrics: Mapping, path: str) -> object:
    """What stands at a dotted path; ``first`` and ``last`` are a curve's shortest and longest context."""
    found: object = metrics
    for key in path.split("."):
        if key in ("first", "last"):
            key = sorted(found, key=lambda c: int(c[1:]))[0 if key == "first" else -1]
        if not isinstance(found, Mapping) or key not in found:
            raise KeyError(f"results/metrics.json has no {path!r}: {key!r} is missing.")
        found = found[key]
    return found


def holds(claim: Mapping, metrics: Mapping) -> list[bool]:
    """Whether a claim holds, seed by seed.

    Two forms: ``left relation times * right + plus`` on lists over seeds (``right`` may be absent, and is averaged over
    its seeds where ``right_mean`` is set), and ``curve`` with ``direction`` rises or falls: no step between neighboring
    lengths goes the other way by more than ``tolerance``.

    Raises:
        KeyError: a path leads nowhere. ValueError: the claim has neither form.
    """
    if "curve" in claim:
        curve = _lookup(metrics, claim["curve"])
        sign = {"rises": 1, "falls": -1}[claim["direction"]]
        series = zip(*(curve[c] for c in sorted(curve, key=lambda c: int(c[1:]))))
        return [all(sign * (b - a) >= -claim["tolerance"] for a, b in zip(s, s[1:])) for s in series]
    if "left" not in claim:
        raise ValueError(f"Claim {claim.get('id')!r} needs either 'curve' or 'left'.")
    left = _lookup(metrics, claim["left"])
    right = _lookup(metrics, claim["right"]) if "right" in claim else [0.0] * len(left)
    if claim.get("right_mean"):
        right = [float(np.mean(right))] * len(left)
    compare = RELATIONS[claim["relation"]]
    pairs = zip(left, right, strict=True)
    return [compare(float(a), claim.get("times", 1.0) * b + claim.get("plus", 0.0)) for a, b in pairs]


def verdict(held: list[bool], stand_in: bool) -> str:
    """One phrase for a claim; data that stand in for the paper's may earn "direction agrees", never "agrees"."""
    count = f"{sum(held)} of {len(held)} seeds"
    if all(held):
        return f"{'direction agrees' if stand_in else 'agrees'}: holds in {count}"
    return f"mixed: holds in {count}" if any(held) else f"does not hold: 0 of {len(held)} seeds"


def evidence(claim: Mapping, metrics: Mapping) -> str:
    """The means that a verdict rests on, as text."""

    def text(path: str) -> str:
        found = _lookup(metrics, path)
        if isinstance(found, Mapping):
            return ", ".join(f"{np.mean(found[c]):.3f}" for c in sorted(found, key=lambda c: int(c[1:])))
        return f"{np.mean(found):.3f}"

    if "curve" in claim:
        return f"{text(claim['curve'])} (tolerance {claim['tolerance']})"
    times, plus = claim.get("times", 1.0), claim.get("plus", 0.0)
    if "right" not in claim:
        return f"{text(claim['left'])} {claim['relation']} {plus:g}"
    bound = f"{times:g} × {text(claim['right'])}" if times != 1 else text(claim["right"])
    shift = f" {'+' if plus > 0 else '−'} {abs(plus):g}" if plus else ""
    return f"{text(claim['left'])} {claim['relation']} {bound}{shift}"


def published_series(claim: Mapping, frame: pd.DataFrame) -> str:
    """The published numbers behind a claim over context length, or its ``paper`` sentence alone."""
    if "published" not in claim:
        return claim["paper"]
    rows = select(frame, method="contextssl", **claim["published"]).sort_values("context_length")
    return f"{claim['paper']}: " + ", ".join(f"{v:.3f}" for v in rows["value"])
