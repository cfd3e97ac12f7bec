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

from lib import evaluate, metrics, plotting, probes, published, retrieval
from lib import params as schema
from lib.data import Views, action, quaternion
from lib.masking import pair_causal_mask
from lib.models import ContextSSL, SimCLR
from lib.probes import Split

ROOT = Path(__file__).parents[1]
SETTINGS = dataclasses.replace(
    schema.load(ROOT / "profiles" / "laptop.yaml").evaluate,
    context_lengths=(0, 2, 6), train_images=60, validation_images=24, test_images=40, retrieval_objects=5,
    probe_widths=(16,), probe_epochs=2, probe_linear_epochs=2,
)  # fmt: skip


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
    predictions = probes.predict_latents(tables, *splits, settings, 0)
    assert tuple(predictions) == probes.PROBES
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
    found = probes.predict_latents(tables, *splits, settings, 0)
    r2 = {probe: metrics.r2(p[0], splits[-1].target)["mean"] for probe, p in found.items()}
    assert r2["ridge"] > 0.6 and r2["linear"] < 0.1


def test_mlp_reads_what_a_linear_probe_cannot():
    x = torch.rand(1500, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    target = (x[:, :1] * x[:, 1:]).expand(-1, 6)
    splits = [Split(r, target[r[:, 0]]) for r in torch.arange(1500)[:, None].split([1000, 250, 250])]
    settings = dataclasses.replace(
        SETTINGS, probe_widths=(64,), probe_epochs=60, probe_batch=50, probe_learning_rate=1e-2
    )
    found = probes.predict_latents(x[None], *splits, settings, 0)
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
    result = {
        f"adaptation{prefix}{suffix}": adaptation(other_left, kept)
        for prefix in ("", metrics.REAL_MESHES)
        for suffix in metrics.PROBE_SUFFIX.values()
    }
    mrr = {"rotation": {"c0": [0.3, 0.3], "c126": [last_mrr, last_mrr]}}
    return result | {"mrr": mrr, "top1": {"contextssl": [top1, top1], "simclr": [0.92, 0.9, 0.94]}}


def test_claims_hold_where_they_should_and_only_there():
    claims = {c["id"]: c for c in published.claims(ROOT / "paper" / "claims.yaml")}
    failing = lambda numbers: {i for i, c in claims.items() if not all(published.holds(c, numbers))}  # noqa: E731
    assert failing(handmade(0.05)) == set()
    assert failing(handmade(0.15)) == {
        "rotation-context-removes-color", "linear-probe-rotation-context-removes-color",
    }  # fmt: skip
    assert "strong-probe-rotation-context-halves-color" in failing(handmade(0.6))
    assert failing(handmade(0.05, top1=0.8)) == {"classification-near-simclr"}
    assert failing(handmade(0.05, last_mrr=0.2)) == {"retrieval-rises"}
    lost = failing(handmade(0.05, kept=0.8))
    assert {"rotation-context-keeps-rotation", "color-context-keeps-color", "rotation-context-rotation-curve"} <= lost
    assert {"real-meshes-rotation-context-lowers-color"} <= failing(handmade(1.01))


def test_verdicts_of_stand_in_data_never_say_agrees():
    assert published.verdict([True] * 3, stand_in=True) == "direction agrees: holds in 3 of 3 seeds"
    assert published.verdict([True] * 3, stand_in=False).startswith("agrees")
    assert published.verdict([True, False, True], stand_in=True) == "mixed: holds in 2 of 3 seeds"
    assert published.verdict([False], stand_in=True) == "does not hold: 0 of 1 seeds"


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


@pytest.fixture(scope="module")
def results(views):
    spec = SimpleNamespace(
        encoder="small-cnn", feature_dim=12, pretrained=False, width=16, layers=2, heads=2, output_dim=10,
        action_read_in="balanced", auxiliary_hidden=8, projector_dim=10,
    )  # fmt: skip
    torch.manual_seed(0)
    context = ContextSSL(spec, 16, torch.zeros(6), torch.ones(6), torch.ones(6))
    simclr = SimCLR(spec, 16)
    files = {}
    for name, model in (("contextssl", context), ("simclr", simclr)):
        seeds = [evaluate.evaluate_run(model, views, SETTINGS, seed) for seed in (0, 1)]
        files[name] = json.loads(json.dumps({
            "run": name, "context_lengths": list(SETTINGS.context_lengths), "sources": ["parametric", "real"],
            "seeds": seeds,
        }))  # fmt: skip
    return files | {"model": context, "invariant": simclr}


def test_metrics_file_has_the_declared_structure(results):
    summary = metrics.summary(results["contextssl"], results["simclr"])
    for suffix in ("", "_linear_probe", "_strong_probe", "_real_meshes", "_real_meshes_linear_probe"):
        for context in ("rotation", "color"):
            for metric in ("r2_rotation", "r2_color"):
                curve = summary[f"adaptation{suffix}"][context][metric]
                assert list(curve) == ["c0", "c2", "c6"]
                assert all(len(v) == 2 and np.isfinite(v).all() for v in curve.values())
    assert summary["adaptation"]["rotation"]["r2_color"]["c0"] == summary["adaptation"]["color"]["r2_color"]["c0"]
    for claim in published.claims(ROOT / "paper" / "claims.yaml"):
        assert len(published.holds(claim, summary)) == 2
    assert json.loads(json.dumps(summary)) == summary


def test_evaluation_is_the_same_twice_and_simclr_has_no_context(results):
    first, second = results["contextssl"]["seeds"]
    assert {k: v for k, v in first.items() if k != "seed"} == {k: v for k, v in second.items() if k != "seed"}
    assert list(results["simclr"]["seeds"][0]["r2"]["embedding"]) == ["none"]
    assert results["simclr"]["seeds"][0]["retrieval"] == {}
    with pytest.raises(KeyError, match="no-such"):
        metrics.values(results["simclr"], "r2", "no-such")


def test_embedding_after_a_context_equals_the_token_in_the_sequence(results, views):
    """What `read` computes from cached keys is what the transformer computes for a y-token at that place."""
    model = results["model"].eval()
    rows = evaluate.context_pairs(views, SETTINGS)
    assert rows.shape == (3, 2) and (views.split[(rows // 4).numpy()] == "train").all()
    query = torch.tensor([[92, 93]])
    features = evaluate.encode(model, views, torch.cat([rows, query]).flatten(), torch.device("cpu"))
    actions = action(views.targets[rows[:, 0]], views.targets[rows[:, 1]])
    x = torch.cat([evaluate.masked_action(actions, "rotation"), torch.zeros(1, 6)])
    assert (x[:, 4:] == 0).all() and (x[:3, :4] != 0).all()
    tokens = torch.stack([x, torch.zeros_like(x)], 1).flatten(0, 1)
    with torch.no_grad():
        whole = model.predictor(features[None], tokens[None], [pair_causal_mask(8)[None]] * 2)[0, -1]
    cache = evaluate.context_caches(model, views, SETTINGS, torch.device("cpu"))["rotation"]
    alone = evaluate.embed(model.predictor, features[-1:], None, cache)[0]
    torch.testing.assert_close(alone, F.normalize(whole, dim=0), rtol=1e-4, atol=1e-5)


def test_probe_images_are_spread_evenly_over_objects(views):
    rows = evaluate.sample_rows(views, "train", 30, torch.Generator().manual_seed(0))
    assert rows.shape == (10, 3) and len(rows.unique()) == 30
    assert (rows // 4 == rows[:, :1] // 4).all() and (views.split[(rows // 4).numpy()] == "train").all()


def test_figures_are_the_same_bytes_twice(results, views, tmp_path):
    plotting.style()
    for model in (results["model"], results["invariant"]):
        arrays = evaluate.neighbors(model, views, SETTINGS, examples=1, k=2)
        for name in "ab":
            plotting.save(plotting.neighbor_grid(arrays, [0, 1]), tmp_path / name)
        for suffix in ("png", "svg"):
            assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_pose_and_hue_errors():
    quarter = np.array([0, 0, np.sin(np.pi / 4), np.cos(np.pi / 4)])
    assert plotting.pose_error(quarter, np.array([0, 0, 0, -1.0])) == pytest.approx(90)
    assert plotting.hue_error(np.array([0.95, 0.5]), np.array([0.05, 0.5])) == pytest.approx(0.05)


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
