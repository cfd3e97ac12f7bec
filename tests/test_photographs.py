"""What stands beside the models on photographs: raw pixels and chance."""

from dataclasses import replace

import pytest
import tiny
import torch

from lib.pipeline import photographs, settings, store


def test_photographs_have_steps_of_their_own_and_contextssl_its_changes(tmp_path):
    params = photographs.changed(tmp_path)
    spec, runs = settings.load().cifar, params["runs"]
    settings.from_dict(params)
    ours, simclr = runs["crop-blur-contextssl"], runs["crop-blur-simclr"]
    assert (ours["steps"], simclr["steps"]) == (spec.contextssl_steps, spec.baseline_steps)
    assert ours["seeds"] == simclr["seeds"] == list(spec.seeds)
    assert ours["optimizer"] == spec.contextssl.optimizer == "muon" and "optimizer" not in simclr


@pytest.fixture
def views():
    """Classes that some pixels tell."""
    views = tiny.views()
    images = views.images[:, :8, :8].clone()
    images[:, :4] = (80 * views.labels.repeat_interleave(views.views))[:, None, None, None].to(torch.uint8)
    return replace(views, images=images)


def test_raw_pixels_and_chance(views, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "folder", lambda: tmp_path)
    of = tiny.run("simclr", ())
    found = photographs.references([of], {of.dataset: views}).set_index("method")["value"]
    assert found["raw pixels"] == 100 and found["chance"] == pytest.approx(100 / len(views.classes))
    # Again it comes from the store, but not for other images.
    monkeypatch.setattr(photographs, "evaluate_run", None)
    assert photographs.references([of], {of.dataset: views}).set_index("method")["value"].equals(found)
    with pytest.raises(TypeError):
        photographs.references([of], {of.dataset: tiny.views()})
