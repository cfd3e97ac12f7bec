"""Trials of settings: one training of a run with changes, judged on validation objects, and a line in the log.

    python -m lib try "late ramp" contextssl seed=0 steps=1500 mask_ramp_start=0.82

Nothing here sees a test object: objects of the validation split are reported, and a tenth of the training objects, on
which the encoder was trained, selects a probe's epoch. A setting becomes a default only if it wins over several seeds.
The target of the headline: rotation at least .7 without a context; at most a tenth of color left in the rotation context
of 126 tokens and of rotation in the color context; a foreign anchor (lib/evaluation/shortcut.py) finds its partner in at
most .05 of cases.
"""

import csv
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lib.data.views import Views
from lib.evaluation.evaluate import evaluate_run
from lib.method.pretrain import pretrain
from lib.pipeline import settings
from lib.pipeline.benchmark import processor
from lib.pipeline.study import views_of_study
from lib.report.results import select

LOG = Path("results/trials.csv")


def held_out(views: Views) -> Views:
    """The same views with validation objects in the place of test objects; test objects are in no split."""
    split = np.array(views.split)
    train = np.flatnonzero(split == "train")
    split[split == "test"] = "unused"
    split[split == "validation"] = "test"
    split[train[:: 10]] = "validation"
    return replace(views, split=split)


def attempt(name: str, run_name: str, seed: int, **changes: object) -> dict[str, object]:
    """Train one seed of a run with flat changes, evaluate it on validation objects, and add a line to `LOG`."""
    run = settings.load().run(run_name, **changes)
    last = run.evaluate.context_lengths[-1]
    wanted = {
        "context_lengths": [n for n in run.evaluate.context_lengths if n in (0, 14, 30, last)],
        "embedding_tasks": ["individual"], "representation_tasks": ["individual", "classes"], "retrieval_objects": 0,
        "probes": ["paper"],
    }  # fmt: skip
    run = settings.load().run(run_name, **(wanted | changes))
    views = views_of_study(run.study, [run])
    views = views if isinstance(views, Views) else views[run.dataset]
    from lightning_fabric import Fabric  # slow to import, and needed here alone

    torch.set_num_threads(1)
    start = time.perf_counter()
    with tqdm(total=run.pretrain.steps, unit="step", desc=name, mininterval=5) as bar:
        model, _ = pretrain(run, seed, views, fabric=Fabric(accelerator="cpu", devices=1), report=lambda done: bar.update(done - bar.n))
    seconds = time.perf_counter() - start
    found = evaluate_run(model, held_out(views), run, seed)
    apart = "parametric" if "parametric" in set(found["objects"]) else "all"
    line = {
        "name": name, "run": run_name, "seed": seed, "changes": " ".join(f"{k}={v}" for k, v in changes.items()),
        "steps": run.pretrain.steps, "seconds": round(seconds), "processor": processor(),
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
        **measures(select(found, objects=apart)), **foreign(found),
    }  # fmt: skip
    return line


def measures(rows) -> dict[str, float]:
    """R² per component (paper's probe; strong with that prefix) at each context, mean and range over contexts; top-1."""
    line = {"top1": float(select(rows, space="representation", metric="top1")["value"].iloc[0]) / 100}
    latents = rows[rows["metric"].str.endswith("_per_component") & (rows["target"] == "individual")]
    latents = latents.assign(context_length=latents["context_length"].fillna(0))
    for (probe, space, environment, n, metric), part in latents.groupby(
        ["probe", "space", "environment", "context_length", "metric"], dropna=False
    ):
        if space == "embedding" and n == 0 and environment not in ("none", "rotation", "crop"):
            continue  # without a context all kinds are one
        of = metric.removeprefix("r2_").removesuffix("_per_component")
        where = "representation" if space == "representation" else f"{environment}.{n}" if n else "0"
        values = part["value"]
        key = f"{'' if probe == 'paper' else probe + '.'}{where}.{of}"
        line[key] = round(values.mean(), 3)
        if len(values) > 1:
            line[key + ".range"] = f"{values.min():.2f}-{values.max():.2f}"
    return line


def foreign(rows) -> dict[str, float]:
    """Share of foreign anchors that find their partner, by test mask."""
    found = rows[(rows["metric"] == "partner_accuracy") & rows["variant"].str.startswith("anchor=foreign", na=False)]
    return {variant: round(value, 3) for variant, value in zip(found["variant"], found["value"])}
