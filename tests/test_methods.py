"""Every method is what it was: its losses are pinned beside its version, on which the store of trainings relies."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import tiny
from lightning_fabric import Fabric

from lib.essl import bridge
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
    "contextssl": (3, [6.83036, 7.35444, 7.60537, 12.30638, 10.85178, 10.63356, 7.80331, 7.27817, 7.97574]),
    "simclr": (3, [5.52582, 4.56748, 4.53769]),
    "vicreg": (3, [4.63632, 4.46102, 4.59007]),
    "simclr-plus": (3, [3.46288, 3.68784, 3.77265]),
    "vicreg-plus": (3, [5.06170, 5.16062, 5.11765]),
    "equimod": (3, [10.82190, 9.93810, 9.90366]),
    "sen": (3, [7.56154, 7.59742, 7.90552]),
    "sie": (3, [7.37811, 8.02369, 8.10684]),
}


def losses(run, views):
    _, history = pretrain(run, 0, views, fabric=Fabric(accelerator="cpu", devices=1))
    return [row["loss"] for row in history]


@pytest.mark.parametrize("method", get_args(settings.Method))
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


@pytest.mark.parametrize("method", get_args(settings.Method))
def test_a_training_reads_no_section_that_it_does_not_name(method):
    run = tiny.run(method, steps=1, label_weight=1.0)
    others = {"model", "context", "pretrain", "baselines", "evaluate"} - set(METHODS[method].reads)
    blind = run.model_copy(update=dict.fromkeys(others))
    assert losses(blind, tiny.views()) == losses(run, tiny.views())


def test_settings_know_the_methods_and_what_they_can_do():
    models = {name: build(tiny.run(name), tiny.views()) for name in get_args(settings.Method)}
    assert set(models) == set(METHODS) - {bridge.NAME}
    assert {name for name, model in models.items() if hasattr(model, "predictor")} == set(settings.CONTEXTUAL)
    assert {name for name, model in models.items() if hasattr(model, "predict")} == set(settings.EQUIVARIANT)


def test_the_method_needs_nothing_of_the_compendium_but_its_data():
    for path in Path("lib/method").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("lib"):
                assert node.module.startswith(("lib.method", "lib.data.views")), f"{path} imports {node.module}"
