"""Trials of settings: one training of a run with changes, judged on validation objects, and a line in a log.

    python -m lib try "late ramp" contextssl 0 mask_ramp_start=0.82 steps=1500

Nothing here sees a test object: objects of the validation split are reported, and a tenth of the training objects
selects a probe's epoch. A setting becomes a default only if it wins over several seeds. The headline's target is in
lib/report/speedrun.py; notebook 20 shows what was tried against it.
"""

import subprocess
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib.data.views import Views
from lib.evaluation.evaluate import evaluate_run
from lib.method.pretrain import pretrain
from lib.people import adult, fairness
from lib.pipeline import settings, study
from lib.pipeline.benchmark import processor
from lib.report.results import PER_COMPONENT, select
from lib.report.speedrun import LOG


def held_out(views: Views) -> Views:
    """The same views with validation objects in the place of test objects, which are in no split any more."""
    split = np.array(views.split)
    train = np.flatnonzero(split == "train")
    split[split == "test"] = "unused"
    split[split == "validation"] = "test"
    split[train[::10]] = "validation"
    return replace(views, split=split)


def attempt(name: str, run_name: str, seed: int, **changes: object) -> dict[str, object]:
    """Train one seed of a run with flat changes, evaluate it on validation objects, and add a line to `LOG`."""
    params = settings.load()
    run = params.run(run_name, **changes)
    people = run.dataset == "adult"
    if people:
        views, _ = adult.views(adult.read(), adult.split())
    else:
        wanted = {
            "context_lengths": sorted({0, 14, 30, run.evaluate.context_lengths[-1]}), "embedding_tasks": ["individual"],
            "representation_tasks": ["individual", "classes"], "retrieval_objects": 0, "probes": ["paper"],
        }  # fmt: skip
        run = params.run(run_name, **(wanted | changes))
        views = study.views_of_study(run.study, [run])
        views = views if isinstance(views, Views) else views[run.dataset]
    from lightning_fabric import Fabric  # slow to import, and needed here alone

    torch.set_num_threads(1)
    place = study.place(params.device)
    fabric, start = Fabric(accelerator=place, devices=1, precision=run.precision), time.perf_counter()
    fabric.launch()
    with tqdm(total=run.pretrain.steps, unit="step", desc=name, mininterval=1) as bar:
        model, _ = pretrain(run, seed, views, fabric=fabric, report=lambda done: bar.update(done - bar.n))
    seconds = time.perf_counter() - start
    model = model.to(place)
    if people:
        outcomes = {"income": views.labels.numpy()}
        found = fairness.evaluate_fairness(model, views, run, seed, outcomes=outcomes, test="validation")
        measured = of_people(found)
    else:
        measured = measures(evaluate_run(model, held_out(views), run, seed))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    line = {
        "name": name, "run": run_name, "seed": seed, "changes": " ".join(f"{k}={v}" for k, v in changes.items()),
        "steps": run.pretrain.steps, "seconds": round(seconds), "processor": processor(place), "commit": commit,
        **measured,
    }  # fmt: skip
    log = [pd.read_csv(LOG)] if LOG.exists() else []
    pd.concat([*log, pd.DataFrame([line])], ignore_index=True).to_csv(LOG, index=False)
    return line


def of_people(rows: pd.DataFrame) -> dict[str, float]:
    """Income's AUC and what tells gender, by environment and length, as means over draws of the context."""
    told = rows[rows["metric"].isin(("income_auc", "gender_flipped", "gender_standardized"))]
    means = told.groupby(["environment", "context_length", "metric"])["value"].mean()
    return {".".join(map(str, at)): round(value, 3) for at, value in means.items()}


def measures(rows: pd.DataFrame) -> dict[str, float]:
    """Top-1 in [0, 1]; R² per component of individual latents at the representation and in each context, with its range
    over draws; and what foreign anchors find."""
    apart = select(rows, objects="parametric" if "parametric" in set(rows["objects"]) else "all")
    line = {"top1": select(apart, space="representation", metric="top1")["value"].iloc[0] / 100}
    latents = apart[apart["metric"].str.endswith(PER_COMPONENT) & (apart["target"] == "individual")]
    places = ["probe", "space", "environment", "context_length", "metric"]
    for (probe, space, environment, n, metric), values in latents.groupby(places, dropna=False)["value"]:
        # Without a context all kinds are one.
        where = space if space == "representation" else f"{environment}.{n}" if n else "0"
        key = f"{probe}.{where}.{metric.removeprefix('r2_').removesuffix(PER_COMPONENT)}"
        line[key] = round(values.mean(), 3)
        if len(values) > 1:
            line[f"{key} (range)"] = f"{values.min():.2f} to {values.max():.2f}"
    foreign = rows[rows["variant"].str.startswith("anchor=foreign", na=False) & (rows["metric"] == "partner_accuracy")]
    return line | {variant: round(value, 3) for variant, value in zip(foreign["variant"], foreign["value"])}
