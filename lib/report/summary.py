"""What the evaluations say, in two vocabularies: that of results/metrics.json and that of paper/published.csv."""

from collections.abc import Iterable, Mapping

import numpy as np

from lib.evaluation.metrics import values

#: Probe -> suffix of the keys in results/metrics.json.
PROBE_SUFFIX = {"paper": "", "linear": "_linear_probe", "ridge": "_ridge_probe", "strong": "_strong_probe"}
#: What follows the name of a measure in results/metrics.json where it is read from unseen real meshes.
REAL_MESHES = "_real_meshes"
METRICS = ("r2_rotation", "r2_color")
RETRIEVAL = ("mrr", "hit_at_1", "hit_at_5")


def identify(evaluation: Mapping) -> tuple[str, str | None]:
    """Method and groups trained for, as ``method`` and ``trained_group`` of paper/published.csv name them.

    SimCLR+ and VICReg+ that know no context at all are ``simclr-plus-c0`` and ``vicreg-plus-c0``. Groups are those of
    an equivariant baseline, ``rotation+color`` for both, and None for every other method.
    """
    method = evaluation["method"]
    if method in ("equimod", "sen", "sie"):
        return method, "+".join(evaluation["groups"])
    alone = method.endswith("-plus") and evaluation["context_lengths"] == [0]
    return f"{method}-c0" if alone else method, None


def identified(files: Mapping[str, Mapping], names: Iterable[str]) -> dict[tuple[str, str | None], Mapping]:
    """Evaluations of the named runs under `identify`; the first run of a kind stands for it."""
    found: dict = {}
    for name in names:
        found.setdefault(identify(files[name]), files[name])
    return found


# ---- results/metrics.json


def summary(files: Mapping[str, Mapping], select: Mapping[str, Iterable[str]]) -> dict:
    """What results/metrics.json holds: lists over seeds, of unseen parametric objects unless a key says otherwise.

    The head of paper/claims.yaml says what stands under each key. A section whose runs are not selected is left out.

    Args:
        files: run -> evaluation. select: section -> runs, as in params.yaml.
    """
    main = identified(files, select["main"])
    result = _adaptation(main["contextssl", None]) if ("contextssl", None) in main else {}
    result |= _methods(main)
    if select["masking"]:
        result["masking"] = {f"p{round(100 * _mask_probability(f)):03d}": _ablation(f) | _shortcut(f)
                             for f in map(files.get, select["masking"])}  # fmt: skip
    if select["auxiliary"]:
        result["auxiliary"] = {k: _ablation(files[n]) for k, n in zip(("with", "without"), select["auxiliary"])}
    if select["labels"]:
        result["labels"] = {
            method: {rule: {c: values(f, "labels", rule, c, f["sources"][0]) for c in f["seeds"][0]["labels"][rule]}
                     for rule in ("rotation", "color")}
            for (method, _), f in identified(files, select["labels"]).items()
        }  # fmt: skip
    if select["single"]:
        single = files[select["single"][0]]
        result["single"] = _curves(single, single["context_kinds"], "relative", "paper", "mean", METRICS[:1])
    return result


def _curves(
    file: Mapping, contexts: Iterable[str], task: str, probe: str, measure: str, metrics: Iterable[str] = METRICS,
    source: str | None = None,
) -> dict:
    """context -> metric -> c<length>: R² of the embedding."""
    at = lambda metric: (task, probe, source or file["sources"][0], metric, measure)  # noqa: E731
    return {
        context: {
            metric: {
                f"c{n}": values(file, "r2", "embedding", context, f"c{n}", *at(metric)) for n in file["context_lengths"]
            }
            for metric in metrics
        }
        for context in contexts
    }


def _adaptation(main: Mapping) -> dict:
    """ContextSSL under its two contexts, by probe, kind of latents and source of objects."""
    contexts, result = ("rotation", "color"), {}
    read = main["seeds"][0]["r2"]["representation"]["individual"]
    for source in main["sources"]:
        prefix = "" if source == main["sources"][0] else REAL_MESHES
        for probe, suffix in PROBE_SUFFIX.items():
            if probe in read:
                found = _curves(main, contexts, "individual", probe, "mean", source=source)
                result[f"adaptation{prefix}{suffix}"] = found
        result[f"relative{prefix}"] = _curves(main, contexts, "relative", "paper", "mean", source=source)
        result[f"relative_pooled{prefix}"] = _curves(main, contexts, "relative", "paper", "pooled", source=source)
        result[f"mrr{prefix}"] = {
            context: {f"c{n}": values(main, "retrieval", "test", context, f"c{n}", source, "mrr")
                      for n in main["context_lengths"]}
            for context in contexts
        }  # fmt: skip
    return result


def _methods(main: Mapping[tuple[str, str | None], Mapping]) -> dict:
    """Every method at its representation, and what its embedding loses of it."""
    result: dict = {"top1": {}, "invariant": {}, "trained": {}, "drop": {"r2_rotation": {}, "top1": {}}}
    for (method, trained), file in main.items():
        source = file["sources"][0]
        at = lambda metric: ("relative", "paper", source, metric, "mean")  # noqa: B023, E731
        r2 = {metric: values(file, "r2", "representation", *at(metric)) for metric in METRICS}
        top1 = values(file, "top1", "representation", source)
        if trained is None:
            result["top1"][method] = top1
            if method != "contextssl":
                result["invariant"][method] = r2
        else:
            mrr = values(file, "retrieval", "test", trained, "c0", source, "mrr")
            result["trained"].setdefault(trained, {})[method] = r2 | {"top1": top1, "mrr": mrr}
        if trained in (None, "rotation"):
            kind = "rotation" if method == "contextssl" else "none"
            space = ("embedding", kind, f"c{file['context_lengths'][-1]}")
            lost = {"r2_rotation": np.subtract(r2["r2_rotation"], values(file, "r2", *space, *at("r2_rotation"))),
                    "top1": np.subtract(top1, values(file, "top1", *space, source))}  # fmt: skip
            for metric, drop in lost.items():
                kind = "contextual" if method == "contextssl" or "-plus" in method else "baselines"
                result["drop"][metric].setdefault(kind, {})[method] = drop.tolist()
    return {name: found for name, found in result.items() if found}


def _ablation(file: Mapping) -> dict:
    """Relative latents of an ablated ContextSSL under both contexts, per component, and its top-1."""
    return {
        "contexts": _curves(file, ("rotation", "color"), "relative", "paper", "mean"),
        "top1": values(file, "top1", "representation", file["sources"][0]),
    }


def _shortcut(file: Mapping) -> dict:
    return {"accuracy": {anchor: values(file, "shortcut", "accuracy", anchor) for anchor in ("pair", "foreign")}}


def _mask_probability(file: Mapping) -> float:
    return file["seeds"][0]["shortcut"]["p"]


# ---- paper/published.csv


def counterpart(
    row: Mapping, files: Mapping, select: Mapping, augmented: Mapping
) -> tuple[list[float], float | None]:
    """Our numbers for a row of paper/published.csv, read as the paper reads them.

    Representations for invariant and equivariant baselines (but embeddings in Table 11), embeddings under a context for
    ContextSSL, where the row says nothing else; R² pooled; retrieval with the identity query.

    Args:
        row: column -> value, None for an empty cell. files: run -> evaluation. select: section -> runs.
        augmented: combination of hand-crafted augmentations -> run -> evaluation.

    Returns:
        One number for each seed, in the unit of the row (top-1 in percent), and the floor of a constant or chance (None
        for top-1 and differences).

    Raises:
        KeyError: nothing of ours stands for the row: no such run or length, or a number from the paper's prose.
    """
    if row["variant"] == "change":
        after, before = (
            counterpart({**row, "variant": space}, files, select, augmented)[0]
            for space in ("embedding", "representation")
        )
        return [a - b for a, b in zip(after, before)], None
    file, metric = _evaluation_of(row, files, select, augmented), row["metric"]
    source, length = file["sources"][0], row["context_length"]
    cell = f"c{file['context_lengths'][-1] if length is None else length}"
    if metric in RETRIEVAL:
        library, of = ("test", source) if row["variant"] == "library=validation" else ("train", "all")
        asked = row["trained_group"] or row["environment"]
        found = values(file, "retrieval", library, asked, cell, of, "as_released", metric)
        return found, file["seeds"][0]["retrieval"]["chance"][metric]
    if "label_corruption" in (row["variant"] or "") and metric == "top1":
        rule = row["variant"].removeprefix("label_corruption=")
        return [100 * v for v in values(file, "labels", rule, cell, source)], None
    space = ("representation",) if _at_representation(row) else ("embedding", _kind(row, file), cell)
    if metric == "top1":
        return [100 * v for v in values(file, "top1", *space, source)], None
    if not metric.startswith("r2_"):
        raise KeyError(f"{row['artefact']}'s {metric} is the paper's prose; there is no such number of ours.")
    found = values(file, "r2", *space, row["target"], "paper", source, metric, "pooled")
    return found, values(file, "floor", row["target"], source, metric, "pooled")[0]


def _evaluation_of(row: Mapping, files: Mapping, select: Mapping, augmented: Mapping) -> Mapping:
    """The run of ours that a published row is about."""
    artefact, method = row["artefact"], row["method"]
    if (row["dataset"] or "").startswith("cifar10-"):
        runs = augmented[row["dataset"].removeprefix("cifar10-")]
        return identified(runs, runs)[method, None]
    if artefact in ("table-9", "table-10"):
        runs = {_mask_probability(files[name]): files[name] for name in select["masking"]}
        return runs[float(row["variant"].removeprefix("mask_prob="))]
    if artefact == "table-11" and method == "contextssl":
        runs = dict(zip(("with-aux", "without-aux"), select["auxiliary"]))
        return files[runs[row["variant"].split(";")[0]]]
    section = "labels" if artefact in ("table-4", "table-18") else "main"
    if artefact in ("table-21", "table-22") and method == "contextssl":
        return files[next(iter(select["single"]), None)]
    return identified(files, select[section])[method, row["trained_group"]]


def _at_representation(row: Mapping) -> bool:
    variant = row["variant"] or ""
    embedded = row["method"] == "contextssl" or variant == "embedding" or row["artefact"] == "table-11"
    return "representation" in variant or not embedded


def _kind(row: Mapping, file: Mapping) -> str:
    """The kind of context of a row; models that are told no action know only contexts without actions."""
    return row["environment"] if row["method"] == "contextssl" else "none"
