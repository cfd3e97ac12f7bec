"""Claims: on numbers small enough to check by hand, on the published ones, and on models that know nothing."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.report import claims, published, summary
from lib.report.results import TEXT, Results

ROOT = Path(__file__).parents[1]
CLAIMS = {claim["id"]: claim for claim in claims.load(ROOT / "paper" / "claims.yaml")}
GROUPS, LENGTHS = ("rotation", "color"), (0, 2, 14, 30, 126)


def number(*seeds, run="ours", floor=0.0):
    """Each seed a value, or a list over contexts."""
    values = np.array(seeds, float)
    return claims.Number(run, values if values.ndim == 2 else values[:, None], floor)


# ---- one claim


def curve(*values):
    return {f"x.c{n}": number(value) for n, value in zip((0, 2, 14), values)}


@pytest.mark.parametrize(
    "claim, numbers, estimate",
    [
        ({"left": "x.last", "relation": ">", "bound": 0.5}, curve(0.9, 0.8, 0.7), 0.7),
        ({"left": "x.last", "minus": "x.first", "relation": ">", "bound": 0}, curve(0.9, 0.8, 0.7), -0.2),
        ({"left": "x.last", "over": "x.first", "relation": "<=", "bound": 0.1}, curve(0.8, 0.9, 0.2), 0.25),
        # Two small steps back make one that is too large.
        ({"curve": "x", "direction": "rises", "relation": ">=", "bound": -0.03}, curve(0.5, 0.48, 0.46), -0.04),
        ({"curve": "x", "direction": "falls", "relation": ">=", "bound": -0.03}, curve(0.5, 0.2, 0.21), -0.01),
        # Down by .4 and up by .3.
        ({"curve": "x", "direction": "dips", "relation": ">", "bound": 0.02}, curve(0.9, 0.5, 0.8), 0.3),
        ({"curve": "x", "direction": "dips", "relation": ">", "bound": 0.02}, curve(0.9, 0.5, 0.4), -0.1),
        # The worst of all that a star stands for.
        ({"left": "x.*", "relation": ">=", "bound": 0}, curve(0.5, 0.2, 0.3), 0.2),
        ({"left": "x.*", "relation": "<=", "bound": 0}, curve(0.5, 0.2, 0.3), 0.5),
        # Nothing is compared with itself.
        ({"left": "x.c2", "minus": "x.*", "relation": ">=", "bound": 0}, curve(0.5, 0.7, 0.3), 0.2),
    ],
)
def test_an_estimate_by_hand(claim, numbers, estimate):
    found = claims.judge(claim, numbers)
    assert found.estimate == pytest.approx(estimate)
    assert found.word == ("holds" if claims.RELATIONS[claim["relation"]](estimate, claim["bound"]) else "does not")


ABOVE = {"left": "a", "relation": ">", "bound": 0.5}


@pytest.mark.parametrize(
    "seeds, word, reason",
    [
        (([0.6, 0.61], [0.64, 0.65], [0.62, 0.62]), "holds", "in 3 of 3 seeds"),
        (([0.6, 0.7], [0.1, 0.2]), "mixed", "in 1 of 2 seeds"),
        (([0.1, 0.11], [0.12, 0.13]), "does not", "in 0 of 2 seeds"),
        # Three seeds say yes, but so does a coin three times; and the other way around.
        (([0.52], [0.6], [0.7]), "mixed", "in 3 of 3 seeds, but the interval crosses the bound"),
        (([0.3], [0.4], [0.48]), "mixed", "in 0 of 3 seeds, but the interval crosses the bound"),
        # Of one seed, contexts.
        (([0.6, 0.61, 0.62],), "holds", "in the only seed"),
        (([0.51, 0.6, 0.7],), "mixed", "in the only seed, but the interval crosses the bound"),
        (([0.6],), "holds", "in the only seed"),
        (([0.5],), "does not", "not in the only seed"),
    ],
)
def test_a_verdict_counts_seeds_and_looks_at_the_interval(seeds, word, reason):
    found = claims.judge({**ABOVE, "left": "a.b"}, {"a.b": number(*seeds)})
    assert (found.word, found.reason) == (word, reason)
    assert (found.seeds, found.contexts) == np.shape(seeds)
    low, high = found.interval
    if np.shape(seeds) == (1, 1):
        assert low == high == seeds[0][0]
    elif 1 in np.shape(seeds):
        assert (low, high) == pytest.approx(stats.ttest_1samp(np.ravel(seeds), 0).confidence_interval(0.95))
    else:
        assert (high + low) / 2 == pytest.approx(np.mean(seeds))
        assert (high - low) / 2 == pytest.approx(reach_of_both(np.array(seeds)))
    assert found.phrase(stand_in=False) == word
    assert found.phrase(stand_in=True) == word + " (stand-in data)" * (word == "holds")


def reach_of_both(values):
    """Seeds and contexts, (seeds, contexts): Student's half intervals of both, added in squares."""
    low, high = stats.ttest_1samp(values.mean(1), 0).confidence_interval(0.95)
    first, last = stats.ttest_1samp(values.mean(0), 0).confidence_interval(0.95)
    return np.hypot(high - low, last - first) / 2


def test_more_seeds_do_not_make_contexts_certain():
    """One context in three is bad, for every seed: of twenty seeds the interval is as wide as of the contexts alone."""
    of_contexts = np.array([0.1, 0.1, 0.7])
    found = claims.judge({"left": "a.b", "relation": "<", "bound": 0.5}, {"a.b": number(*[of_contexts] * 20)})
    low, high = found.interval
    assert found.word == "mixed" and found.reason == "in 20 of 20 seeds, but the interval crosses the bound"
    assert (low, high) == pytest.approx(stats.ttest_1samp(of_contexts, 0).confidence_interval(0.95))


def test_contexts_are_the_same_for_all_runs_so_that_a_difference_has_none_of_what_they_have_in_common():
    ours = {"a.x": number([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]), "b.x": number([0.0, 0.4, 0.8], run="theirs")}
    found = claims.judge({"left": "a.x", "minus": "b.x", "relation": ">", "bound": 0}, ours)
    assert found.word == "holds" and found.interval == pytest.approx((0.1, 0.1))


def test_one_run_is_paired_with_itself_and_compared_with_the_mean_of_another():
    ours = {"a.x": number([0.1, 0.9], [0.3, 0.9]), "a.y": number([0.2, 1.0], [0.4, 1.0])}
    claim = {"left": "a.y", "minus": "a.x", "relation": ">", "bound": 0.05}
    found = claims.judge(claim, ours)
    assert found.word == "holds" and found.interval == pytest.approx((0.1, 0.1))
    theirs = {"a.x": number(0.3, 0.9, run="theirs"), "a.y": number(0.5, 0.7, 0.9)}
    found = claims.judge(claim, theirs)
    assert found.word == "mixed" and found.reason.startswith("in 2 of 3 seeds, against 2 of the other")
    assert found.seeds == 2


def test_an_interval_of_a_ratio_is_that_of_its_seeds_where_these_are_close():
    ours = {"a.c0": number(0.8, 0.82, 0.79), "a.c2": number(0.2, 0.21, 0.205)}
    found = claims.judge({"left": "a.c2", "over": "a.c0", "relation": "<", "bound": 0.3}, ours)
    of_seeds = stats.ttest_1samp(np.array([0.2, 0.21, 0.205]) / [0.8, 0.82, 0.79], 0).confidence_interval(0.95)
    assert found.interval == pytest.approx(tuple(of_seeds), abs=1e-3)


def test_an_interval_has_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    above, covers = {"left": "a.y", "minus": "b.y", "relation": ">", "bound": 0}, 0
    for a, b in generator.normal(size=(400, 2, 3)):
        low, high = claims.judge(above, {"a.y": number(*a), "b.y": number(*b, run="theirs")}).interval
        covers += low <= 0 <= high
    assert 0.92 < covers / 400 < 0.99


@pytest.mark.parametrize("of_seeds, of_contexts", [(1, 0), (0, 1), (1, 1), (0.3, 1)])
def test_an_interval_over_seeds_and_contexts_has_the_truth_as_often_as_it_says(of_seeds, of_contexts):
    generator, covers = np.random.default_rng(0), 0
    for _ in range(400):
        seed, context = of_seeds * generator.normal(size=(3, 1)), of_contexts * generator.normal(size=5)
        values = seed + context + 0.3 * generator.normal(size=(3, 5))
        low, high = claims.judge({"left": "a.y", "relation": ">", "bound": 0}, {"a.y": number(*values)}).interval
        covers += low <= 0 <= high
    assert covers / 400 > 0.92


def test_what_was_not_repeated_is_not_testable_of_runs():
    claim = {"left": "a.b", "relation": ">", "bound": 0.5}
    runs = pd.DataFrame()
    found = claims.judge(claim, {"a.b": number(0.9)}, runs)
    assert found.word == "not testable" and found.estimate == 0.9 and np.isnan(found.interval).all()
    assert claims.judge(claim, {"a.b": number([0.9, 0.91])}, runs).word == "holds"
    assert claims.judge(claim, {"a.b": number(0.9, 0.91)}, runs).word == "holds"


def test_why_a_claim_is_not_testable():
    numbers = {"a.c0": number(0.08, 0.1), "a.c2": number(0.0, 0.0), "b.c0": number(0.3, 0.3, floor=0.25)}
    ratio = {"left": "a.c2", "over": "a.c0", "relation": "<=", "bound": 0.1}
    assert claims.judge(ratio, numbers).reason == "not learned: a.c0 is 0.090, its floor 0.000"
    assert claims.judge(ratio | {"over": "b.c0"}, numbers).reason == "not learned: b.c0 is 0.300, its floor 0.250"
    assert claims.judge(ratio | {"left": "c.*"}, numbers).reason == "no number c.*"
    dips = {"curve": "a", "direction": "dips", "relation": ">", "bound": 0}
    assert claims.judge(dips, numbers).reason == "no length between a.c0 and a.c2"
    numbers = {"a.x": number(0.9, 0.9), "b.x": number(0.3, run="theirs")}
    runs = pd.DataFrame({"steps": [3000, 900], "images": [100, 100], "seeds": [[0, 1], [0]]}, index=["ours", "theirs"])
    above = {"left": "a.x", "minus": "b.x", "relation": ">", "bound": 0}
    assert claims.judge(above, numbers, runs).word == "holds"
    found = claims.judge(above | {"matched": True}, numbers, runs)
    assert (found.word, found.reason) == ("not testable", "budgets differ: updates 900 to 3000, seeds 1 to 2")
    alike = runs.assign(steps=900, seeds=[[0, 1], [2, 3]])
    of_two = numbers | {"b.x": number(0.3, 0.3, run="theirs")}
    assert claims.judge(above | {"matched": True}, of_two, alike).word == "holds"


def test_one_entry_may_be_several_claims(tmp_path):
    (tmp_path / "claims.yaml").write_text(
        "claims: [{id: 'a {own}', left: ['x.{own}'], bound: 0, each: [{own: b}, {own: c}]}]"
    )
    assert claims.load(tmp_path / "claims.yaml") == [
        {"id": "a b", "left": ["x.b"], "bound": 0}, {"id": "a c", "left": ["x.c"], "bound": 0},
    ]  # fmt: skip
    (tmp_path / "claims.yaml").write_text(
        "claims: [{id: '{x}{y}', each: {x: [a, b], y: [c, d]}}, {id: e, notebook: 41_diagnosis}]"
    )
    assert [claim["id"] for claim in claims.load(tmp_path / "claims.yaml")] == ["ac", "ad", "bc", "bd"]
    assert [claim["id"] for claim in claims.load(tmp_path / "claims.yaml", "41_diagnosis")] == ["e"]


def test_a_claim_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="claim 'x' needs `relation`, and `left` or `curve`"):
        claims.judge({"id": "x", "relation": ">", "bound": 0}, {})
    (tmp_path / "claims.yaml").write_text("claims: [{id: x}, {id: x}]")
    with pytest.raises(ValueError, match="has the claim 'x' twice"):
        claims.load(tmp_path / "claims.yaml")


# ---- every claim


def every_name():
    """All names that claims are about; `name -> run`."""
    latents = [f"{env}.r2_{group}.c{n}" for env, group, n in product(GROUPS, GROUPS, LENGTHS)]
    one = [f"{env}.r2_rotation.c{n}" for env, n in product(("rotation", "none"), LENGTHS)]
    main = [f"{target}{probe}{real}.{of}" for target, probe, real, of in product(
        ("relative", "individual"), summary.PROBE_SUFFIX.values(), ("", summary.REAL_MESHES), latents)]  # fmt: skip
    main += [f"retrieval.{library}.{metric}.{env}.c{n}" for library, metric, env, n in product(
        ("test", "train"), summary.RETRIEVAL, GROUPS, LENGTHS)]  # fmt: skip
    main += [f"neighbors.{env}.neighbor_{metric}_3.c{n}" for env, metric, n in product(
        GROUPS, ("right", "error"), LENGTHS)]  # fmt: skip
    shortcut = [f"shortcut.{mask}.{anchor}" for mask, anchor in product(("m010", "m090"), ("pair", "foreign"))]
    drops = ("r2_rotation", "top1")
    main += [f"drop.{metric}.contextssl.{env}" for metric, env in product(drops, GROUPS)]
    found = dict.fromkeys([*main, *shortcut, "invariant.contextssl.top1"], "main")
    for method in ("simclr", "vicreg", "simclr-plus", "simclr-plus-c0"):
        found |= {f"invariant.{method}.{metric}": method for metric in ("r2_rotation", "r2_color", "top1")}
        found |= {f"drop.{metric}.{method}": method for metric in drops}
    for group, method in product(GROUPS, ("equimod", "sen", "sie")):
        metrics = ("r2_rotation", "r2_color", "top1", "test_mrr", "train_mrr", "neighbor_right_3")
        found |= {f"trained.{group}.{method}.{metric}": f"{method}-{group}" for metric in metrics}
        found |= {f"drop.{metric}.{method}": f"{method}-rotation" for metric in drops}
    for p in ("p000", "p050", "p090", "p098"):
        found |= dict.fromkeys([f"masking.{p}.{of}" for of in (*latents, *shortcut, "top1")], p)
    for which in ("with", "without"):
        found |= dict.fromkeys([f"auxiliary.{which}.{of}" for of in (*latents, "top1")], which)
    labels = [f"labels.contextssl.{rule}.c{n}" for rule, n in product(GROUPS, LENGTHS)]
    for target in ("relative", "individual"):
        labels += [f"labels_{target}.{of}" for of in latents]
        found |= {f"single_{target}.{of}": "single" for of in one}
    for pair in ("crop-blur", "color-blur", "crop-color"):
        both = pair.split("-")
        for target, env, group, n in product(("relative", "individual"), both, both, LENGTHS):
            found[f"augmentations.{pair}.{target}.{env}.r2_{group}.c{n}"] = pair
        for method, metric in product(("simclr", "simclr-plus", "contextssl"), (*map("r2_{}".format, both), "top1")):
            found[f"augmentations.{pair}.{method}.{metric}"] = pair if method == "contextssl" else f"{pair} {method}"
    return found | dict.fromkeys(labels, "labels")


def model(value):
    """Every number, from its floor."""
    floors = {name: 0.0 if "r2_" in name or "drop" in name else 0.016 if "shortcut" in name else 0.2
              for name in every_name()}  # fmt: skip
    return {name: number(value(floors[name]), run=run, floor=floors[name]) for name, run in every_name().items()}


CONSTANT = model(lambda floor: floor)


@pytest.fixture(scope="module")
def learned():
    """Models that know something, of no pattern."""
    generator = np.random.default_rng(0)
    return [model(lambda _: generator.uniform(0.35, 1)) for _ in range(20)]


@pytest.mark.parametrize("name", CLAIMS)
def test_a_constant_model_fails_every_claim_and_others_do_on_more_than_learning(name, learned):
    found = claims.judge(CLAIMS[name], CONSTANT)
    assert found.word != "holds" and not found.reason.startswith("no number")
    assert any(claims.judge(CLAIMS[name], numbers).word in ("does not", "mixed") for numbers in learned)


def test_a_claim_that_cannot_fail_would_be_noticed():
    empty = {"left": "relative.rotation.r2_rotation.last", "relation": ">=", "bound": -9}
    assert claims.judge(empty, CONSTANT).word == "holds"


@pytest.fixture(scope="module")
def printed():
    artefacts = pd.read_csv(ROOT / "paper" / "artefacts.csv")
    theirs = summary.published(published.load(ROOT / "paper" / "published.csv"), artefacts)
    return claims.by_name(summary.numbers(theirs))


def test_the_published_numbers_show_what_they_show(printed):
    found = {name: claims.judge(claim, printed) for name, claim in CLAIMS.items()}
    assert {name for name, v in found.items() if v.seeds and v.word != "holds"} == {
        "rotation-context-color-below-baselines", "color-context-rotation-below-baselines",  # SIE has less
        "mask-90-best-rotation-in-color-context", "labels-rotation-falls-individual",
        "paper-probe-a-tenth-of-rotation", "paper-probe-a-tenth-of-rotation-individual",
    }  # fmt: skip
    unprinted = {name for name, v in found.items() if not v.seeds and CLAIMS[name]["whose"] == "paper"}
    assert unprinted == {
        "three-neighbors-right", "three-neighbors-above-baselines", "neighbors-closer-with-context-rotation",
        "neighbors-closer-with-context-color",
        "masking-rises-then-falls-classes", "masking-closes-the-shortcut",
    }  # fmt: skip
    assert found["rotation-context-removes-color"].estimate == pytest.approx(0.046 / 0.908)
    # Above what a constant scores in the pooled R².
    assert found["color-context-removes-rotation"].estimate == pytest.approx((0.344 - 0.229) / (0.735 - 0.229))
    assert found["top1-drop-below-simclr"].estimate == pytest.approx(0.804 - 0.765 - (0.853 - 0.527))


@pytest.mark.parametrize(
    "notebook", ["31_adult", "32_mimic", "41_diagnosis", "42_essl_methods", "43_photonics", "44_bridge"]
)
def test_a_constant_model_fails_every_claim_of_a_notebook_and_a_good_one_does_not(notebook):
    asked = claims.load(ROOT / "paper" / "claims.yaml", notebook)
    sides = ("left", "minus", "learned")
    asked = [claim | {side: at_ends(claim[side]) for side in sides if side in claim} for claim in asked]
    names = {claim[side] for claim in asked for side in sides if side in claim}
    for claim in asked:
        assert claim["whose"] in ("paper", "essl", "ours") and (claim["whose"] == "ours" or claim["paper"])
        assert claims.judge(claim, {name: number(0.2, 0.2, floor=0.2) for name in names}).word != "holds"
        up = 0.1 if claim["relation"] in (">", ">=") else -0.1
        values = {name: number(0.5 + up * (name == claim["left"]), floor=0.1) for name in names}
        assert claims.judge(claim, values).word == "holds"


def at_ends(name):
    return name.replace(".first", ".c0").replace(".last", ".c126")


def test_every_claim_says_whose_it_is_and_the_paper_s_where_it_stands():
    assert all(claim["whose"] in ("paper", "ours") for claim in CLAIMS.values())
    assert all("paper" in claim for claim in CLAIMS.values() if claim["whose"] == "paper")
    asked = [str({k: v for k, v in c.items() if k not in ("id", "text", "paper", "whose")}) for c in CLAIMS.values()]
    assert len(set(asked)) == len(asked)  # none twice


# ---- the numbers


def evaluation():
    """Two seeds of ContextSSL, read under two contexts, and one seed of a baseline and of a mask ablation."""
    r2 = {"metric": "r2_color_per_component", "target": "relative", "probe": "paper", "objects": "parametric"}
    context = {"space": "embedding", "environment": "rotation", "context_length": 126}
    rows = [
        {"run": "contextssl", "seed": s, "context_seed": c, "value": 0.1 * s + 0.01 * c} | context | r2
        for s, c in product((0, 1), (0, 1))
    ]
    two = {"run": "contextssl", "seed": 0, "space": "embedding"}
    rows += [
        two | context | r2 | {"target": "individual", "probe": "strong", "objects": "real", "value": 0.3},
        two | context | {"context_seed": 1, "value": 0.4, "variant": "library=train", "objects": "all",
                         "metric": "hit_at_1_without_identity"},
        two | {"value": 0.05, "variant": "anchor=foreign,mask=0.90", "objects": "all", "metric": "partner_accuracy"},
        two | {"space": "representation", "metric": "top1", "objects": "parametric", "value": 80},
        two | context | {"metric": "top1", "objects": "parametric", "value": 70, "context_seed": 0},
        two | context | {"metric": "neighbor_right_3", "objects": "all", "value": 0.6, "context_seed": 0},
        {"run": "sen", "seed": 0, "space": "representation", "value": 0.5} | r2,
        {"run": "mask", "seed": 0, "value": 0.7} | context | r2,
        {"run": "mask", "seed": 0, "space": "embedding", "value": 0.8, "variant": "anchor=pair,mask=0.10",
         "objects": "all", "metric": "partner_accuracy"},
        {"run": "crop-blur", "seed": 0, "value": 0.6} | context | r2
        | {"environment": "crop", "metric": "r2_blur_per_component", "objects": "all"},
        {"run": "crop-blur", "seed": 0, "space": "representation", "metric": "top1", "objects": "all", "value": 40},
    ]  # fmt: skip
    columns = ["run", "seed", "context_seed", "space", "environment", "context_length", "target", "probe", "objects",
               "variant", "metric", "value"]  # fmt: skip
    rows = pd.DataFrame(rows, columns=columns).astype({"context_seed": "Int64", "context_length": "Int64"})
    rows = rows.astype(dict.fromkeys([name for name in TEXT if name in rows], "str"))
    runs = pd.DataFrame({
        "method": ["contextssl", "sen", "contextssl", "contextssl"], "trained_group": [None, "rotation", None, None],
        "dataset": ["3diebench-mini"] * 3 + ["crop-blur"],
        "sections": [("main",), ("main",), ("masking",), ("augmentations",)],
        "mask_probability": [0.9, 0.0, 0.75, 0.9], "auxiliary_weight": 1.0,
    }, index=pd.Index(["contextssl", "sen", "mask", "crop-blur"], name="run"))  # fmt: skip
    rows = rows.join(runs[["method", "trained_group", "dataset"]], on="run").assign(floor=0.2)
    return Results(rows, runs)


def test_numbers_have_the_names_that_the_claims_use():
    found = summary.numbers(evaluation())
    expected = {
        "relative.rotation.r2_color.c126": [0, 0.01, 0.1, 0.11],
        "individual_strong_probe_real_meshes.rotation.r2_color.c126": [0.3],
        "retrieval.train.hit_at_1.rotation.c126": [0.4],
        "shortcut.m090.foreign": [0.05],
        "invariant.contextssl.top1": [0.8],
        "drop.top1.contextssl.rotation": [0.1],
        "neighbors.rotation.neighbor_right_3.c126": [0.6],
        "trained.rotation.sen.r2_color": [0.5],
        "masking.p075.rotation.r2_color.c126": [0.7],
        "masking.p075.shortcut.m010.pair": [0.8],
        "augmentations.crop-blur.relative.crop.r2_blur.c126": [0.6],
        "augmentations.crop-blur.contextssl.top1": [0.4],
    }
    values = found.groupby("number")["value"].apply(list).to_dict()
    assert values == {name: pytest.approx(value) for name, value in expected.items()}
    assert summary.metrics(found)["relative"]["rotation"]["r2_color"]["c126"] == pytest.approx([0.005, 0.105])
    assert claims.by_name(found)["relative.rotation.r2_color.c126"].values.shape == (2, 2)


def test_a_section_decides_its_own_claims(monkeypatch):
    monkeypatch.chdir(ROOT)
    judged = summary.verdicts(evaluation(), "augmentations-", stand_in=True).set_index("id")
    assert all(name.startswith("augmentations-") for name in judged.index) and len(judged) > 40
    line = judged.loc["augmentations-crop-blur-relative-crop-context-lowers-blur"]
    alone = "nothing to compare augmentations.crop-blur.relative.crop.r2_blur.c126 with"
    assert (line["verdict"], line["because"]) == ("not testable", alone)
    assert line["the paper shows it"] == "yes" and line["published"] == "-0.226"


def test_a_changed_run_in_the_place_of_the_headline():
    found = summary.numbers(summary.as_headline(evaluation(), "mask"))
    assert found.groupby("number")["value"].apply(list).to_dict() == {
        "relative.rotation.r2_color.c126": [0.7], "shortcut.m010.pair": [0.8],
    }  # fmt: skip


def test_a_constant_model_has_the_same_names_and_its_floors():
    ours, blind = (summary.numbers(of) for of in (evaluation(), summary.constant(evaluation())))
    assert set(ours["number"]) == set(blind["number"]) and not blind["number"].duplicated().any()
    assert blind.set_index("number").loc["trained.rotation.sen.r2_color", "value"] == 0.2
    assert blind.set_index("number").loc["drop.top1.contextssl.rotation", "value"] == 0


def test_a_table_of_claims_says_n_and_what_each_model_says():
    asked = [{"id": "a", "whose": "paper", "text": "t"} | {"left": "a.x", "relation": ">", "bound": 0.5}]
    named = {"ours": {"a.x": number([0.69, 0.7], [0.7, 0.71])}, "published": {}, "constant": {"a.x": number(0.0)}}
    (line,) = claims.table(asked, **named, runs=pd.DataFrame(), stand_in=True).to_dict("records")
    assert line["verdict"] == "holds (stand-in data)" and (line["n seeds"], line["n contexts"]) == (2, 2)
    assert line["the paper shows it"] == "not printed" and line["constant model"] == "does not"
    assert claims.counted(pd.DataFrame([line])).loc["paper"].to_dict() == {"holds (stand-in data)": 1}


def test_matched_runs_are_compared_over_as_many_seeds():
    claim = {"left": "ours.c0", "minus": "theirs.c0", "relation": ">", "bound": 0, "learned": [], "matched": True}
    numbers = {
        "ours.c0": claims.Number("ours", np.array([[0.5], [0.6], [0.7], [9.0]]), 0.0),
        "theirs.c0": claims.Number("theirs", np.array([[0.1], [0.2], [0.3]]), 0.0),
    }
    runs = pd.DataFrame({"steps": 10, "images": 20, "seeds": pd.Series({"ours": (0, 1, 2, 3), "theirs": (0, 1, 2)})})
    found = claims.judge(claim, numbers, runs)
    assert (found.word, found.seeds, round(found.estimate, 9)) == ("holds", 3, 0.4)
    runs.at["theirs", "seeds"] = (0,)
    assert claims.judge(claim, numbers, runs).reason == "budgets differ: seeds 1 to 4"
