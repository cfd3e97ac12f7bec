"""What the evaluations say: reading their rows, taking means over seeds, laying out tables.

An evaluation is rows, in the columns of paper/published.csv and a few more (lib/evaluation/evaluate.py: COLUMNS). So
our numbers and the published ones can be selected, joined and tabulated alike. An empty cell of a row says that the
column does not apply: a representation has no context, a measure of retrieval no target.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

from lib.report.plotting import write_table

#: Methods as paper/published.csv names them -> as tables do, in their order.
NAMES = {
    "simclr": "SimCLR", "simclr-plus-c0": "SimCLR+ (c = 0)", "simclr-plus": "SimCLR+", "vicreg": "VICReg",
    "vicreg-plus-c0": "VICReg+ (c = 0)", "vicreg-plus": "VICReg+", "equimod": "EquiMod", "sie": "SIE", "sen": "SEN",
    "contextssl": "ContextSSL",
}  # fmt: skip
#: Methods of Tables 4, 18, 21 and 22, and what makes a line there: column -> heading.
FAMILY = ["simclr", "simclr-plus-c0", "simclr-plus", "contextssl"]
FAMILY_INDEX = {
    "quantity": "measure", "name": "method", "environment": "environment", "space": "read from", "measure": "whose",
}  # fmt: skip
#: Data of a run -> how titles name them; others are named by the notebook that makes them.
DATA = {"3diebench": "3DIEBench", "3diebench-mini": "3DIEBench miniature, not 3DIEBench"}
#: Columns of rows that are text, also where they are empty throughout.
TEXT = (
    "run", "method", "trained_group", "space", "environment", "target", "probe", "objects", "variant", "metric",
)  # fmt: skip
#: Sections of the settings that a run has, each a table of its own in runs.json.
SECTIONS = ("model", "context", "pretrain", "baselines", "evaluate")
PER_COMPONENT = "_per_component"
#: What stands below tables with numbers of several contexts.
BRACKETS = (
    "In brackets: sample standard deviation over the draws of the context that a seed is read under, mean over seeds."
)


@dataclass(frozen=True)
class Results:
    """Rows of evaluations, and the runs that they are of."""

    #: Columns of the evaluation, and `study` and `dataset` of the run.
    rows: pd.DataFrame
    #: Indexed by run: method and trained_group as in the rows, groups, study, sections, dataset, seeds, images (seen in
    #: training), and every resolved setting under its own name, such as steps or mask_probability.
    runs: pd.DataFrame

    def of(self, section: str) -> "Results":
        """The runs that a section shows; none where there are none."""
        return self._only(self.runs[[section in shown for shown in self.runs["sections"]]])

    def one_each(self) -> "Results":
        """The first run of each method, groups that it is trained for and data, which stands for the others."""
        return self._only(self.runs.drop_duplicates(["method", "trained_group", "dataset"]))

    def _only(self, runs: pd.DataFrame) -> "Results":
        return Results(self.rows[self.rows["run"].isin(runs.index)], runs)


def read(*sections: str, folder: str | Path = "build/evaluations", each_context: bool = False) -> Results:
    """Evaluations of the runs that one of the sections shows, of all runs where none is named; methods as in `NAMES`.

    Rows are means over the draws of a context, see `over_contexts`, or with ``each_context`` the draws themselves.

    Raises:
        ValueError: one of the sections has no run, or a run stands in two studies.
    """
    runs, frames, shown = {}, [], set()
    for file in sorted(Path(folder).glob("*/runs.json")):
        for run in json.loads(file.read_text(encoding="utf-8")):
            if sections and not set(sections) & set(run["sections"]):
                continue
            shown |= set(run["sections"])
            if (name := run["name"]) in runs:
                raise ValueError(
                    f"{folder} has the run {name!r} in {runs[name]['study']} and in {file.parent.name}; "
                    "remove the folder of the study that params.yaml no longer has."
                )
            settings = {key: value for part in SECTIONS for key, value in run.get(part, {}).items()}
            runs[run["name"]] = {k: v for k, v in run.items() if k not in SECTIONS} | settings
        types = dict.fromkeys(TEXT, "str") | {"context_length": "Int64", "context_seed": "Int64"}
        frames.append(pd.read_csv(next(file.parent.glob("rows.csv*")), dtype=types))
    absent = [section for section in sections if section not in shown]
    if absent or not runs:
        raise ValueError(
            f"{folder} has no run of the section {' or '.join(absent) or '(any)'}; give a run in params.yaml "
            "`sections` with that name, or run `dvc repro`."
        )
    rows = pd.concat(frames, ignore_index=True)
    rows = rows[rows["run"].isin(runs)]
    # The method's name in rows tells N+ without a context apart.
    known = rows.drop_duplicates("run").set_index("run")[["method", "trained_group"]]
    table = pd.DataFrame.from_dict(runs, orient="index").drop(columns="method").join(known)
    table["images"] = table["steps"] * table["objects_per_step"] * table["views_per_object"]
    table = table.sort_values("method", key=lambda names: names.map(list(NAMES).index), kind="stable")
    places = dict(zip(table.index, range(len(table))))
    rows = rows.sort_values("run", key=lambda names: names.map(places), kind="stable", ignore_index=True)
    rows = rows.join(table[["study", "dataset"]], on="run")
    return Results(rows if each_context else over_contexts(rows), table.rename_axis("run"))


# ---- selecting


def select(frame: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """Rows whose columns equal the wanted values; None asks for an empty cell, a list for any of its values."""
    for column, value in wanted.items():
        if isinstance(value, (list, tuple)):
            frame = frame[frame[column].isin(list(value)) | (frame[column].isna() & (None in value))]
        else:
            frame = frame[frame[column].isna() if value is None else (frame[column] == value).fillna(False)]
    return frame


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the objects that are reported first: the miniature's parametric ones where they are told apart."""
    parametric = (rows["objects"] == "parametric") & (rows["dataset"] == "3diebench-mini")
    apart = parametric.groupby([rows["run"], rows["metric"], rows["variant"]], dropna=False).transform("any")
    return rows[rows["objects"].isna() | (rows["objects"] == apart.map({True: "parametric", False: "all"}))]


def latents(frame: pd.DataFrame, whose: str = "ours") -> pd.DataFrame:
    """Rows of R² alone, with columns `latent` (rotation, color, ...) and `measure` ("ours, pooled", ...)."""
    frame = frame[frame["metric"].str.startswith("r2_")]
    per_component = frame["metric"].str.endswith(PER_COMPONENT)
    return frame.assign(
        latent=frame["metric"].str.removeprefix("r2_").str.removesuffix(PER_COMPONENT),
        measure=per_component.map({True: f"{whose}, per component", False: f"{whose}, pooled"}),
    )


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the space `change`: embedding minus representation, of R² and top-1, for every environment and length."""
    same = ["run", "seed", "target", "probe", "objects", "metric"]
    rows = rows[rows["variant"].isna() & (rows["metric"].str.startswith("r2_") | (rows["metric"] == "top1"))]
    before = select(rows, space="representation").set_index(same)["value"].rename("before")
    after = select(rows, space="embedding").join(before, on=same, how="inner")
    after = after.assign(space="change", value=after["value"] - after["before"], floor=float("nan"))
    return after.drop(columns="before")


# ---- over seeds


def over_contexts(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over the draws of a context, with their sample deviation, `context_std`, and number, `contexts`.

    Both are empty, or 1, where there is one draw, or no context at all. The column `context_seed` is left out.

    Raises:
        ValueError: a draw has two numbers of one kind, which would count twice.
    """
    same = [column for column in rows.columns if column not in ("context_seed", "value")]
    if twice := int(rows.duplicated([*same, "context_seed"], keep=False).sum()):
        raise ValueError(f"{twice} rows stand for the same numbers: the rows are there twice; read each run once.")
    of = rows.groupby(same, dropna=False, sort=False, observed=True)["value"]
    found = of.agg(value="mean", context_std="std", contexts="count").reset_index()
    return found[[*rows.columns.drop("context_seed"), "context_std", "contexts"]].astype(rows[same].dtypes)


def over_seeds(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean over seeds, sample standard deviation (empty for one seed), number of seeds and floor.

    Of a seed that is read under several draws of a context the mean over them counts, see `over_contexts`.

    A published number counts as it is, with its printed deviation and n = 0.

    Args:
        rows: ours (with `seed`) or published, or both.
        by: columns that tell the numbers apart.

    Returns:
        Columns ``by``, mean, std, n, floor, in the order in which they come first; and context_std, the deviation over
        draws of a context (mean over seeds), and their number, contexts.

    Raises:
        ValueError: a seed has two numbers of one kind.
    """
    by = list(by)
    if "context_seed" in rows:
        rows = over_contexts(rows)
    wanted = ["seed", "std", "floor", "context_std", "contexts"]
    rows = rows.reindex(columns=list(dict.fromkeys([*rows.columns, *wanted])))
    twice = rows[rows.duplicated([*by, "seed"], keep=False)]
    if len(twice):
        cells = twice[[*by, "seed"]].astype(object).fillna("")
        same = twice[(cells == cells.iloc[0]).all(axis=1)]
        numbers = ("value", "std", "floor", "context_std", "contexts")
        differ = [c for c in same.columns if c not in numbers and same[c].nunique(dropna=False) > 1]
        raise ValueError(
            f"{len(same)} numbers stand for one seed of one row; select, or tell apart by, "
            f"{' or '.join(differ) or 'nothing: the rows are there twice'}."
        )
    of = rows.groupby(by, dropna=False, sort=False, observed=True)
    found = of.agg(
        mean=("value", "mean"), std=("value", "std"), n=("seed", "count"), floor=("floor", "first"),
        context_std=("context_std", "mean"), contexts=("contexts", "max"),
    )  # fmt: skip
    return found.assign(std=found["std"].fillna(of["std"].first())).reset_index()


def by_length(rows: pd.DataFrame) -> pd.DataFrame:
    """One curve, seed by seed: seeds x context lengths, from the shortest to the longest."""
    return rows.pivot(index="seed", columns="context_length", values="value").sort_index(axis=1)


# ---- text


def _text(mean: float, std: float, digits: int, context_std: float = float("nan")) -> str:
    if pd.isna(mean):
        return ""
    over_contexts = f" ({context_std:.{digits}f})" if pd.notna(context_std) else ""
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if pd.notna(std) else "") + over_contexts


def table(
    rows: pd.DataFrame,
    index: Sequence[str] | Mapping[str, str],
    columns: str = "context_length",
    digits: int | None = None,
    floor: bool = True,
    n: bool = True,
) -> pd.DataFrame:
    """A wide table of ``mean ± deviation`` over seeds, in brackets the deviation over contexts, see `BRACKETS`.

    Lines stand in the order in which the values of each index column come first in ``rows``; so ours and published rows
    may be concatenated. Columns are context lengths in their order, or text in the order in which it comes first; what
    has no context length stands in the column `any`. Published lengths that we do not have are left out.

    Args:
        rows: as for `over_seeds`.
        index: columns that make a line, or column -> heading.
        columns: the column whose values become columns.
        digits: after the point; without a number one for top-1, in percent, and three else.
        floor: whether the line's floor stands in a last column.
        n: whether the number of seeds stands behind the index, the least and the most where cells differ.
    """
    headings = index if isinstance(index, Mapping) else dict(zip(index, index))
    keys = list(headings)
    places = (rows["metric"] == "top1").map({True: 1, False: 3}) if digits is None else digits
    found = over_seeds(rows.assign(digits=places), [*dict.fromkeys([*keys, columns, "digits"])])
    across = found[columns].dropna().unique()
    if columns == "context_length":
        ours = set(found.loc[found["n"] > 0, columns].dropna())
        across = sorted(ours or across)
        found = found[found[columns].isin(across) | found[columns].isna()]
    found["text"] = [_text(*cell) for cell in found[["mean", "std", "digits", "context_std"]].itertuples(index=False)]
    found["floor"] = [_text(*cell) or None for cell in zip(found["floor"], [None] * len(found), found["digits"])]
    found["column"] = found[columns].astype(object).where(found[columns].notna(), "any").astype(str)
    for key in keys:
        cells = found[key].astype(object).where(found[key].notna(), "")
        found[key] = pd.Categorical(cells, cells.unique())
    wide = found.pivot(index=keys, columns="column", values="text").fillna("")
    wide = wide[["any"] * bool(found[columns].isna().any()) + [str(name) for name in across]]
    of_line = found.groupby(keys, observed=True)
    if floor:
        wide["floor"] = of_line["floor"].first().fillna("")
    if n:
        seeds = found[found["n"] > 0].groupby(keys, observed=True)["n"].agg(["min", "max"]).astype(str)
        counts = seeds["min"].where(seeds["min"] == seeds["max"], seeds["min"] + " to " + seeds["max"])
        wide.insert(0, "n", counts.reindex(wide.index).fillna(""))
    wide = wide.reset_index().astype(dict.fromkeys(keys, object))
    return wide.rename(columns=headings).rename_axis(columns=None)


def without_length(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, but those of runs that know no context have no length, as published, instead of 0."""
    lengths = rows.groupby("run")["context_length"].transform("nunique")
    return rows.assign(context_length=rows["context_length"].mask(lengths == 1))


def family_table(ours: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """R² of SimCLR, both SimCLR+ and ContextSSL, ours and published, as Tables 4, 18, 21 and 22 show it.

    SimCLR and SimCLR+ are read at the representation, as published, and SimCLR+ at the embedding beside it; ContextSSL
    at the embedding, in each environment.

    Args:
        ours: rows of one target and one probe. printed: the published rows.

    Returns:
        Columns as those of a `table` of `FAMILY_INDEX`.
    """
    contextual = printed["method"] == "contextssl"
    printed = printed.assign(space=contextual.map({True: "embedding", False: "representation"}))
    printed = printed[printed["method"].isin(ours["method"])]
    # The one number of a baseline is printed in each environment.
    printed["environment"] = printed["environment"].where(contextual)
    printed = printed.drop_duplicates(["method", "environment", "context_length", "metric"])
    rows = pd.concat([latents(without_length(ours)), latents(printed, "published")])
    elsewhere = rows["space"].map({"representation": "contextssl", "embedding": "simclr"})
    rows = rows[rows["method"].isin(FAMILY) & (rows["method"] != elsewhere)]
    rows = rows.sort_values("method", key=lambda method: method.map(FAMILY.index), kind="stable")
    environment = rows["environment"].where(rows["method"] == "contextssl", "any")
    rows = rows.assign(quantity=rows["latent"] + " R²", name=rows["method"].map(NAMES), environment=environment)
    return table(rows, FAMILY_INDEX)


def about(rows: pd.DataFrame, profile: str, data: str | None = None) -> str:
    """What every title says: profile, data (and that stand-ins are not the real thing), number of seeds and contexts.

    Args:
        rows: the rows that are shown. data: how the data are called, where `DATA` does not say it.
    """
    counts = rows.groupby("run")["seed"].nunique()
    least, most = counts.min(), counts.max()
    seeds = f"n = {least}" + (f" to {most}" if most > least else "") + (" seeds" if most > 1 else " seed")
    if most > 1:
        seeds += ", mean ± sample standard deviation" + (" where n > 1" if least == 1 else "")
    if "contexts" in rows and (draws := rows["contexts"].max()) > 1:
        seeds += f"; in a context, the mean over {draws:g} draws of it"
    named = data or " and ".join(DATA.get(name, name) for name in rows["dataset"].unique())
    return f"profile {profile}, {named}, {seeds}"


def title(rows: pd.DataFrame, text: str, profile: str, data: str | None = None) -> str:
    """``text``, and in brackets what `about` says."""
    return f"{text} ({about(rows, profile, data)})"


def trained(results: Results, rows: pd.DataFrame) -> str:
    """How long each model that the rows are of was trained."""
    runs = results.runs.loc[rows["run"].unique()]
    names = runs["method"].map(NAMES) + (", " + runs["trained_group"]).fillna("")
    sizes = [f"{name} {steps} ({images})" for name, steps, images in zip(names, runs["steps"], runs["images"])]
    return f"Steps (images seen) of each training: {'; '.join(sizes)}."


def stand_in(rows: pd.DataFrame) -> bool:
    """Whether data stand in for the paper's."""
    return not rows["dataset"].isin(["3diebench", "adult", "mimic3"]).all()


def show(frame: pd.DataFrame, stem: str | Path, title: str, notes: Sequence[str] = ()) -> None:
    """Write a table as ``<stem>.csv`` and ``<stem>.md``, and display it under its title."""
    write_table(frame, stem, title, notes)
    with pd.option_context("display.max_rows", None, "display.max_colwidth", None):
        display(Markdown(f"**{title}**"), frame.astype(object).fillna(""))
