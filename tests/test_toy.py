"""The training step on the page of notebook 06 is the library's."""

import math
import os
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from tiny import run as tiny_run

from lib.data.views import Views
from lib.method.methods import build, contextssl_step
from lib.method.sampling import Draws, sample_batch, sample_groups, sample_pairs

CELLS = nbformat.read(Path(__file__).parents[1] / "notebooks/06_toy.ipynb", as_version=4).cells


@pytest.fixture
def page(monkeypatch):
    """The names of the notebook's imports, its world and its training step."""
    monkeypatch.chdir(os.getcwd())
    names = {}
    for cell in CELLS:
        if cell.cell_type == "code" and any(part in cell.source for part in ("plotting.style()", "def forward(")):
            exec(cell.source, names)
        elif "def world(" in cell.source:
            exec(cell.source[: cell.source.index("\nviews, latents")], names)
    return names


def test_forward_is_the_librarys_step(page):
    told = tuple(page["GROUPS"])
    run = tiny_run(
        encoder="mlp", temperature=page["TEMPERATURE"], info_nce_weight=1.0, auxiliary_weight=0.7,
        pairs_per_object=1, objects_per_step=16, views_per_object=2, block_size=8, mask_probability=0.5,
    ).model_copy(update={"groups": told})  # fmt: skip

    def action(t1, t2):
        turn = torch.atan2(t2[..., :1], t2[..., 1:2]) - torch.atan2(t1[..., :1], t1[..., 1:2])
        return torch.cat([turn.sin(), turn.cos(), t2[..., 2:] - t1[..., 2:]], -1)

    seen, latents, actions, _ = page["world"](16, torch.Generator().manual_seed(0))
    assert torch.allclose(action(latents[:, 0], latents[:, 1]), actions, atol=1e-6)
    names = np.array(["toy"] * 16)
    views = Views(
        seen.flatten(0, 1), latents.flatten(0, 1), latents.flatten(0, 1), torch.zeros(16, dtype=torch.int64), ("toy",),
        np.array(["train"] * 16), names, names, 2, page["GROUPS"], action,
    )  # fmt: skip
    model, draws = build(run, views), Draws(0, 0)
    batch = sample_batch(views, run.pretrain, draws)
    by_library = contextssl_step(model, run, views, batch, draws, 0.0)["loss"].item()

    at = sample_pairs(run.pretrain.contexts_per_step, 4, 16, 2, 1, draws("pairs"))
    x, y = (batch.images.flatten(0, 1)[rows] for rows in at)
    of_x, of_y = (batch.targets.flatten(0, 1)[rows] for rows in at)
    same = torch.stack([x, y], 2), torch.stack([of_x, of_y], 2), action(of_x, of_y), None
    groups = sample_groups(len(x), told, "context", draws("groups"))
    on_the_page = page["forward"](model, same, groups, 0.5, 0.7, draws("masks")).item()
    assert math.isclose(on_the_page, by_library, rel_tol=1e-5)
