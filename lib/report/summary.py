"""Every number that a claim is about, under one name: ours, the published ones, and those of a constant model.

results/metrics.json holds those of ContextSSL and its baselines. The head of paper/claims.yaml says what stands under
each name.
"""

import pandas as pd

from lib.pipeline.settings import DATASETS
from lib.report import claims
from lib.report.published import FLOORS, asked, load
from lib.report.results import PER_COMPONENT, Results, changes, headline, select

#: Columns of `numbers`: a row is one number of one seed and, where a context matters, of one context.
COLUMNS = ["number", "run", "seed", "context_seed", "value", "floor"]
#: Probe -> suffix of the names.
PROBE_SUFFIX = {"paper": "", "linear": "_linear_probe", "ridge": "_ridge_probe", "strong": "_strong_probe"}
#: What follows the name of a measure where it is read from unseen real meshes.
REAL_MESHES = "_real_meshes"
#: What names a number of a curve.
CURVE = ("environment", "metric", "context_length")
RETRIEVAL = ("mrr", "hit_at_1", "hit_at_5")
#: The same in rows, where the query to the source itself is left out.
ASKED_METRIC = {f"{metric}_without_identity": metric for metric in RETRIEVAL}


def numbers(results: Results) -> pd.DataFrame:
    """All numbers, of unseen parametric objects unless a name says otherwise; a section without runs has none.

    Args:
        results: of all sections, or of some runs of them.

    Returns:
        `COLUMNS`; rates in [0, 1], R² per component.
    """
    # Rates in [0, 1].
    scale = (results.rows["metric"] == "top1").map({True: 100, False: 1})
    rows = results.rows.assign(value=results.rows["value"] / scale, floor=results.rows["floor"] / scale)
    results = Results(rows, results.runs)
    main = results.of("main").one_each().rows
    found = [*_contextssl(headline(main), ""), *_contextssl(select(main, objects="real"), REAL_MESHES)]
    found += [*_methods(headline(main)), *_shortcut(select(main, method="contextssl"), "shortcut")]
    for run, rows in _each(results.of("masking")):
        name = f"masking.p{round(100 * run.mask_probability):03d}"
        found += [*_ablation(rows, name), *_shortcut(rows, f"{name}.shortcut")]
    for run, rows in _each(results.of("auxiliary")):
        found += _ablation(rows, "auxiliary." + ("with" if run.auxiliary_weight > 0 else "without"))
    labels = headline(results.of("labels").one_each().rows)
    rule = labels["variant"].str.extract(r"^label_corruption=(\w+)", expand=False)
    of_rule = labels["metric"].eq("top1") & rule.notna()
    found.append(_named(labels.assign(rule=rule)[of_rule], "labels", ["method", "rule", "context_length"]))
    found += _latents(select(labels, method="contextssl"), "labels")
    found += _latents(headline(results.of("single").one_each().rows), "single")
    for pair, rows in results.of("augmentations").one_each().rows.groupby("dataset", sort=False):
        found += _augmentations(headline(rows), f"augmentations.{pair}")
    return pd.concat(found, ignore_index=True)


def of_essl(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies on test images of E-SSL's diagnosis or methods, rows of `lib.essl.study.rows_of`."""
    rows = rows[(rows["split"] == "test") & rows["metric"].str.match("knn|linear")]
    study, measure = rows["study"].str.removeprefix("essl-"), rows["metric"].str.replace("knn", "kNN-")
    rates = {of: rows[of] / 100 for of in ("value", "floor")}
    return rows.assign(number=study + "." + rows["run"] + "." + measure, context_seed=pd.NA, **rates)[COLUMNS]


def of_photonics(rows: pd.DataFrame) -> pd.DataFrame:
    """Errors in percent, of each method the mean over all numbers of labels; rows of `lib.photonics.study.rows_of`.

    All methods of a family and seed have the same crystals: they are one run, so that they are compared seed by seed.
    """
    rows = rows[(rows["metric"] == "error") & (rows["contrast"] == "all")]
    mean = rows.groupby(["family", "method", "seed"], sort=False)[["value", "floor"]].mean().reset_index()
    number = "photonics." + mean["family"] + "." + mean["method"]
    return mean.assign(number=number, run=mean["family"], context_seed=pd.NA)[COLUMNS]


def of_bridge(found: pd.DataFrame) -> pd.DataFrame:
    """What each choice leaves readable, `lib.essl.bridge.side_by_side`; each choice of E-SSL is a run of its own."""
    pair = found["dataset"].map(lambda name: "-".join(DATASETS[name][1]))
    choice = found["choice"].str.replace(" and ", "-").str.replace(" ", "-")
    measure = found["measure"].str.replace("R² of ", "r2_").replace("top-1, %", "top1")
    run = pair + " " + choice.where(found["way"] == "E-SSL", "ContextSSL")
    scale = (measure == "top1").map({True: 100, False: 1})
    scaled = {of: found[of] / scale for of in ("value", "floor")}
    number = "bridge." + pair + "." + choice + "." + measure
    return found.assign(number=number, run=run, context_seed=pd.NA, **scaled)[COLUMNS]


def metrics(found: pd.DataFrame) -> dict:
    """What results/metrics.json holds of `numbers`: under the parts of each name, a list over seeds of means over
    contexts."""
    nested: dict = {}
    for name, of in found.groupby("number", sort=False):
        *outer, last = name.split(".")
        inside = nested
        for key in outer:
            inside = inside.setdefault(key, {})
        inside[last] = of.groupby("seed")["value"].mean().tolist()
    return nested


def verdicts(results: Results, about: str, stand_in: bool) -> pd.DataFrame:
    """A line for each claim with this in its id, see `lib.report.claims.table`.

    Args:
        results: ours, each context for itself. about: such as ``labels-``. stand_in: our data are not the paper's.
    """
    theirs = published(load(), pd.read_csv("paper/artefacts.csv"))
    named = [claims.by_name(numbers(of)) for of in (results, theirs, constant(results))]
    wanted = [claim for claim in claims.load() if about in claim["id"]]
    return claims.table(wanted, *named, runs=results.runs, stand_in=stand_in)


def published(frame: pd.DataFrame, artefacts: pd.DataFrame) -> Results:
    """The published numbers as evaluations of one seed, so that `numbers` names them as ours; those of images alone.

    R² is printed pooled, where a constant predictor scores `FLOORS` in rotation; the rows have it per component, too,
    as (R² - floor) / (1 - floor), so that 0 is a constant. Of crop, blur and color it is not said which R² is printed;
    it is taken as it is. Retrieval is printed with the query to the source itself.

    Args:
        frame: paper/published.csv. artefacts: paper/artefacts.csv.
    """
    rows = asked(frame[frame["dataset"].str.match("3diebench|cifar10-")], artefacts).dropna(subset="section")
    kind = ["section", "method", "trained_group", "condition"]
    run = rows[kind].astype(object).fillna("").agg(" ".join, axis=1)
    retrieval = rows["metric"].isin(RETRIEVAL)
    rows = rows.assign(
        run=run, seed=0, context_seed=pd.array([pd.NA] * len(rows), "Int64"), objects="all", floor=0.0,
        probe=rows["target"].notna().map({True: "paper", False: None}),
        metric=rows["metric"] + retrieval.map({True: "_without_identity", False: ""}),
    )  # fmt: skip
    rows = rows[rows["variant"].isna() | rows["metric"].eq("top1") | retrieval]
    rows = rows[rows["space"].isin(["representation", "embedding"])]
    # An embedding without a length is that of the longest context; what knows no context has none.
    longest = rows["method"].isin(["contextssl", "simclr-plus"]).map({True: 126, False: 0})
    rows["context_length"] = rows["context_length"].fillna(longest).where(rows["space"] == "embedding").astype("Int64")
    floor = rows["target"].map(FLOORS).where(rows["metric"] == "r2_rotation", 0.0)
    r2 = rows.assign(value=(rows["value"] - floor) / (1 - floor), metric=rows["metric"] + PER_COMPONENT)
    rows = pd.concat([rows, r2[rows["target"].notna()]], ignore_index=True)
    # Several tables print the same number.
    rows = rows.drop_duplicates(["run", "space", "environment", "context_length", "variant", "target", "metric"])
    # `asked` has named the pair of augmentations as our runs name their data.
    rows["dataset"] = rows["condition"].where(rows["dataset"].str.startswith("cifar10-"), "3diebench")
    runs = rows.drop_duplicates("run").set_index("run")[[*kind, "dataset"]]
    p = runs["condition"].str.extract(r"mask_prob=([\d.]+)", expand=False).astype(float)
    runs = runs.assign(
        sections=[(section,) for section in runs["section"]], mask_probability=p,
        auxiliary_weight=(runs["condition"] != "without-aux").astype(float),
    )  # fmt: skip
    return Results(rows, runs)


def constant(results: Results) -> Results:
    """A model that knows nothing: of the same rows, every number is its floor, of one seed and one context."""
    asked = results.rows.columns.difference(["seed", "context_seed", "value", "floor"])
    rows = results.rows.drop_duplicates([*asked])
    return Results(rows.assign(value=rows["floor"]), results.runs)


def as_headline(results: Results, run: str) -> Results:
    """One ContextSSL run alone in the place of the headline: what `numbers` then names is that run's."""
    return Results(select(results.rows, run=run), results.runs.loc[[run]].assign(sections=[("main",)]))


# ---- parts of the numbers


def _named(rows: pd.DataFrame, name: str, by: list[str]) -> pd.DataFrame:
    """The rows under ``<name>.<value of each column>``; a length of n tokens is ``c<n>``."""
    number = pd.Series(name, index=rows.index)
    for column in by:
        number += "." + "c" * (column == "context_length") + rows[column].astype(str)
    return rows.assign(number=number)[COLUMNS]


def _each(results: Results):
    """Each run and its rows."""
    return ((run, headline(select(results.rows, run=run.Index))) for run in results.runs.itertuples())


def _per_component(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[rows["metric"].str.endswith(PER_COMPONENT)]
    return rows.assign(metric=rows["metric"].str.removesuffix(PER_COMPONENT))


def _latents(rows: pd.DataFrame, name: str) -> list[pd.DataFrame]:
    """Both kinds of latents at the embedding, by the paper's probe."""
    rows = _per_component(select(rows, space="embedding", probe="paper"))
    return [_named(select(rows, target=target), f"{name}_{target}", [*CURVE]) for target in ("relative", "individual")]


def _contextssl(rows: pd.DataFrame, suffix: str) -> list[pd.DataFrame]:
    """The headline under its two contexts, by probe and kind of latents; its retrieval and neighbors."""
    rows = select(rows, method="contextssl", space="embedding", environment=["rotation", "color"])
    found = [
        _named(_per_component(select(rows, target=target, probe=probe)), f"{target}{of_probe}{suffix}", [*CURVE])
        for target in ("relative", "individual")
        for probe, of_probe in PROBE_SUFFIX.items()
    ]
    library = rows["variant"].str.extract(r"^library=(\w+)", expand=False)
    retrieval = rows.assign(library=library, metric=rows["metric"].map(ASKED_METRIC))
    retrieval = retrieval.dropna(subset=["library", "metric"])
    of_neighbors = rows["metric"].str.startswith("neighbor_")
    return [
        *found,
        _named(retrieval, f"retrieval{suffix}", ["library", "metric", "environment", "context_length"]),
        _named(rows[of_neighbors], f"neighbors{suffix}", [*CURVE]),
    ]


def _methods(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Every method at its representation, and what its embedding loses of it."""
    rows = rows[rows["probe"].isin(["paper"]) | rows["probe"].isna()]
    at = select(rows, space="representation", environment=None)
    r2, top1 = _per_component(select(at, target="relative")), select(at, metric="top1", variant=None)
    library = rows["variant"].map({"library=test": "test", "library=train": "train"})
    neighbors = rows[rows["metric"].str.startswith("neighbor_") & (rows["method"] != "contextssl")]
    ranked = rows.assign(metric=library + "_" + rows["metric"].map(ASKED_METRIC)).dropna(subset="metric")
    trained = pd.concat([r2, top1, ranked, neighbors]).dropna(subset="trained_group")
    invariant = select(pd.concat([r2, top1]), trained_group=None)
    return [
        _named(invariant, "invariant", ["method", "metric"]),
        _named(trained, "trained", ["trained_group", "method", "metric"]),
        *_drop(select(rows, trained_group=[None, "rotation"])),
    ]


def _augmentations(rows: pd.DataFrame, name: str) -> list[pd.DataFrame]:
    """ContextSSL's embedding of one pair of augmentations in each context, and all methods at the representation."""
    r2 = _per_component(select(rows, probe="paper"))
    embedded = select(r2, method="contextssl", space="embedding")
    represented = pd.concat([select(r2, target="relative"), select(rows, metric="top1")])
    return [
        _named(embedded, name, ["target", *CURVE]),
        _named(select(represented, space="representation"), name, ["method", "metric"]),
    ]


def _drop(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Representation minus embedding with the longest context."""
    lost = changes(rows).reset_index(drop=True)  # of no rows, pandas leaves `run` in the index, too
    lost = lost[lost["context_length"] == lost.groupby("run")["context_length"].transform("max")]
    lost = lost.assign(value=-lost["value"], floor=0.0)
    lost = pd.concat([_per_component(select(lost, target="relative")), select(lost, metric="top1")])
    ours = lost["method"] == "contextssl"
    return [
        _named(lost[ours], "drop", ["metric", "method", "environment"]),
        _named(lost[~ours], "drop", ["metric", "method"]),
    ]


def _ablation(rows: pd.DataFrame, name: str) -> list[pd.DataFrame]:
    """Relative latents of an ablated ContextSSL under both contexts, and its classification."""
    relative = _per_component(select(rows, space="embedding", target="relative", probe="paper"))
    classes = select(rows, space="representation", metric="top1", variant=None)
    return [_named(relative, name, [*CURVE]), _named(classes, name, ["metric"])]


def _shortcut(rows: pd.DataFrame, name: str) -> list[pd.DataFrame]:
    """How often an anchor finds its partner, by test mask and by what stands in the anchor's place."""
    rows = select(rows, metric="partner_accuracy")
    told = rows["variant"].str.extract(r"^anchor=(?P<anchor>\w+),mask=(?P<mask>[\d.]+)$")
    rows = rows.join(told).dropna(subset="mask")
    mask = (100 * rows["mask"].astype(float)).round().astype(int).map("m{:03d}".format)
    return [_named(rows.assign(mask=mask), name, ["mask", "anchor"])]
