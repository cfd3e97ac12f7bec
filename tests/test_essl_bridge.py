"""The choice made beforehand on ContextSSL's views: its objective and runs, and how it stands beside contexts."""

from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
import torch.nn.functional as F

from lib.essl import bridge
from lib.method import losses
from lib.method.methods import build
from lib.method.sampling import Draws, sample_batch
from lib.pipeline import settings
from lib.report import claims, summary


def test_bins_of_a_group_are_equally_likely_and_tell_where_a_latent_lies():
    latents = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    bins = bridge.Bins(latents)
    found = bins(latents)
    assert bins.count == 16 and found.bincount(minlength=16).min() > 0.8 * 4000 / 16
    assert bins(torch.tensor([[0.1, 0.9], [0.9, 0.1]])).tolist() == [0 + 4 * 3, 3 + 4 * 0]
    assert bridge.Bins(torch.rand(50, 4)).count == 16 and bridge.Bins(torch.rand(50, 1)).count == 4


@pytest.mark.parametrize("groups", [(), ("color",), ("rotation", "color")])
def test_the_objective_is_invariance_and_a_cross_entropy_for_each_group(groups):
    views = tiny.views()
    run = tiny.run("simclr", groups, views_per_object=3).model_copy(update={"method": bridge.NAME})
    model = build(run, views).eval()
    batch = sample_batch(views, run.pretrain, Draws(0, 0))
    parts = bridge.step(model, run, views, batch, Draws(0, 0), 0.0)
    z1, z2, z3 = (model.encoder(batch.images[:, view]) for view in range(3))
    expected = losses.nt_xent(model.embed(z1), model.embed(z2), run.pretrain.temperature)
    torch.testing.assert_close(parts["invariance"], expected)
    for group in groups:
        label = model.bins[group](batch.targets[:, 2, views.groups[group]])
        told = F.cross_entropy(model.p[group](z3), label)
        torch.testing.assert_close(parts[group], told)
        expected = expected + run.pretrain.auxiliary_weight * told
    torch.testing.assert_close(parts["loss"], expected)
    assert set(parts) == {"loss", "invariance", *groups}


def test_runs_differ_in_what_they_are_sensitive_to_alone():
    params = settings.load("profiles/ci.yaml")
    runs = bridge.runs(params, params.essl.bridge)
    assert [run.groups for run in runs[:4]] == [(), ("rotation",), ("color",), ("rotation", "color")]
    assert len({run.name for run in runs}) == len(runs) == 8
    assert len({run.model_copy(update={"name": "", "groups": ()}).model_dump_json() for run in runs[:4]}) == 1
    like = params.run("simclr")
    assert runs[0].model == like.model and runs[0].pretrain.optimizer == like.pretrain.optimizer


def test_choices_and_contexts_stand_side_by_side():
    same = {"target": "individual", "probe": "paper", "objects": "parametric", "variant": None, "floor": 0.0,
            "dataset": "3diebench-mini", "seed": 0}  # fmt: skip

    def row(run, space, value, metric="r2_color_per_component", **of):
        return same | {"run": run, "space": space, "metric": metric, "value": value} | of

    chosen = pd.DataFrame([
        row("i", "representation", 0.1, groups=float("nan")), row("c", "representation", 0.8, groups="color"),
        row("c", "representation", 0.7, "r2_color", groups="color"),
    ])  # fmt: skip
    of = [("rotation", 0, 0.5), ("color", 0, 0.5), ("rotation", 2, 0.4), ("rotation", 6, 0.2), ("color", 6, 0.6)]
    told = [row("t", "embedding", value, environment=kind, context_length=n) for kind, n, value in of]
    told += [row("t", "representation", 60.0, "top1", target=None, probe=None)]
    found = bridge.side_by_side(chosen, pd.DataFrame(told))
    assert found.set_index(["choice", "measure"])["value"].to_dict() == {
        ("invariant", "R² of color"): 0.1, ("sensitive to color", "R² of color"): 0.8,
        ("no context", "R² of color"): 0.5, ("context of rotation", "R² of color"): 0.2,
        ("context of color", "R² of color"): 0.6, ("no context", "top-1, %"): 60.0,
    }  # fmt: skip
    named = summary.of_bridge(found).set_index("number")
    assert named.loc["bridge.rotation-color.sensitive-to-color.r2_color", "value"] == 0.8
    assert named.loc["bridge.rotation-color.no-context.top1", "value"] == 0.6
    of_context = named["run"].str.endswith("ContextSSL")
    assert named["run"].nunique() == 3 and of_context.sum() == 4


def test_every_claim_of_the_bridge_is_about_a_choice_of_a_run(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    params = settings.load("profiles/ci.yaml")
    groups = {run.dataset: run.groups for run in bridge.runs(params, params.essl.bridge) if len(run.groups) == 2}
    rows = pd.DataFrame([
        {"dataset": dataset, "way": "E-SSL", "choice": choice, "measure": measure, "seed": 0, "value": 0.5, "floor": 0}
        for dataset, two in groups.items()
        for choice in ("invariant", *(f"sensitive to {of}" for of in two), f"sensitive to {' and '.join(two)}")
        for measure in ("top-1, %", *(f"R² of {of}" for of in two))
    ])  # fmt: skip
    judged = claims.decide("44_bridge", summary.of_bridge(rows), True)
    assert len(judged) == 12 and (judged["because"] == "one training of each, and no interval").all()
