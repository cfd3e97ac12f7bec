"""Every method is what it was: its losses are pinned beside its version, on which the store of trainings relies."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import tiny
from lightning_fabric import Fabric

from lib.method.methods import METHODS, build
from lib.method.pretrain import pretrain
from lib.pipeline import settings

RELEASED = dict(
    mask_unit="pair", mask_per_layer=True, negatives="batch", group_per="batch", auxiliary_tokens="x",
    action_read_in="paper",
)  # fmt: skip
# At a low rate, so that another processor's rounding stays below the tolerance.
SHORT = dict(steps=3, learning_rate=3e-4, label_weight=1.0)
#: Method -> version, and the losses of three steps; of contextssl also as the code was released, and on a table.
PINS = {
    "contextssl": (1, [7.02026, 7.31349, 7.67347, 12.56702, 11.19413, 10.49240, 7.74646, 7.18499, 7.95595]),
    "simclr": (1, [5.52582, 4.41793, 4.39312]),
    "vicreg": (1, [4.63632, 4.25551, 4.50995]),
    "simclr-plus": (1, [3.46288, 3.57901, 3.78101]),
    "vicreg-plus": (1, [5.06170, 5.11994, 5.18188]),
    "equimod": (1, [10.89361, 10.03795, 9.78868]),
    "sen": (1, [8.40144, 8.42498, 8.31885]),
    "sie": (1, [79.75716, 67.43237, 73.33669]),
}


def losses(run, views):
    _, history = pretrain(run, 0, views, fabric=Fabric(accelerator="cpu", devices=1))
    return [row["loss"] for row in history]


@pytest.mark.parametrize("method", METHODS)
def test_the_losses_of_a_version_never_move(method):
    views = tiny.views()
    found = losses(tiny.run(method, **SHORT), views)
    if method == "contextssl":
        found += losses(tiny.run(method, **SHORT, **RELEASED), views)
        table = replace(views, images=views.images[:, ::4, ::8].flatten(1) / 255)
        found += losses(tiny.run(method, **SHORT, encoder="mlp"), table)
    version, pinned = PINS[method]
    written = f'"{method}": ({METHODS[method].version}, [{", ".join(f"{loss:.5f}" for loss in found)}]),'
    assert found == pytest.approx(pinned, rel=1e-4), (
        f"the losses of {method} moved: raise METHODS[{method!r}].version and update this pin: {written}"
    )
    assert version == METHODS[method].version, f"METHODS[{method!r}].version was raised: update this pin: {written}"


@pytest.mark.parametrize("method", METHODS)
def test_a_training_reads_no_section_that_it_does_not_name(method):
    run = tiny.run(method, steps=1, label_weight=1.0)
    others = {"model", "context", "pretrain", "baselines", "evaluate"} - set(METHODS[method].reads)
    blind = run.model_copy(update=dict.fromkeys(others))
    assert losses(blind, tiny.views()) == losses(run, tiny.views())


def test_settings_know_the_methods_and_what_they_can_do():
    models = {name: build(tiny.run(name), tiny.views()) for name in METHODS}
    assert set(get_args(settings.Method)) == set(METHODS)
    assert {name for name, model in models.items() if hasattr(model, "predictor")} == set(settings.CONTEXTUAL)
    assert {name for name, model in models.items() if hasattr(model, "predict")} == set(settings.EQUIVARIANT)


def test_the_method_needs_nothing_of_the_compendium_but_its_data():
    for path in Path("lib/method").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("lib"):
                assert node.module.startswith(("lib.method", "lib.data.views")), f"{path} imports {node.module}"
