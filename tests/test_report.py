"""Reading rows, tables, the published numbers beside ours, figures: on hand-made rows throughout."""

import json
from itertools import count, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

from lib.evaluation.evaluate import COLUMNS
from lib.report import plotting, published, results, speedrun, summary
from lib.report.results import select

ROOT = Path(__file__).parents[1]
BOTH = ("rotation", "color")
R2 = ("r2_rotation", "r2_color", "r2_rotation_per_component", "r2_color_per_component")

# ---- hand-made evaluations: every number is another

#: Run -> method, groups, study, changes of the tiny settings.
RUNS = {
    "contextssl": ("contextssl", BOTH, "main", {"probes": tuple(summary.PROBE_SUFFIX)}),
    "simclr": ("simclr", (), "main", {}),
    "simclr-plus-c0": ("simclr-plus", (), "baselines", {"context_lengths": (0,), "context_kinds": ("none",)}),
    "simclr-plus": ("simclr-plus", (), "baselines", {"context_kinds": ("none",)}),
    "sen-rotation": ("sen", ("rotation",), "baselines", {}),
    "sen-color": ("sen", ("color",), "baselines", {}),
    "sie-both": ("sie", BOTH, "baselines", {}),
    "mask-000": ("contextssl", BOTH, "masking", {"mask_probability": 0.0, "context_kinds": BOTH}),
    "mask-090": ("contextssl", BOTH, "masking", {"mask_probability": 0.9, "context_kinds": BOTH}),
    "without-auxiliary": ("contextssl", BOTH, "auxiliary", {"auxiliary_weight": 0.0, "context_kinds": BOTH}),
    "labels-simclr": ("simclr", (), "labels", {"label_weight": 1.0}),
    "labels-contextssl": ("contextssl", BOTH, "labels", {"label_weight": 1.0, "context_kinds": BOTH}),
    "single": ("contextssl", ("rotation", "none"), "single", {"context_kinds": ("rotation", "none")}),
    "crop-blur-simclr": ("simclr", (), "augmentations", {}),
}
SECTIONS = {"mask-090": ("masking", "auxiliary")} | {name: ("main",) for name in RUNS if RUNS[name][2] == "baselines"}


def make_run(name):
    method, groups, study, changes = RUNS[name]
    own = {"name": name, "study": study, "sections": SECTIONS.get(name, (study,))}
    own |= {"seeds": (0, 1)} if study == "main" else {}
    own |= {"dataset": "crop-blur"} if study == "augmentations" else {}
    return tiny.run(method, groups, **changes).model_copy(update=own)


def rows_of(run, numbers):
    """Rows of all that a run's model can be asked for."""
    contextual = run.method in ("contextssl", "simclr-plus")
    kinds, lengths = (run.evaluate.context_kinds, run.evaluate.context_lengths) if contextual else (("none",), (0,))
    asked = [run.trained_group] if run.trained_group else [kind for kind in kinds if kind != "none"]
    objects, targets = ("all", "parametric", "real"), ("individual", "relative")

    def under(kinds, **more):
        return [{"space": "embedding", "environment": k, "context_length": n} | more for k in kinds for n in lengths]

    spaces = [{"space": "representation"}, *under(kinds)]
    rows = [at | {"target": target, "probe": probe, "objects": of, "metric": r2}
            for at, target, probe, of, r2 in product(spaces, targets, run.evaluate.probes, objects, R2)]  # fmt: skip
    rows += [at | {"objects": of, "metric": "top1"} for at, of in product(spaces, objects)]
    for library, of in [*product(["test"], objects), ("validation", "all"), ("train", "all")]:
        places = under(asked, variant=f"library={library}", objects=of)
        rows += [at | {"metric": metric} for at in places for metric in ("mrr", "mrr_without_identity")]
    for rule, of in product(BOTH, objects) if run.pretrain.label_weight else ():
        rows += under([rule if contextual else "none"], variant=f"label_corruption={rule}", objects=of, metric="top1")
    if run.method == "contextssl":
        rows += [{"space": "embedding", "objects": "all", "variant": f"anchor={who}", "metric": "partner_accuracy"}
                 for who in ("pair", "foreign", "mean")]  # fmt: skip
    same = {"run": run.name, "method": run.label, "trained_group": run.trained_group, "floor": 0.25}
    return [same | row | {"seed": seed, "value": next(numbers)} for seed in run.seeds for row in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the evaluate stages leave, of `RUNS`."""
    folder, numbers = tmp_path_factory.mktemp("evaluations"), count(1)
    for study in dict.fromkeys(study for _, _, study, _ in RUNS.values()):
        runs = [make_run(name) for name, (_, _, of, _) in RUNS.items() if of == study]
        rows = pd.DataFrame([row for run in runs for row in rows_of(run, numbers)], columns=COLUMNS)
        (folder / study).mkdir()
        rows.astype({"context_length": "Int64"}).to_csv(folder / study / "rows.csv", index=False)
        (folder / study / "runs.json").write_text(json.dumps([run.model_dump(mode="json") for run in runs]))
    return folder


@pytest.fixture(scope="module")
def everything(folder):
    return results.read(folder=folder)


def test_a_section_has_its_runs_and_methods_come_in_their_order(folder):
    found = results.read("main", folder=folder)
    order = ["simclr", "simclr-plus-c0", "simclr-plus", "sie-both", "sen-rotation", "sen-color", "contextssl"]
    assert list(found.runs.index) == order == list(found.rows["run"].unique())
    assert found.runs.loc["simclr-plus-c0", "method"] == "simclr-plus-c0"  # not what it is trained as
    assert found.runs.loc["sie-both", "trained_group"] == "rotation+color"
    assert found.runs.loc["simclr", ["steps", "images", "study"]].to_list() == [12, 12 * 6 * 4, "main"]
    assert set(results.read("auxiliary", folder=folder).runs.index) == {"mask-090", "without-auxiliary"}
    both = results.read("auxiliary", "masking", folder=folder)
    assert set(both.of("masking").rows["run"]) == {"mask-000", "mask-090"} and both.of("labels").rows.empty


def test_a_section_without_runs_and_a_run_that_is_there_twice_are_named(folder, tmp_path):
    for named in (["adult"], ["main", "adult"]):  # a notebook that reads two lacks one as much
        with pytest.raises(ValueError, match=r"no run of the section adult; give a run .* `sections`"):
            results.read(*named, folder=folder)
    for study in ("main", "renamed"):
        (tmp_path / study).mkdir()
        for name in ("rows.csv", "runs.json"):
            (tmp_path / study / name).write_bytes((folder / "main" / name).read_bytes())
    with pytest.raises(ValueError, match="the run 'contextssl' in main and in renamed"):
        results.read(folder=tmp_path)


# ---- selecting and tables


def hand(**columns):
    """Rows of two methods, one with a context, and what a table of them is by hand."""
    rows = pd.DataFrame([
        ("b", 0, 2, 0.3, 0.01), ("b", 1, 2, 0.5, 0.01), ("b", 0, 0, 0.2, 0.01), ("b", 1, 0, 0.2, 0.01),
        ("a", 0, None, 0.7, 0.02),
    ], columns=["method", "seed", "context_length", "value", "floor"])  # fmt: skip
    rows = rows.assign(metric="mrr", run=rows["method"], dataset="3diebench-mini", **columns)
    return rows.astype({"context_length": "Int64"})


PRINTED = pd.DataFrame({
    "method": ["b", "b", "a"], "context_length": pd.array([0, 30, None], "Int64"), "value": [0.25, 0.9, 0.8],
    "std": [0.001, None, None], "metric": "mrr", "whose": "published",
})  # fmt: skip


def test_rows_are_selected_by_value_by_any_of_a_list_and_by_an_empty_cell():
    rows = hand()
    assert select(rows, method="b", context_length=2)["value"].to_list() == [0.3, 0.5]
    assert select(rows, context_length=None)["method"].to_list() == ["a"]
    assert select(rows, method=["a", "c"], seed=0)["value"].to_list() == [0.7]
    assert len(select(rows, context_length=[None, 0])) == 3


def test_contexts_are_averaged_within_a_seed_first():
    """Seed 0 is read under two draws, seed 1 under one: each seed counts once."""
    values = {"seed": [0, 0, 1], "context_seed": [0, 1, 0], "value": [0.1, 0.3, 0.8]}
    rows = pd.DataFrame(values | {"floor": 0.0, "of": "a"})
    drawn = results.over_contexts(rows)
    assert drawn["value"].to_list() == pytest.approx([0.2, 0.8]) and drawn["contexts"].to_list() == [2, 1]
    assert drawn["context_std"].to_list() == pytest.approx([0.02**0.5, np.nan], nan_ok=True)
    (found,) = results.over_seeds(rows, ["of"]).to_dict("records")
    assert (found["mean"], found["n"], found["contexts"]) == (pytest.approx(0.5), 2, 2)
    assert (found["std"], found["context_std"]) == (pytest.approx(0.18**0.5), pytest.approx(0.02**0.5))
    with pytest.raises(ValueError, match="6 rows stand for the same numbers: the rows are there twice"):
        results.over_seeds(pd.concat([rows, rows.assign(value=0.9)]), ["of"])


def test_means_over_seeds():
    found = results.over_seeds(hand(), ["method", "context_length"]).set_index(["method", "context_length"])
    assert found.loc[("b", 2), ["mean", "std", "n", "floor"]].to_list() == pytest.approx([0.4, 0.02**0.5, 2, 0.01])
    alone = found.loc[("a", pd.NA)]
    assert alone["mean"] == 0.7 and np.isnan(alone["std"]) and alone["n"] == 1
    printed = results.over_seeds(PRINTED, ["method", "context_length"])
    assert printed["n"].to_list() == [0, 0, 0] and printed["std"].to_list()[0] == 0.001
    with pytest.raises(ValueError, match="2 numbers stand for one seed of one row; .* tell apart by, context_length."):
        results.over_seeds(hand(), ["method"])
    with pytest.raises(ValueError, match="tell apart by, nothing: the rows are there twice."):
        results.over_seeds(pd.concat([hand(), hand()]), ["method", "context_length"])


def test_a_table_by_hand():
    rows = pd.concat([hand(whose="ours"), PRINTED])
    found = results.table(rows, {"method": "Method", "whose": "whose"})
    assert found.to_dict("split")["data"] == [
        ["b", "ours", "2", "", "0.200 ± 0.000", "0.400 ± 0.141", "0.010"],
        ["b", "published", "", "", "0.250 ± 0.001", "", ""],
        ["a", "ours", "1", "0.700", "", "", "0.020"],
        ["a", "published", "", "0.800", "", "", ""],
    ]
    # Length 30 is the paper's alone.
    assert list(found.columns) == ["Method", "whose", "n", "any", "0", "2", "floor"]
    percent = select(hand(), method="b").assign(metric="top1", place="somewhere")
    found = results.table(select(percent, seed=0), ["context_length"], "place", floor=False, n=False)
    assert found.values.tolist() == [[2, "0.3"], [0, "0.2"]]


def test_a_table_shows_the_spread_over_contexts_and_every_n():
    """Length 0 has one seed, length 2 two, each under two draws that lie 0.2 apart."""
    rows = select(hand(), method="b")[:3].assign(context_seed=pd.array([0, 0, None], "Int64"))
    drawn = select(rows, context_length=2)
    rows = pd.concat([rows, drawn.assign(context_seed=1, value=drawn["value"] + 0.2)])
    expected = ["b", "1 to 2", "0.200", "0.500 ± 0.141 (0.141)", "0.010"]
    for read in (rows, results.over_contexts(rows)):
        assert results.table(read, ["method"]).values.tolist() == [expected]
    assert results.about(results.over_contexts(rows), "ci", "data") == (
        "profile ci, data, n = 2 seeds, mean ± sample standard deviation; in a context, the mean over 2 draws of it"
    )


def test_a_table_has_its_lines_column_by_column_in_the_order_of_first_appearance():
    rows = pd.DataFrame([("z", "ours"), ("a", "ours"), ("a", "published"), ("m", "published"), ("z", "published")],
                        columns=["name", "whose"])  # fmt: skip
    rows = rows.assign(value=1.0, metric="mrr", seed=0, column="x")
    found = results.table(rows, ["name", "whose"], "column", floor=False)
    assert found["name"].to_list() == ["z", "z", "a", "a", "m"]


def test_the_family_is_read_where_the_paper_reads_it(everything):
    ours = results.headline(select(everything.of("main").rows, target="individual", probe="paper", metric="r2_color"))
    printed = select(published.load(), artefact="table-18", metric="r2_color")
    found = results.family_table(ours, printed).set_index(["method", "environment", "read from", "whose"])
    places = dict.fromkeys(key[:3] for key in found.index)
    assert list(places) == [
        ("SimCLR", "any", "representation"), ("SimCLR+ (c = 0)", "any", "representation"),
        ("SimCLR+ (c = 0)", "any", "embedding"), ("SimCLR+", "any", "representation"), ("SimCLR+", "any", "embedding"),
        ("ContextSSL", "rotation", "embedding"), ("ContextSSL", "color", "embedding"),
        ("ContextSSL", "none", "embedding"),
    ]  # fmt: skip
    # What knows no context has no length, published or not; a printed baseline is a representation.
    assert (found.loc["SimCLR+ (c = 0)", ["any"]] != "").all(axis=None)
    assert found.loc[("SimCLR+", "any", "representation", "published, pooled"), "any"] == "0.267"
    assert ("SimCLR+", "any", "embedding", "published, pooled") not in found.index
    alone = results.family_table(select(ours, run="contextssl"), printed)
    assert set(alone["method"]) == {"ContextSSL"}


def test_a_curve_seed_by_seed():
    curve = results.by_length(select(hand(), method="b"))
    assert curve.columns.to_list() == [0, 2] and curve[2].to_list() == [0.3, 0.5]


def test_first_come_parametric_objects_where_they_are_told_apart(everything):
    first = results.headline(everything.of("main").rows)
    assert set(select(first, metric="r2_color")["objects"]) == {"parametric"}
    assert set(select(first, variant="library=test")["objects"]) == {"parametric"}
    assert set(select(first, variant=["library=train", "anchor=pair"])["objects"]) == {"all"}
    assert set(results.headline(everything.of("augmentations").rows)["objects"]) == {"all"}
    real = everything.of("main").rows.assign(dataset="3diebench")
    assert set(results.headline(real)["objects"]) == {"all"}


def test_latents_and_changes(everything):
    rows = select(everything.rows, run="contextssl", seed=0, target="relative", probe="paper", objects="real")
    told = results.latents(select(rows, space="representation"), "theirs")
    assert told[["latent", "measure"]].drop_duplicates().values.tolist() == [
        ["rotation", "theirs, pooled"], ["color", "theirs, pooled"],
        ["rotation", "theirs, per component"], ["color", "theirs, per component"],
    ]  # fmt: skip
    change = select(results.changes(rows), environment="color", context_length=6, metric="r2_color")
    before = select(rows, space="representation", metric="r2_color")["value"].item()
    after = select(rows, space="embedding", environment="color", context_length=6, metric="r2_color")["value"].item()
    assert change["value"].item() == after - before and set(change["space"]) == {"change"}
    assert change["floor"].isna().all()


def test_titles_say_profile_data_and_seeds(everything):
    main, labels = everything.of("main").rows, everything.of("labels").rows
    assert results.title(select(main, run="simclr"), "Table", "laptop") == (
        "Table (profile laptop, 3DIEBench miniature, not 3DIEBench, n = 2 seeds, mean ± sample standard deviation)"
    )
    assert results.about(main, "ci").endswith("n = 1 to 2 seeds, mean ± sample standard deviation where n > 1")
    assert results.about(labels, "ci", "photographs") == "profile ci, photographs, n = 1 seed"
    assert results.trained(everything, select(main, method="sen")) == (
        "Steps (images seen) of each training: SEN, rotation 12 (288); SEN, color 12 (288)."
    )
    assert results.stand_in(main) and not results.stand_in(main.assign(dataset="3diebench"))


# ---- published numbers, and ours beside them


def test_published_numbers_are_possible():
    frame = published.load(ROOT / "paper" / "published.csv")
    assert published.value(
        frame, artefact="table-6", environment="color", context_length=126, metric="r2_rotation"
    ) == pytest.approx(0.344)
    keys = ["artefact", "method", "trained_group", "environment", "variant", "context_length"]
    wide = (
        frame[frame["metric"].isin(["mrr", "hit_at_1", "hit_at_5"])]
        .pivot_table(index=keys, columns="metric", values="value", dropna=False)
        .dropna()
    )
    assert len(wide)
    # Ranks 1, then 2..5, then 6..50 bound the mean reciprocal rank from both sides; printed numbers are rounded.
    one, five = wide["hit_at_1"], wide["hit_at_5"]
    assert (one <= five).all()
    assert (wide["mrr"] <= one + (five - one) / 2 + (1 - five) / 6 + 0.02).all()
    assert (wide["mrr"] >= one + (five - one) / 5 + (1 - five) / 50 - 0.02).all()


def test_impossible_published_number_is_refused(tmp_path):
    row = dict.fromkeys(published.COLUMNS, "") | {"artefact": "table-1", "metric": "mrr", "value": 1.2}
    pd.DataFrame([row]).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(ValueError, match="table-1 has mrr = 1.2"):
        published.load(tmp_path / "p.csv")


ARTEFACTS = pd.read_csv(ROOT / "paper" / "artefacts.csv")


def test_every_artefact_of_the_paper_is_mapped():
    expected = {f"table-{n}" for n in range(1, 23)} | {f"figure-{n}" for n in (1, *range(3, 12))}
    assert set(ARTEFACTS["artefact"]) == expected
    for row in ARTEFACTS[ARTEFACTS["status"] == "made"].itertuples():
        assert (ROOT / row.notebook).exists()
        assert all(path.startswith(f"results/{Path(row.notebook).stem}/") for path in row.output.split("; "))
    assert set(ARTEFACTS["baselines_at"].dropna()) == {"representation", "embedding"}


#: A published row -> where our number for it stands.
BESIDE = {
    "simclr at its representation": (
        {"artefact": "figure-3", "method": "simclr"}, {"run": "simclr", "space": "representation"}),
    "simclr at its embedding in Table 11": (
        {"artefact": "table-11", "method": "simclr"},
        {"run": "simclr", "space": "embedding", "environment": "none", "context_length": 0}),
    "N+ of Table 11 at its longest context": (
        {"artefact": "table-11", "method": "simclr-plus"},
        {"run": "simclr-plus", "space": "embedding", "environment": "none", "context_length": 6}),
    "c = 0 is a model of its own": (
        {"artefact": "table-5", "method": "simclr-plus-c0", "target": "individual"},
        {"run": "simclr-plus-c0", "space": "representation", "target": "individual"}),
    "ContextSSL under its context": (
        {"artefact": "table-6", "method": "contextssl", "environment": "color", "context_length": 2},
        {"run": "contextssl", "space": "embedding", "environment": "color", "context_length": 2}),
    "a baseline by its groups": (
        {"artefact": "table-5", "method": "sie", "trained_group": "rotation+color", "metric": "r2_color"},
        {"run": "sie-both", "space": "representation", "metric": "r2_color"}),
    "by mask probability": (
        {"artefact": "table-9", "method": "contextssl", "environment": "rotation", "context_length": 6,
         "variant": "mask_prob=0.90"},
        {"run": "mask-090", "space": "embedding", "environment": "rotation", "context_length": 6}),
    "with the auxiliary predictor": (
        {"artefact": "table-11", "method": "contextssl", "environment": "color", "context_length": 0,
         "variant": "with-aux"},
        {"run": "mask-090", "space": "embedding", "environment": "color", "context_length": 0}),
    "without it, classes": (
        {"artefact": "table-11", "method": "contextssl", "environment": "color", "metric": "top1", "target": None,
         "variant": "without-aux;representation"},
        {"run": "without-auxiliary", "space": "representation", "metric": "top1", "target": None, "probe": None,
         "variant": None}),
    "held-out objects are our test objects": (
        {"artefact": "table-1", "method": "sen", "trained_group": "rotation", "variant": "library=validation",
         "metric": "mrr", "target": None},
        {"run": "sen-rotation", "space": "embedding", "environment": "rotation", "variant": "library=test",
         "metric": "mrr", "target": None, "probe": None}),
    "training objects are not told apart": (
        {"artefact": "table-8", "method": "contextssl", "environment": "rotation", "variant": "library=train",
         "metric": "mrr", "target": None, "context_length": 2},
        {"run": "contextssl", "environment": "rotation", "variant": "library=train", "context_length": 2,
         "metric": "mrr", "target": None, "probe": None, "objects": "all"}),
    "labels at the embedding": (
        {"artefact": "table-4", "method": "simclr", "variant": "label_corruption=color", "metric": "top1",
         "target": None},
        {"run": "labels-simclr", "space": "embedding", "variant": "label_corruption=color", "metric": "top1",
         "target": None, "probe": None}),
    "latents of labels at the representation": (
        {"artefact": "table-4", "method": "simclr", "variant": "label_corruption=color"},
        {"run": "labels-simclr", "space": "representation", "variant": None}),
    "one transformation": (
        {"artefact": "table-21", "method": "contextssl", "environment": "none", "context_length": 2},
        {"run": "single", "space": "embedding", "environment": "none", "context_length": 2}),
    "beside it the main results' baselines": (
        {"artefact": "table-21", "method": "simclr"}, {"run": "simclr", "space": "representation"}),
    "an embedding without a length is that of the longest context": (
        {"artefact": "table-19", "method": "contextssl", "environment": "rotation", "variant": "embedding"},
        {"run": "contextssl", "space": "embedding", "environment": "rotation", "context_length": 6}),
    "CIFAR-10 by the section's own runs": (
        {"artefact": "table-2", "dataset": "cifar10-crop-blur", "method": "simclr", "metric": "top1", "target": None,
         "variant": "representation"},
        {"run": "crop-blur-simclr", "space": "representation", "metric": "top1", "target": None, "probe": None,
         "objects": "all"}),
}  # fmt: skip


def beside(everything, *cells):
    """What `published.beside` finds for rows with these cells."""
    row = dict.fromkeys(published.COLUMNS) | {"metric": "r2_rotation", "target": "relative", "dataset": "3diebench"}
    frame = pd.DataFrame([row | cell for cell in cells]).astype({"context_length": "Int64", "variant": "str"})
    return [found for _, found in published.beside(frame, everything, ARTEFACTS).iterrows()]


@pytest.fixture(scope="module")
def found_beside(everything):
    return dict(zip(BESIDE, beside(everything, *(cell for cell, _ in BESIDE.values()))))


@pytest.mark.parametrize("case", BESIDE)
def test_each_published_number_is_read_where_the_paper_reads_it(everything, found_beside, case):
    where = {"metric": "r2_rotation", "target": "relative", "probe": "paper", "objects": "parametric"} | BESIDE[case][1]
    ours, found = select(everything.rows, **where), found_beside[case]
    assert found["run"] == where["run"] and found["n"] == len(ours) == ours["seed"].nunique()
    assert found["mean"] == pytest.approx(ours["value"].mean()) and found["floor"] == 0.25
    assert found["std"] == pytest.approx(ours["value"].std(), nan_ok=True)


def test_a_published_change_is_embedding_minus_representation(everything):
    where = {"run": "simclr", "metric": "top1", "objects": "parametric"}
    rows = select(everything.rows, **where)
    after, before = (select(rows, space=space)["value"].mean() for space in ("embedding", "representation"))
    cell = {"artefact": "table-20", "method": "simclr", "variant": "change", "metric": "top1", "target": None}
    (found,) = beside(everything, cell)
    assert found["mean"] == pytest.approx(after - before) and np.isnan(found["floor"])


def test_nothing_stands_beside_what_we_do_not_have(everything):
    found = beside(
        everything,
        {"artefact": "figure-3", "method": "sie", "trained_group": "rotation"},  # trained here for other groups alone
        {"artefact": "table-6", "method": "contextssl", "environment": "color", "context_length": 126},
        {"artefact": "table-9", "method": "contextssl", "environment": "rotation", "variant": "mask_prob=0.50"},
        {"artefact": "figure-4", "method": "contextssl", "metric": "best_mask_prob"},  # the paper's prose
        {"artefact": "table-2", "method": "simclr-plus", "dataset": "cifar10-crop-blur"},  # a run of the main results
    )
    assert all(np.isnan(row["mean"]) and np.isnan(row["n"]) for row in found)


def test_the_first_run_of_a_kind_stands_for_it(everything):
    again = everything.runs.rename(index={"sen-rotation": "sen-again"}).loc[["sen-again"]]
    rows = select(everything.rows, run="sen-rotation").assign(run="sen-again", value=-1.0)
    twice = results.Results(pd.concat([everything.rows, rows]), pd.concat([everything.runs, again]))
    cell = {"artefact": "table-5", "method": "sen", "trained_group": "rotation", "target": "individual"}
    assert beside(twice, cell)[0].equals(beside(everything, cell)[0])
    assert "sen-again" not in twice.of("main").one_each().runs.index


def test_notes_on_published_numbers_say_where_they_stand():
    frame = pd.DataFrame({
        "artefact": "table-x", "method": ["simclr", "contextssl", "contextssl"],
        "environment": [None, "color", "color"], "context_length": pd.array([None, 2, 2], "Int64"),
        "note": ["odd", "odd; swapped", "obvious"],
    })  # fmt: skip
    assert published.remarks(frame, "table-x", skip=["obvious"]) == [
        "On the published numbers, SimCLR, ContextSSL (color) at length 2: odd.",
        "On the published numbers, ContextSSL (color) at length 2: swapped.",
    ]
    assert published.remarks(frame.assign(variant="p"), "table-x", ["odd", "swapped"], by=("variant",)) == [
        "On the published numbers, ContextSSL (p) at length 2: obvious."
    ]


# ---- figures and files


def grid():
    generator = np.random.default_rng(0)
    images, latents = generator.integers(0, 255, (5, 8, 8, 3), np.uint8), generator.normal(size=(5, 6))
    latents[:, :4] /= np.linalg.norm(latents[:, :4], axis=1, keepdims=True)
    rows = {name: [("rotation", [1, 2]), ("color", [3, 4])] for name in ("longest", "best possible")}
    return plotting.neighbor_grid(images, latents, rows, {"rotation": 30.0, "color": 0.1}, ["left", "right"])


def curves():
    fig, ax = plotting.plt.subplots()
    rows = select(hand(), method="b")
    plotting.curve(ax, rows, "ours", "C0")
    plotting.published_points(ax, select(PRINTED, method="b"), "published", "C0")
    plotting.floor_line(ax, 0.01)
    ax.legend()
    return fig


@pytest.mark.parametrize("draw", [grid, curves])
def test_figures_are_the_same_bytes_twice(draw, tmp_path):
    plotting.style()
    for name in "ab":
        fig = draw()
        plotting.show(fig, tmp_path / name)
        plotting.plt.close(fig)
    for suffix in ("png", "svg"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_a_curve_is_mean_and_deviation_with_published_points_at_its_own_lengths():
    fig = curves()
    ours, printed, _ = fig.axes[0].lines
    assert ours.get_ydata().tolist() == pytest.approx([0.2, 0.4]) and ours.get_xdata().tolist() == [0, 1]
    band = fig.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.2, 0.4 + 0.02**0.5))
    assert printed.get_ydata().tolist() == [0.25]  # not that of length 30
    fig.canvas.draw()
    assert [text.get_text() for text in fig.axes[0].get_xticklabels()] == ["0", "2"]
    plotting.plt.close(fig)


def test_a_table_is_written_as_it_is_shown(tmp_path):
    frame = pd.DataFrame({"method": ["a", "b"], "R²": ["0.200 ± 0.100", None], "share": [0.25, float("nan")]})
    results.show(frame, tmp_path / "new" / "table", "A title", ["A note."])
    text = (tmp_path / "new" / "table.md").read_text(encoding="utf-8")
    assert text.startswith("# A title\n\n| method") and text.endswith("\n\n- A note.\n")
    assert "| a        | 0.200 ± 0.100 |   0.250 |" in text
    again = pd.read_csv(tmp_path / "new" / "table.csv")
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)


def test_pose_and_hue_errors():
    quarter = np.array([0, 0, np.sin(np.pi / 4), np.cos(np.pi / 4)])
    assert plotting.pose_error(quarter, np.array([0, 0, 0, -1.0])) == pytest.approx(90)
    assert plotting.hue_error(np.array([0.95, 0.5]), np.array([0.05, 0.5])) == pytest.approx(0.05)
    latents = np.array([[0, 0, 0, 1, 0.95, 0.5], [*quarter, 0.05, 0.5]])
    errors = plotting.target_errors(np.stack([latents, latents[::-1]]))
    assert errors["rotation"] == pytest.approx(np.array([[90, 0]] * 2), abs=1e-4)
    assert errors["color"] == pytest.approx(np.array([[0.05, 0]] * 2))


def test_a_neighbor_is_marked_by_what_is_asked():
    """View 2 has the pose of the target and another color: right about rotation, wrong about color."""
    target = np.array([0, 0, 1, 0, 0.1, 0.2])
    latents = np.array([[0, 0, 0, 1, 0.1, 0.2], target, target + [0, 0, 0, 0, 0.3, 0.3]])
    rows = {group: [(group, [2])] for group in ("rotation", "color")}
    fig = plotting.neighbor_grid(np.zeros((3, 4, 4, 3), np.uint8), latents, rows, {"rotation": 30.0, "color": 0.1})
    shown = {text.get_text(): ax for ax in fig.axes for text in ax.texts}
    styles = {mark: ax.spines["left"].get_linestyle() for mark, ax in shown.items() if mark.startswith(("✓", "✗"))}
    assert set(styles) == {"✓ 0°", "✗ hue 0.30"}
    assert styles["✓ 0°"] == "-" != styles["✗ hue 0.30"]
    plotting.plt.close(fig)


# ---- the speed-run


def test_a_setting_meets_the_target_with_all_four_numbers_at_once():
    def line(name, seed, seconds, rotation, color_left, rotation_left, foreign, run="contextssl"):
        return {
            "name": name, "run": run, "seed": seed, "changes": None, "note": None, "steps": 1000, "seconds": seconds,
            "processor": "a",
            "paper.0.color": 0.9, "paper.0.rotation": rotation, "paper.rotation.126.color": 0.9 * color_left,
            "paper.color.126.rotation": rotation * rotation_left, "anchor=foreign,mask=0.10": foreign,
        }  # fmt: skip

    log = pd.DataFrame([
        line("good", 0, 100, 0.8, 0.05, 0.08, 0.02), line("good", 1, 300, 0.8, 0.05, 0.12, 0.02),
        line("good", 2, 500, 0.8, 0.05, 0.02, 0.02), line("one number short", 0, 50, 0.69, 0.01, 0.01, 0.016),
        line("not asked", 0, 50, 0.8, 0.01, 0.01, np.nan), line("other run", 0, 1, 0.8, 0.0, 0.0, 0.0, "simclr"),
    ])  # fmt: skip
    found = speedrun.settings(log, "contextssl").set_index("name")
    assert found["n"].to_dict() == {"good": 3, "one number short": 1, "not asked": 1}
    assert found["met"].to_dict() == {"good": 2, "one number short": 0, "not asked": 0}
    assert found.loc["good", "time to target"] == 300 and found["time to target"].isna().sum() == 2
    assert found.loc["good", "rotation left in the color context"] == pytest.approx(0.08)
