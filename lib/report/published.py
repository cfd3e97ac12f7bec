"""The paper's numbers and claims, and how ours stand beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from lib.report.results import NAMES, Results, changes, headline, over_seeds, select

COLUMNS = (
    "artefact", "dataset", "method", "trained_group", "environment", "variant", "context_length", "metric", "target",
    "value", "std", "note",
)  # fmt: skip
#: Least and largest value of a metric, as printed (an R² below -1 would be a slip, not a result).
BOUNDS = {
    "mrr": (0, 1), "hit_at_1": (0, 1), "hit_at_5": (0, 1), "top1": (0, 100), "r2_rotation": (-1, 1),
    "r2_color": (-1, 1),
}  # fmt: skip
#: What a constant scores in the paper's pooled R² of rotation, by target; 0 for color.
FLOORS = {"relative": 0.229, "individual": 0.461}
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


def value(frame: pd.DataFrame, **wanted: object) -> float:
    """The one published number that the filters leave, or ``nan`` if there is none.

    Raises:
        ValueError: more than one row is left.
    """
    rows = select(frame, **wanted)
    if len(rows) > 1:
        raise ValueError(f"{len(rows)} published numbers match {wanted}; name more columns.")
    return float(rows["value"].iloc[0]) if len(rows) else float("nan")


def remarks(
    frame: pd.DataFrame, artefact: str, skip: Sequence[str] = (), by: Sequence[str] = ("environment",)
) -> list[str]:
    """A sentence for each note about the numbers of an artefact.

    Args:
        skip: notes to leave out. by: columns that say, beside the method, where a number stands.
    """
    rows = select(frame, artefact=artefact)
    rows = rows.assign(note=rows["note"].str.split("; ")).explode("note").dropna(subset=["note"])
    lines = []
    for note, part in rows[~rows["note"].isin(skip)].groupby("note", sort=False):
        places = [[NAMES[method], ", ".join(filter(pd.notna, of))] for method, *of in part[["method", *by]].to_numpy()]
        names = [name + (f" ({of})" if of else "") for name, of in places]
        at = part["context_length"].dropna().unique()
        where = ", ".join(dict.fromkeys(names)) + (f" at length {at[0]}" if len(at) == 1 else "")
        lines.append(f"On the published numbers, {where}: {note}.")
    return lines


# ---- ours beside them

#: Columns that tell which number of a run a row holds.
CELL = ["run", "space", "environment", "context_length", "variant", "target", "metric"]


def beside(frame: pd.DataFrame, results: Results, artefacts: pd.DataFrame) -> pd.DataFrame:
    """Published rows, and our numbers for them, read as the paper reads them.

    Where a row does not say by which run and in which space a number was read, paper/artefacts.csv says it for the
    artefact: `contextssl` and `baselines` are the sections whose runs count, `baselines_at` is where all methods but
    ContextSSL are read. R² is pooled, of the paper's probe; retrieval has the identity query; what is read without a
    length is read at the longest.

    Args:
        frame: rows of paper/published.csv. artefacts: paper/artefacts.csv.

    Returns:
        The published rows (their deviation as `published std`) with columns run, mean, std, n and floor, which are
        empty where nothing of ours stands for a row: no such run or length, or a number from the paper's prose.
    """
    runs, kind = _conditions(results), ["section", "method", "trained_group", "condition"]
    # Without references that need no model.
    rows = headline(select(results.rows, probe=[None, "paper"], space=["representation", "embedding"]))
    ours = over_seeds(pd.concat([rows, changes(rows)], ignore_index=True), CELL)
    # The first run of a kind stands for it.
    asked = _asked(frame, artefacts).merge(runs.drop_duplicates(kind), how="left", on=kind)
    in_context = asked["space"] != "representation"
    asked["context_length"] = asked["context_length"].fillna(asked["longest"]).where(in_context)
    found = asked[CELL].merge(ours, how="left", on=CELL)
    return frame.rename(columns={"std": "published std"}).assign(
        **{column: found[column].to_numpy() for column in ("run", "mean", "std", "n", "floor")}
    )


def _conditions(results: Results) -> pd.DataFrame:
    """Each run in each of its sections: what tells it from the section's other runs of its method, longest context."""
    runs = results.runs.reset_index().explode("sections").rename(columns={"sections": "section"})
    told = {
        "masking": runs["mask_probability"].map("mask_prob={:.2f}".format),
        "auxiliary": (runs["auxiliary_weight"] > 0).map({True: "with-aux", False: "without-aux"}),
        "augmentations": runs["dataset"],
    }
    runs["condition"] = pd.NA
    for section, condition in told.items():
        runs["condition"] = runs["condition"].mask(runs["section"] == section, condition)
    longest = results.rows.groupby("run")["context_length"].max()
    return runs[["run", "section", "method", "trained_group", "condition"]].assign(longest=runs["run"].map(longest))


def _asked(frame: pd.DataFrame, artefacts: pd.DataFrame) -> pd.DataFrame:
    """Published rows in the vocabulary of ours."""
    rows = frame.merge(artefacts[["artefact", "contextssl", "baselines", "baselines_at"]], how="left", on="artefact")
    ours, variant = rows["method"] == "contextssl", rows["variant"]
    retrieval = variant.str.startswith("library=", na=False)
    labels = variant.str.startswith("label_corruption=", na=False) & (rows["metric"] == "top1")
    rows["section"] = rows["contextssl"].where(ours, rows["baselines"])
    rows["condition"] = variant.str.extract(r"(mask_prob=[\d.]+|with-aux|without-aux)")[0].fillna(
        rows["dataset"].str.extract(r"cifar10-(.*)")[0]
    )
    rows["space"] = variant.str.extract(r"(representation|embedding|change)")[0].fillna(
        rows["baselines_at"].mask(ours | labels, "embedding")
    )
    # The paper's held-out objects are those of validation, ours those of test.
    rows["variant"] = variant.where(retrieval | labels).replace("library=validation", "library=test")
    # A baseline is asked for what it was trained for; it knows no context with actions.
    unaware = rows["trained_group"].where(retrieval, "none")
    rows["environment"] = rows["environment"].where(ours, unaware).where(rows["space"] != "representation")
    return rows


# ---- claims


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


def _paths(metrics: Mapping, path: str) -> list[str]:
    """The path itself, or where it has a ``*`` one path for each entry there."""
    if "*" not in path:
        return [path]
    before, _, after = path.partition("*")
    return [found for entry in _lookup(metrics, before[:-1]) for found in _paths(metrics, f"{before}{entry}{after}")]


def holds(claim: Mapping, metrics: Mapping) -> list[bool]:
    """Whether a claim holds, seed by seed.

    Two forms: ``left relation times * right + plus`` on lists over seeds (``right`` may be absent, and is averaged over
    its seeds where ``right_mean`` is set), and ``curve`` with ``direction`` rises or falls: no step between neighboring
    lengths goes the other way by more than ``tolerance``. A ``*`` in ``left`` or ``right`` stands for every entry: the
    claim must hold for each of them, counted over the seeds that all have.

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
    rights = [_lookup(metrics, path) for path in _paths(metrics, claim["right"])] if "right" in claim else [None]
    cases = [
        _compare(claim, _lookup(metrics, path), right) for path in _paths(metrics, claim["left"]) for right in rights
    ]
    return [all(seed) for seed in zip(*cases)]


def _compare(claim: Mapping, left: list[float], right: list[float] | None) -> list[bool]:
    if right is None:
        right = [0.0] * len(left)
    elif claim.get("right_mean"):
        right = [float(np.mean(right))] * len(left)
    compare = RELATIONS[claim["relation"]]
    pairs = zip(left, right, strict=True)
    return [compare(float(a), claim.get("times", 1.0) * b + claim.get("plus", 0.0)) for a, b in pairs]


def compared_with(claim: Mapping, metrics: Mapping) -> int | None:
    """The least number of seeds behind a mean that the claim compares with, None if there is no such mean."""
    if not claim.get("right_mean"):
        return None
    return min(len(_lookup(metrics, path)) for path in _paths(metrics, claim["right"]))


def verdict(held: list[bool], stand_in: bool, against: int | None = None) -> str:
    """One phrase for a claim; data that stand in for the paper's may earn "direction agrees", never "agrees".

    Args:
        held: `holds`. stand_in: the data are not the paper's.
        against: `compared_with`; said where it is another number of seeds.
    """
    seeds = len(held)
    compared = f", against {against} seed{'s' * (against != 1)} of the other" if against not in (None, seeds) else ""
    if not any(held):
        return f"does not hold: 0 of {seeds} seeds{compared}"
    count = f"holds in {sum(held)} of {seeds} seeds{compared}"
    if not all(held):
        return f"mixed: {count}"
    return f"{'direction agrees' if stand_in else 'agrees'}{' in the only seed' if seeds == 1 else ''}: {count}"


def evidence(claim: Mapping, metrics: Mapping) -> str:
    """The means that a verdict rests on, as text."""

    def text(path: str) -> str:
        found = _lookup(metrics, path)
        if isinstance(found, Mapping):
            return ", ".join(f"{np.mean(found[c]):.3f}" for c in sorted(found, key=lambda c: int(c[1:])))
        return f"{np.mean(found):.3f}"

    def texts(path: str) -> str:
        paths = _paths(metrics, path)
        if path.count("*") > 1 or len(paths) > 6:
            means = [np.mean(_lookup(metrics, p)) for p in paths]
            return f"{min(means):.3f} to {max(means):.3f} ({len(means)} numbers)"
        before, star, after = path.partition("*")
        name = lambda p: p[len(before) : len(p) - len(after)] + " " if star else ""  # noqa: E731
        return ", ".join(name(p) + text(p) for p in paths)

    if "curve" in claim:
        return f"{text(claim['curve'])} (tolerance {claim['tolerance']})"
    times, plus = claim.get("times", 1.0), claim.get("plus", 0.0)
    if "right" not in claim:
        return f"{texts(claim['left'])} {claim['relation']} {plus:g}"
    bound = f"{times:g} × {texts(claim['right'])}" if times != 1 else texts(claim["right"])
    shift = f" {'+' if plus > 0 else '−'} {abs(plus):g}" if plus else ""
    return f"{texts(claim['left'])} {claim['relation']} {bound}{shift}"


def published_series(claim: Mapping, frame: pd.DataFrame) -> str:
    """Where the paper has the claim, and the published numbers behind it.

    Of methods and variants, those that differ among the numbers are named.
    """
    series = []
    for wanted in claim.get("published", ()):
        rows = select(frame, **wanted).sort_values("context_length", kind="stable")
        names = [c for c in ("method", "variant") if rows[c].nunique() > 1]
        labels = rows[names].fillna("").agg(" ".join, axis=1) if names else [""] * len(rows)
        digits = 1 if wanted["metric"] == "top1" else 3
        series.append(", ".join(f"{label} {v:.{digits}f}".strip() for label, v in zip(labels, rows["value"])))
    return "; ".join([f"{claim['paper']}: {series[0]}", *series[1:]] if series else [claim["paper"]])
