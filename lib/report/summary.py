"""results/metrics.json: the numbers that `dvc metrics diff` compares and the claims are decided on."""

import pandas as pd

from lib.report.results import PER_COMPONENT, Results, changes, headline, nested, select

#: Probe -> suffix of the keys in results/metrics.json.
PROBE_SUFFIX = {"paper": "", "linear": "_linear_probe", "ridge": "_ridge_probe", "strong": "_strong_probe"}
#: What follows the name of a measure in results/metrics.json where it is read from unseen real meshes.
REAL_MESHES = "_real_meshes"
CURVES = ("environment", "metric", "context_length")


def summary(results: Results) -> dict:
    """What results/metrics.json holds: lists over seeds, of unseen parametric objects unless a key says otherwise.

    The head of paper/claims.yaml says what stands under each key. A section without runs is left out.

    Args:
        results: of all sections.
    """
    # Rates in [0, 1]; R² per component under the name of the metric.
    percent = results.rows["metric"] == "top1"
    rows = results.rows.assign(value=results.rows["value"].mask(percent, results.rows["value"] / 100))
    results = Results(rows, results.runs)
    main = results.of("main").one_each().rows
    found = _adaptation(headline(main), "")
    found |= _adaptation(select(main, objects="real"), REAL_MESHES)
    found |= _methods(headline(main))
    found["masking"] = {
        f"p{round(100 * run.mask_probability):03d}": _ablation(rows) | {"accuracy": _partners(rows)}
        for run, rows in _each(results.of("masking"))
    }
    found["auxiliary"] = {
        "with" if run.auxiliary_weight > 0 else "without": _ablation(rows)
        for run, rows in _each(results.of("auxiliary"))
    }
    labels = results.of("labels").one_each().rows
    labels = headline(labels[labels["variant"].str.startswith("label_corruption=", na=False)])
    rule = labels["variant"].str.removeprefix("label_corruption=")
    found["labels"] = nested(labels.assign(rule=rule), ["method", "rule", "context_length"])
    single = headline(results.of("single").one_each().rows)
    found["single"] = _relative(select(single, metric=f"r2_rotation{PER_COMPONENT}"))
    return {name: numbers for name, numbers in found.items() if numbers}


def _each(results: Results):
    """Each run and its rows."""
    return ((run, headline(select(results.rows, run=run.Index))) for run in results.runs.itertuples())


def _per_component(rows: pd.DataFrame) -> pd.DataFrame:
    rows = rows[rows["metric"].str.endswith(PER_COMPONENT)]
    return rows.assign(metric=rows["metric"].str.removesuffix(PER_COMPONENT))


def _relative(rows: pd.DataFrame) -> dict:
    return nested(_per_component(select(rows, space="embedding", target="relative", probe="paper")), CURVES)


def _adaptation(rows: pd.DataFrame, suffix: str) -> dict:
    """ContextSSL under its two contexts, by probe and kind of latents."""
    rows = select(rows, method="contextssl", space="embedding", environment=["rotation", "color"])
    individual = _per_component(select(rows, target="individual"))
    found = {
        f"adaptation{suffix}{of_probe}": nested(select(individual, probe=probe), CURVES)
        for probe, of_probe in PROBE_SUFFIX.items()
    }
    pooled = select(rows, target="relative", probe="paper", metric=["r2_rotation", "r2_color"])
    retrieval = select(rows, variant="library=test", metric="mrr_without_identity")
    return found | {
        f"relative{suffix}": _relative(rows),
        f"relative_pooled{suffix}": nested(pooled, CURVES),
        f"mrr{suffix}": nested(retrieval, ["environment", "context_length"]),
    }


def _methods(rows: pd.DataFrame) -> dict:
    """Every method at its representation, and what its embedding loses of it."""
    rows = rows[rows["probe"].isin(["paper"]) | rows["probe"].isna()]
    at = select(rows, space="representation")
    r2, top1 = _per_component(select(at, target="relative")), select(at, metric="top1")
    mrr = select(rows, variant="library=test", metric="mrr_without_identity").assign(metric="mrr")
    trained = pd.concat([r2, top1, mrr])
    invariant = select(r2, trained_group=None)
    return {
        "top1": nested(select(top1, trained_group=None), ["method"]),
        "invariant": nested(invariant[invariant["method"] != "contextssl"], ["method", "metric"]),
        "trained": nested(trained.dropna(subset="trained_group"), ["trained_group", "method", "metric"]),
        "drop": _drop(select(rows, trained_group=[None, "rotation"])),
    }


def _drop(rows: pd.DataFrame) -> dict:
    """Representation minus embedding with the longest context, ContextSSL's of rotation."""
    lost = changes(rows)
    longest = lost.groupby("run")["context_length"].transform("max")
    lost = lost[(lost["context_length"] == longest) & lost["environment"].isin(["none", "rotation"])]
    lost = lost[(lost["method"] != "contextssl") | (lost["environment"] == "rotation")]
    r2 = select(_per_component(lost), target="relative", metric="r2_rotation")
    lost = pd.concat([r2, select(lost, metric="top1")])
    contextual = (lost["method"] == "contextssl") | lost["method"].str.contains("-plus")
    kind = contextual.map({True: "contextual", False: "baselines"})
    return nested(lost.assign(kind=kind, value=-lost["value"]), ["metric", "kind", "method"])


def _ablation(rows: pd.DataFrame) -> dict:
    """Relative latents of an ablated ContextSSL under both contexts, per component, and its top-1."""
    return {
        "contexts": _relative(select(rows, environment=["rotation", "color"])),
        "top1": select(rows, space="representation", metric="top1").sort_values("seed")["value"].tolist(),
    }


def _partners(rows: pd.DataFrame) -> dict:
    rows = select(rows, metric="partner_accuracy", variant=["anchor=pair", "anchor=foreign"])
    return nested(rows.assign(anchor=rows["variant"].str.removeprefix("anchor=")), ["anchor"])
