"""Metrics, probes, retrieval, claims: known answers first, then one tiny evaluation end to end."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from lib.evaluation import evaluate, metrics, probes, retrieval
from lib.report import plotting, published, summary
from lib.pipeline import settings as schema
from lib.method.baselines import SEN, SimCLR
from lib.data.views import GROUPS, Views, action, quaternion
from lib.method.masking import pair_causal_mask
from lib.method.models import ContextSSL
from lib.evaluation.probes import Split

ROOT = Path(__file__).parents[1]
SETTINGS = dataclasses.replace(
    schema.load(ROOT / "profiles" / "laptop.yaml").evaluate,
    context_lengths=(0, 2, 6), train_images=60, validation_images=24, test_images=40, retrieval_objects=5,
    probe_widths=(16,), probe_epochs=2, probe_linear_epochs=2,
)  # fmt: skip
ONE_PROBE = dataclasses.replace(SETTINGS, probes=("paper",), ridge_penalties=(1.0,))


# ---- R2 and its floors


def test_r2_of_a_hand_made_example():
    target = torch.tensor([[0.0, 10.0], [2.0, 12.0]])
    score = metrics.r2(torch.tensor([[1.0, 11.0], [1.0, 11.0]]), target)
    # The mean of each column: nothing is explained; around the one mean 6 the squares sum to 104, the error is 4.
    assert score["per_component"].tolist() == [0, 0] and score["mean"] == 0
    assert score["pooled"] == pytest.approx(1 - 4 / 104)
    assert metrics.r2(target, target)["pooled"] == 1


def test_published_convention_scores_a_constant_above_zero():
    generator = torch.Generator().manual_seed(0)
    pose = quaternion((torch.rand(2, 100_000, 3, generator=generator) - 0.5) * torch.pi)
    color = torch.rand(2, 100_000, 2, generator=generator)
    first, second = torch.cat([pose, color], -1)
    individual = metrics.floor(first[:, :4], second[:, :4])
    relative = metrics.floor(action(second, first)[:, :4], action(first, second)[:, :4])
    assert individual["pooled"] == pytest.approx(0.461, abs=0.01)
    assert relative["pooled"] == pytest.approx(0.229, abs=0.01)
    for floor in (individual, relative, metrics.floor(first[:, 4:], second[:, 4:])):
        assert np.abs(floor["per_component"]).max() < 0.001
    assert metrics.floor(first[:, 4:], second[:, 4:])["pooled"] == pytest.approx(0, abs=0.001)


def test_r2_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3, 1\)"):
        metrics.r2(torch.zeros(3, 2), torch.zeros(3, 1))


# ---- probes


@pytest.fixture(scope="module")
def relation():
    """Three tables of 1,400 embeddings: latents linearly, in their squares' signs alone, and noise."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1400, 6, generator=generator)
    hidden = torch.sign(latents) * latents.abs().sqrt()
    noise = torch.randn(1400, 6, generator=generator)
    anchor = torch.full((1400, 1), 2.0)
    tables = torch.stack([F.normalize(torch.cat([x, anchor], 1), dim=1) for x in (latents, hidden, noise)])
    rows = torch.arange(1400)[:, None].split([1000, 200, 200])
    return tables, [Split(r, latents[r[:, 0]]) for r in rows], latents


def test_probes_read_what_is_there_and_nothing_from_noise(relation):
    tables, splits, _ = relation
    settings = dataclasses.replace(
        SETTINGS, probe_widths=(64,), probe_epochs=60, probe_linear_epochs=200, probe_batch=100,
        probe_learning_rate=1e-2,
    )
    predictions = probes.predict_latents(tables, *splits, GROUPS, settings, 0)
    assert tuple(predictions) == settings.probes == ("paper", "linear", "ridge", "strong")
    for probe, prediction in predictions.items():
        linear, _, noise = (metrics.r2(p, splits[-1].target)["per_component"] for p in prediction)
        assert linear.min() > 0.75, probe
        assert noise.max() < 0.05 and noise.mean() > -0.1, probe


def test_ridge_hears_a_whisper_that_the_gradient_probe_does_not():
    """The same latents a hundred times quieter: all there for the closed form, silent for a few gradient steps."""
    generator = torch.Generator().manual_seed(0)
    latents, loud = torch.randn(1400, 6, generator=generator), torch.randn(1400, 6, generator=generator)
    tables = F.normalize(torch.cat([loud, latents / 100], 1), dim=1)[None]
    splits = [Split(r, latents[r[:, 0]]) for r in torch.arange(1400)[:, None].split([1000, 200, 200])]
    settings = dataclasses.replace(SETTINGS, probe_linear_epochs=5, ridge_penalties=(1e-6, 1.0))
    found = probes.predict_latents(tables, *splits, GROUPS, settings, 0)
    r2 = {probe: metrics.r2(p[0], splits[-1].target)["mean"] for probe, p in found.items()}
    assert r2["ridge"] > 0.6 and r2["linear"] < 0.1


def test_mlp_reads_what_a_linear_probe_cannot():
    x = torch.rand(1500, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    target = (x[:, :1] * x[:, 1:]).expand(-1, 6)
    splits = [Split(r, target[r[:, 0]]) for r in torch.arange(1500)[:, None].split([1000, 250, 250])]
    settings = dataclasses.replace(
        SETTINGS, probe_widths=(64,), probe_epochs=60, probe_batch=50, probe_learning_rate=1e-2
    )
    found = probes.predict_latents(x[None], *splits, GROUPS, settings, 0)
    strong, weak = (metrics.r2(found[p][0], splits[-1].target)["mean"] for p in ("strong", "linear"))
    assert strong > 0.8 and weak < 0.1


def test_batched_heads_equal_heads_one_by_one(relation):
    tables, splits, _ = relation
    fit = dict(widths=(8,), outputs=6, selections=[slice(0, 4), slice(4, 6)], epochs=3, settings=SETTINGS, seed=1)
    together = probes.fit_heads(tables, *splits[:2], **fit)
    for g in range(len(tables)):
        alone = probes.fit_heads(tables[g : g + 1], *splits[:2], **fit)
        for a, b in zip(together, alone):
            for (w, bias), (w1, bias1) in zip(a, b):
                torch.testing.assert_close(w[g : g + 1], w1, rtol=1e-3, atol=1e-5)
                torch.testing.assert_close(bias[g : g + 1], bias1, rtol=1e-3, atol=1e-5)


def test_a_pair_is_read_as_both_embeddings_side_by_side():
    tables = torch.arange(12.0).view(1, 4, 3)
    split = Split(torch.tensor([[3, 0]]), torch.zeros(1, 6))
    assert split.inputs(tables).tolist() == [[[9, 10, 11, 0, 1, 2]]]


def test_ridge_is_least_squares_when_the_penalty_vanishes(relation):
    tables, splits, _ = relation
    prediction = probes.ridge(tables[:1], *splits, (1e-9,), [slice(0, 6)])[0]
    x = torch.cat([splits[0].inputs(tables)[0], torch.ones(1000, 1)], 1).double()
    weights = torch.linalg.lstsq(x, splits[0].target.double()).solution
    expected = torch.cat([splits[2].inputs(tables)[0], torch.ones(200, 1)], 1).double() @ weights
    torch.testing.assert_close(prediction.double(), expected, rtol=1e-3, atol=1e-3)


# ---- retrieval


def test_a_perfect_predictor_finds_every_view_and_a_collapsed_one_none():
    library = F.normalize(torch.randn(7, 16, 32, generator=torch.Generator().manual_seed(0)), dim=-1)
    views = torch.arange(16)
    perfect = retrieval.report(retrieval.ranks(library, library, views))
    assert perfect["mrr"] == perfect["hit_at_1"] == perfect["as_released"]["hit_at_5"] == 1
    collapsed = torch.ones_like(library)
    assert (retrieval.ranks(collapsed, collapsed, views) == 16).all()


def test_random_embeddings_score_chance():
    generator = torch.Generator().manual_seed(0)
    queries, library = (F.normalize(torch.randn(800, 16, 8, generator=generator), dim=-1) for _ in range(2))
    score, chance = retrieval.report(retrieval.ranks(queries, library, torch.arange(16))), retrieval.chance(16)
    assert chance["mrr"] == pytest.approx(sum(1 / n for n in range(1, 17)) / 16)
    assert retrieval.chance(50)["mrr"] == pytest.approx(0.090, abs=0.0005)
    for key in chance:
        assert score[key] == pytest.approx(chance[key], abs=0.02)


def test_identity_query_is_reported_apart():
    rank = torch.tensor([[1, 4, 4, 8]])
    report = retrieval.report(rank)
    assert report["identity"]["mrr"] == 1
    assert report["mrr"] == pytest.approx((1 / 4 + 1 / 4 + 1 / 8) / 3)
    assert report["as_released"]["mrr"] == pytest.approx((1 + 1 / 4 + 1 / 4 + 1 / 8) / 4)


# ---- published numbers


def test_published_numbers_are_possible():
    frame = published.load(ROOT / "paper" / "published.csv")
    assert published.value(
        frame, artefact="table-6", environment="color", context_length=126, metric="r2_rotation"
    ) == pytest.approx(0.344)
    keys = ["artefact", "method", "trained_group", "environment", "variant", "context_length"]
    wide = frame[frame["metric"].isin(["mrr", "hit_at_1", "hit_at_5"])].pivot_table(
        index=keys, columns="metric", values="value", dropna=False
    ).dropna()
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


def test_every_artefact_of_the_paper_is_mapped():
    artefacts = pd.read_csv(ROOT / "paper" / "artefacts.csv").set_index("artefact")
    expected = {f"table-{n}" for n in range(1, 23)} | {f"figure-{n}" for n in (1, *range(3, 12))}
    assert set(artefacts.index) == expected
    assert (artefacts.loc[artefacts["status"] == "made", "notebook"].map(lambda p: (ROOT / p).exists())).all()


# ---- claims


def adaptation(other_left: float, kept: float = 0.9) -> dict:
    """Two seeds: in each context the other group falls from .9 to a share of it, its own goes to ``kept``."""
    own, other = {"c0": [0.9, 0.9], "c126": [kept, kept]}, {"c0": [0.9, 0.9], "c126": [0.9 * other_left] * 2}
    return {"rotation": {"r2_rotation": own, "r2_color": other}, "color": {"r2_rotation": other, "r2_color": own}}


def handmade(other_left: float, kept: float = 0.9, top1: float = 0.9, last_mrr: float = 0.5) -> dict:
    """Numbers under which every claim holds, but for what the arguments spoil."""
    result = {
        f"adaptation{prefix}{suffix}": adaptation(other_left, kept)
        for prefix in ("", summary.REAL_MESHES)
        for suffix in summary.PROBE_SUFFIX.values()
    }
    one = lambda rotation, color: {"r2_rotation": [rotation], "r2_color": [color]}  # noqa: E731
    trained = {
        "rotation": {m: one(0.5, 0.2) | {"mrr": [0.3]} for m in ("equimod", "sen", "sie")},
        "color": {m: one(0.2, 0.7) | {"mrr": [0.3]} for m in ("equimod", "sen", "sie")},
    }

    def ablation(own: float, other: float) -> dict:
        flat = lambda v: {"c0": [v], "c126": [v]}  # noqa: E731
        rotation = {"r2_rotation": flat(own), "r2_color": flat(other)}
        color = {"r2_rotation": flat(other), "r2_color": flat(own)}
        return {"contexts": {"rotation": rotation, "color": color}, "top1": [0.8]}

    masking = {
        p: ablation(own, other) | {"accuracy": {"foreign": [foreign]}}
        for p, own, other, foreign in (("p000", 0.4, 0.4, 0.8), ("p090", 0.8, 0.1, 0.2), ("p098", 0.7, 0.3, 0.1))
    }
    drop = {"contextual": {"contextssl": [0.01, 0.02]}, "baselines": {"simclr": [0.3], "sie": [0.1]}}
    return result | {
        "relative": adaptation(other_left, kept),
        "mrr": {"rotation": {"c0": [0.3, 0.3], "c126": [last_mrr, last_mrr]}},
        "top1": {"contextssl": [top1] * 2, "simclr": [0.92, 0.9, 0.94], "simclr-plus": [0.5], "simclr-plus-c0": [0.8]},
        "invariant": {"simclr": one(0.3, 0.1)},
        "trained": trained,
        "drop": {"r2_rotation": drop, "top1": drop},
        "masking": masking,
        "auxiliary": {"with": ablation(0.8, 0.1), "without": ablation(0.01, 0.02)},
        "labels": {"contextssl": {rule: {"c0": [0.4], "c126": [0.9]} for rule in ("rotation", "color")}},
        "single": {
            "rotation": {"r2_rotation": {"c0": [0.8], "c126": [0.8]}},
            "none": {"r2_rotation": {"c0": [0.8], "c126": [0.2]}},
        },
    }


CLAIMS = {c["id"]: c for c in published.claims(ROOT / "paper" / "claims.yaml")}


def failing(numbers: dict) -> set[str]:
    return {i for i, c in CLAIMS.items() if not all(published.holds(c, numbers))}


def test_claims_hold_where_they_should_and_only_there():
    assert failing(handmade(0.05)) == set()
    assert failing(handmade(0.15)) == {
        "rotation-context-removes-color", "linear-probe-rotation-context-removes-color",
    }  # fmt: skip
    assert "strong-probe-rotation-context-halves-color" in failing(handmade(0.6))
    assert failing(handmade(0.05, top1=0.8)) == {"classification-near-simclr"}
    assert failing(handmade(0.05, last_mrr=0.2)) == {"retrieval-rises", "retrieval-above-baselines"}
    lost = failing(handmade(0.05, kept=0.8))
    assert {"rotation-context-keeps-rotation", "color-context-keeps-color", "rotation-context-rotation-curve"} <= lost
    assert {"real-meshes-rotation-context-lowers-color"} <= failing(handmade(1.01))


@pytest.mark.parametrize(
    "path, value, spoiled",
    [
        ("trained.rotation.sie.r2_rotation", [0.2], {"baselines-beat-simclr-rotation"}),
        ("trained.color.sen.r2_color", [0.95], {"color-context-above-baselines"}),
        ("trained.color.sen.r2_rotation", [0.95], {"baselines-lose-rotation"}),
        ("trained.rotation.equimod.r2_color", [0.01], {"rotation-context-color-below-baselines"}),
        ("trained.rotation.sie.mrr", [0.6], {"retrieval-above-baselines"}),
        ("top1.simclr-plus", [0.78], {"context-without-actions-costs-classes"}),
        ("drop.r2_rotation.baselines.sie", [0.0], {"rotation-drop-below-baselines"}),
        ("masking.p098.accuracy.foreign", [0.8], {"masking-closes-the-shortcut"}),
        ("masking.p098.contexts.rotation.r2_rotation.c126", [0.9], {"mask-90-best-rotation-in-rotation-context"}),
        ("masking.p000.contexts.rotation.r2_rotation.c126", [0.8], {"no-mask-keeps-less-rotation"}),
        ("auxiliary.without.contexts.color.r2_rotation.c0", [0.1], {"without-auxiliary-rotation-at-floor"}),
        ("auxiliary.with.contexts.color.r2_color.c0", [0.0], {"with-auxiliary-color-above-floor"}),
        ("labels.contextssl.color.c126", [0.45], {"labels-above-ceiling"}),
        ("labels.contextssl.rotation.c0", [0.95], {"labels-rotation-rise"}),
        ("single.none.r2_rotation.c126", [0.78], {"single-none-context-lowers-rotation"}),
        ("single.rotation.r2_rotation.c126", [0.7], {"single-rotation-context-keeps-rotation"}),
    ],
)
def test_a_claim_falls_with_its_number_alone(path, value, spoiled):
    numbers = handmade(0.05)
    place = numbers
    *way, last = path.split(".")
    for key in way:
        place = place[key]
    place[last] = value
    assert failing(numbers) == spoiled


def test_a_star_asks_every_entry_and_says_against_how_many_seeds():
    numbers = {"ours": [0.7, 0.5], "all": {"a": [0.6], "b": [0.4]}}
    claim = {"left": "ours", "relation": ">", "right": "all.*", "right_mean": True}
    held, against = published.holds(claim, numbers), published.compared_with(claim, numbers)
    assert held == [True, False] and against == 1
    assert published.evidence(claim, numbers) == "0.600 > a 0.600, b 0.400"
    said = published.verdict(held, stand_in=True, against=against)
    assert said == "mixed: holds in 1 of 2 seeds, against 1 seed of the other"
    assert published.holds({"left": "all.*", "relation": ">", "plus": 0.5}, numbers) == [False]
    with pytest.raises(KeyError, match="no 'none'"):
        published.holds({"left": "none.*", "relation": ">"}, numbers)


def test_published_numbers_stand_beside_every_claim_that_names_some():
    frame = published.load(ROOT / "paper" / "published.csv")
    for claim in CLAIMS.values():
        for wanted in claim.get("published", ()):
            assert len(published.select(frame, **wanted)), (claim["id"], wanted)
    found = published.published_series(CLAIMS["rotation-context-above-baselines"], frame)
    assert found == "Figure 3: 0.744; equimod 0.512, sie 0.671, sen 0.633"


def test_verdicts_of_stand_in_data_never_say_agrees():
    assert published.verdict([True] * 3, stand_in=True) == "direction agrees: holds in 3 of 3 seeds"
    assert published.verdict([True] * 3, stand_in=False).startswith("agrees")
    assert published.verdict([True, False, True], stand_in=True) == "mixed: holds in 2 of 3 seeds"
    assert published.verdict([False], stand_in=True) == "does not hold: 0 of 1 seeds"
    assert published.verdict([True], stand_in=True) == "direction agrees in the only seed: holds in 1 of 1 seeds"


def test_claim_about_a_missing_number_names_it():
    with pytest.raises(KeyError, match="top1.simclr"):
        claim = {"left": "top1.contextssl", "right": "top1.simclr", "relation": ">="}
        published.holds(claim, {"top1": {"contextssl": [1.0]}})


# ---- a tiny evaluation


@pytest.fixture(scope="module")
def views():
    """24 objects of 4 random views each; half of the test objects count as real meshes."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.rand(96, 7, generator=generator)
    targets = torch.cat([quaternion(latents[:, :3] - 0.5), latents[:, [3, 6]]], 1)
    return Views(
        images=torch.randint(256, (96, 16, 16, 3), dtype=torch.uint8, generator=generator),
        targets=targets, latents=latents, labels=torch.arange(24) % 3, classes=("a", "b", "c"),
        split=np.array(["train"] * 12 + ["validation"] * 6 + ["test"] * 6),
        source=np.array(["parametric", "real"] * 12),
        mesh=np.array([str(n) for n in range(24)]), views=4,
    )  # fmt: skip


RUNS = {  # method, groups, changed settings
    "contextssl": ("contextssl", ["rotation", "color"], {"probes": SETTINGS.probes}),
    "simclr": ("simclr", [], {}),
    "simclr-plus-c0": ("simclr-plus", [], {"context_kinds": ("none",), "context_lengths": (0,)}),
    "simclr-plus": ("simclr-plus", [], {"context_kinds": ("none",), "context_lengths": (0, 6)}),
    "sen-rotation": ("sen", ["rotation"], {}),
    "sen-color": ("sen", ["color"], {}),
    "sen-both": ("sen", ["rotation", "color"], {}),
    "mask-000": ("contextssl", ["rotation", "color"], {}),
    "mask-090": ("contextssl", ["rotation", "color"], {}),
    "labels-simclr": ("simclr", [], {}),
    "labels-contextssl": ("contextssl", ["rotation", "color"], {}),
    "single-rotation": ("contextssl", ["rotation", "none"], {"context_kinds": ("rotation", "none")}),
}
SELECT = {
    "main": list(RUNS)[:7], "masking": ["mask-000", "mask-090"], "auxiliary": ["mask-090", "mask-000"],
    "labels": ["labels-simclr", "labels-contextssl"], "single": ["single-rotation"],
}  # fmt: skip


def untrained(name: str) -> torch.nn.Module:
    spec = SimpleNamespace(
        encoder="small-cnn", feature_dim=12, pretrained=False, width=16, layers=2, heads=2, output_dim=10,
        action_read_in="balanced", auxiliary_hidden=8, projector_dim=10, projector_out=10,
    )  # fmt: skip
    method, groups, _ = RUNS[name]
    torch.manual_seed(0)
    if method == "simclr":
        model = SimCLR(spec, 16)
    elif method == "sen":
        model = SEN(spec, 16, groups, GROUPS, torch.ones(6))
    else:
        model = ContextSSL(spec, 16, torch.zeros(6), torch.ones(6), torch.ones(6), auxiliary=method == "contextssl")
    if name.startswith("labels"):
        model.classifier = torch.nn.Linear(10, 3 + 10)
    return model


@pytest.fixture(scope="module")
def results(views):
    """Evaluations of untrained models as the runs' files have them, and two of the models."""
    files = {}
    for name, (method, groups, changes) in RUNS.items():
        settings, model = dataclasses.replace(ONE_PROBE, **changes), untrained(name)
        trained = groups if method == "sen" else ()
        count = 2 if name in ("contextssl", "simclr") else 1
        seeds = [evaluate.evaluate_run(model, views, settings, trained, seed) for seed in range(count)]
        for result in seeds if name.startswith("mask") else ():
            result["shortcut"] = {"p": int(name[-3:]) / 100, "accuracy": {"pair": 0.5, "foreign": 0.1}}
        contextual = hasattr(model, "predictor")
        files[name] = json.loads(json.dumps({
            "run": name, "method": method, "groups": groups, "sources": ["parametric", "real"], "seeds": seeds,
            "context_kinds": list(settings.context_kinds) if contextual else ["none"],
            "context_lengths": list(settings.context_lengths) if contextual else [0],
        }))  # fmt: skip
    return files | {"model": untrained("contextssl"), "invariant": untrained("simclr")}


def test_metrics_file_has_the_declared_structure(results):
    found = summary.summary(results, SELECT)
    for suffix in ("", "_linear_probe", "_strong_probe", "_real_meshes", "_real_meshes_linear_probe"):
        for context in ("rotation", "color"):
            for metric in ("r2_rotation", "r2_color"):
                curve = found[f"adaptation{suffix}"][context][metric]
                assert list(curve) == ["c0", "c2", "c6"]
                assert all(len(v) == 2 and np.isfinite(v).all() for v in curve.values())
    assert found["adaptation"]["rotation"]["r2_color"]["c0"] == found["adaptation"]["color"]["r2_color"]["c0"]
    assert set(found["trained"]) == {"rotation", "color", "rotation+color"}
    assert set(found["invariant"]) == {"simclr", "simclr-plus-c0", "simclr-plus"}
    assert set(found["masking"]) == {"p000", "p090"}
    for claim in CLAIMS.values():
        assert len(published.holds(claim, found)) in (1, 2) and published.evidence(claim, found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_claims_of_runs_that_are_not_selected_are_not_measured(results):
    found = summary.summary(results, {**SELECT, "masking": [], "labels": [], "main": ["contextssl", "simclr"]})
    assert "masking" not in found and "trained" not in found
    for name in ("masking-closes-the-shortcut", "labels-above-ceiling", "baselines-beat-simclr-color"):
        with pytest.raises(KeyError, match="results/metrics.json has no"):
            published.holds(CLAIMS[name], found)


def test_each_published_number_is_read_where_the_paper_reads_it(results):
    row = dict.fromkeys(published.COLUMNS) | {"metric": "r2_rotation", "target": "relative", "context_length": None}
    augmented = {"crop-blur": {name: results[name] for name in ("simclr-plus", "simclr-plus-c0")}}
    ours = lambda **cell: summary.counterpart(row | cell, results, SELECT, augmented)  # noqa: E731
    at = ("relative", "paper", "parametric", "r2_rotation", "pooled")
    simclr, main = results["simclr"], results["contextssl"]
    representation = metrics.values(simclr, "r2", "representation", *at)
    assert ours(artefact="figure-3", method="simclr")[0] == representation
    embedded = metrics.values(simclr, "r2", "embedding", "none", "c0", *at)
    assert ours(artefact="table-11", method="simclr")[0] == embedded
    change = ours(artefact="table-19", method="simclr", variant="change")
    assert change == ([a - b for a, b in zip(embedded, representation)], None)
    cell = {"artefact": "table-6", "method": "contextssl", "environment": "color", "context_length": 2}
    found, floor = ours(**cell)
    assert found == metrics.values(main, "r2", "embedding", "color", "c2", *at)
    assert floor == main["seeds"][0]["floor"]["relative"]["parametric"]["r2_rotation"]["pooled"]
    cell = {"artefact": "table-9", "method": "contextssl", "environment": "rotation", "variant": "mask_prob=0.90"}
    assert ours(**cell, context_length=6)[0] == metrics.values(
        results["mask-090"], "r2", "embedding", "rotation", "c6", *at
    )
    cell = {"artefact": "table-1", "method": "sen", "trained_group": "rotation", "variant": "library=validation"}
    assert ours(**cell, metric="mrr")[0] == metrics.values(
        results["sen-rotation"], "retrieval", "test", "rotation", "c0", "parametric", "as_released", "mrr"
    )
    cell = {"artefact": "table-4", "method": "simclr", "variant": "label_corruption=color", "metric": "top1"}
    found = metrics.values(results["labels-simclr"], "labels", "color", "c0", "parametric")
    assert ours(**cell)[0] == [100 * v for v in found]
    # CIFAR-10's rows are of the section's own runs, never of the study's of the same name.
    cell = {"artefact": "table-2", "dataset": "cifar10-crop-blur", "method": "simclr-plus-c0", "metric": "top1"}
    found = metrics.values(results["simclr-plus-c0"], "top1", "representation", "parametric")
    assert ours(**cell)[0] == [100 * v for v in found]
    with pytest.raises(KeyError):
        ours(**cell | {"method": "simclr"})
    with pytest.raises(KeyError):  # trained here for other groups alone
        ours(artefact="figure-3", method="sie", trained_group="rotation")
    with pytest.raises(KeyError, match="prose"):
        ours(artefact="figure-4", method="contextssl", environment="rotation", metric="best_mask_prob")


def test_evaluation_is_the_same_twice_and_simclr_has_no_context(results):
    first, second = results["contextssl"]["seeds"]
    assert {k: v for k, v in first.items() if k != "seed"} == {k: v for k, v in second.items() if k != "seed"}
    assert list(results["simclr"]["seeds"][0]["r2"]["embedding"]) == ["none"]
    assert results["simclr"]["seeds"][0]["retrieval"] == {}
    with pytest.raises(KeyError, match="no-such"):
        metrics.values(results["simclr"], "r2", "no-such")


@pytest.mark.parametrize("name, asked", [("sen-rotation", "rotation"), ("sen-both", "rotation+color")])
def test_an_equivariant_baseline_is_asked_for_what_it_was_trained_for(results, name, asked):
    result = results[name]["seeds"][0]
    assert list(result["r2"]["embedding"]) == ["none"] and list(result["r2"]["embedding"]["none"]) == ["c0"]
    for library in ("test", "validation", "train"):
        assert list(result["retrieval"][library]) == [asked]
        assert list(result["retrieval"][library][asked]) == ["c0"]
        assert 0 < result["retrieval"][library][asked]["c0"]["all"]["mrr"] <= 1
    assert summary.identify(results[name]) == ("sen", asked)


def test_a_model_that_never_saw_an_action_is_read_under_contexts_without_one(results):
    alone, full = (results[name]["seeds"][0] for name in ("simclr-plus-c0", "simclr-plus"))
    assert list(alone["r2"]["embedding"]["none"]) == ["c0"] and list(full["top1"]["embedding"]["none"]) == ["c0", "c6"]
    assert alone["retrieval"] == full["retrieval"] == {}
    # The same untrained model: without a context nothing differs.
    assert alone["r2"]["embedding"]["none"]["c0"] == full["r2"]["embedding"]["none"]["c0"]
    assert summary.identify(results["simclr-plus-c0"]) == ("simclr-plus-c0", None)
    assert summary.identify(results["simclr-plus"]) == ("simclr-plus", None)


def test_labels_are_scored_by_both_rules(views):
    """A classifier that always says 1 is right about a third of the objects by the rule of color, and one that says 11
    by the rule of rotation."""
    for answer, rule, other in ((1, "color", "rotation"), (11, "rotation", "color")):
        for name, lengths in (("labels-simclr", ["c0"]), ("labels-contextssl", ["c0", "c2", "c6"])):
            model = untrained(name)
            torch.nn.init.zeros_(model.classifier.weight)
            model.classifier.bias.data = F.one_hot(torch.tensor(answer), 13).float()
            found = evaluate.evaluate_run(model, views, ONE_PROBE)["labels"]
            assert list(found[rule]) == list(found[other]) == lengths
            assert [v["all"] for v in found[rule].values()] == pytest.approx([1 / 3] * len(lengths))
            assert {v["all"] for v in found[other].values()} == {0}


def test_embedding_after_a_context_equals_the_token_in_the_sequence(results, views):
    """What `read` computes from cached keys is what the transformer computes for a y-token at that place."""
    model = results["model"].eval()
    rows = evaluate.context_pairs(views, SETTINGS)
    assert rows.shape == (3, 2) and (views.split[(rows // 4).numpy()] == "train").all()
    query = torch.tensor([[92, 93]])
    features = evaluate.encode(model, views, torch.cat([rows, query]).flatten(), torch.device("cpu"))
    actions = action(views.targets[rows[:, 0]], views.targets[rows[:, 1]])
    x = torch.cat([evaluate.masked_action(actions, "rotation", GROUPS), torch.zeros(1, 6)])
    assert (x[:, 4:] == 0).all() and (x[:3, :4] != 0).all()
    tokens = torch.stack([x, torch.zeros_like(x)], 1).flatten(0, 1)
    with torch.no_grad():
        whole = model.predictor(features[None], tokens[None], [pair_causal_mask(8)[None]] * 2)[0, -1]
    cache = evaluate.context_caches(model, views, SETTINGS, torch.device("cpu"))["rotation"]
    alone = evaluate.embed(model, features[-1:], None, cache)[0]
    torch.testing.assert_close(alone, F.normalize(whole, dim=0), rtol=1e-4, atol=1e-5)


def test_probe_images_are_spread_evenly_over_objects(views):
    rows = evaluate.sample_rows(views, "train", 30, torch.Generator().manual_seed(0))
    assert rows.shape == (10, 3) and len(rows.unique()) == 30
    assert (rows // 4 == rows[:, :1] // 4).all() and (views.split[(rows // 4).numpy()] == "train").all()


def test_figures_are_the_same_bytes_twice(results, views, tmp_path):
    plotting.style()
    arrays = evaluate.neighbors(results["model"], views, SETTINGS, examples=1, k=2)
    rows = {"longest": [(str(kind), arrays["neighbors"][0, i, -1]) for i, kind in enumerate(arrays["kinds"])]}
    rows["best possible"] = [("rotation", [1, 2]), ("color", [1, 2])]
    within = {"rotation": 30.0, "color": 0.1}
    for name in "ab":
        fig = plotting.neighbor_grid(arrays["images"][0], arrays["latents"][0], rows, within, ["left", "right"])
        plotting.save(fig, tmp_path / name)
        plotting.plt.close(fig)
    for suffix in ("png", "svg"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_an_invariant_model_is_asked_with_the_source_itself(results, views):
    arrays = evaluate.neighbors(results["invariant"], views, SETTINGS, examples=1, k=2)
    assert (list(arrays["kinds"]), list(arrays["lengths"])) == (["none"], [0])
    assert arrays["neighbors"].shape == (2, 1, 1, 2) and arrays["neighbors"].min() >= 1


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


def test_classes_are_those_of_scikit_learn_at_the_penalty_chosen_on_validation():
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(0)
    label = torch.arange(600) % 3
    tables = torch.randn(2, 600, 5, generator=generator)
    tables[0, :, :3] += 1.5 * F.one_hot(label, 3)
    splits = [Split(r, label[r[:, 0]]) for r in torch.arange(600)[:, None].split([300, 100, 200])]
    settings = dataclasses.replace(SETTINGS, ridge_penalties=(10.0, 0.1))
    ours = probes.predict_classes(tables, *splits, 3, settings)
    x = probes.standardize(tables, splits[0].rows).numpy()
    for table, found in zip(x, ours):
        models = [LogisticRegression(C=1 / p, max_iter=500).fit(table[:300], label[:300]) for p in (10.0, 0.1)]
        best = max(models, key=lambda m: m.score(table[300:400], label[300:400]))
        assert (found.numpy() == best.predict(table[400:])).mean() > 0.98
    right = (ours == splits[-1].target).float().mean(-1)
    assert right[0] > 0.7 and abs(right[1] - 1 / 3) < 0.15
