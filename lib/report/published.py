"""The paper's numbers, and how ours stand beside them."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

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
FLOORS_TOLD = " or ".join(f"{value:.3f} ({target} latents)" for target, value in FLOORS.items())


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
    read = headline(select(results.rows, probe=[None, "paper"], space=["representation", "embedding"]))
    ours = over_seeds(pd.concat([read, changes(read)], ignore_index=True), CELL)
    # The first run of a kind stands for it.
    rows = asked(frame, artefacts).merge(runs.drop_duplicates(kind), how="left", on=kind)
    in_context = rows["space"] != "representation"
    rows["context_length"] = rows["context_length"].fillna(rows["longest"]).where(in_context)
    found = rows[CELL].merge(ours, how="left", on=CELL)
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


def asked(frame: pd.DataFrame, artefacts: pd.DataFrame) -> pd.DataFrame:
    """Published rows in the vocabulary of ours: where a number is read, and in `section` and `condition` of which run.

    Args:
        frame: rows of paper/published.csv. artefacts: paper/artefacts.csv.
    """
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
