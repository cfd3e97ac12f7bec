"""Trains and evaluates a study: every (run, seed) is a task of one thread, and tasks go over all cores.

One thread in each of several processes does more work than several threads in one, and the order of its sums does not
depend on how many run at once: any number of jobs gives the same bytes. What the store has is not computed again.
"""

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib.data.views import Views, load_views
from lib.method.methods import METHODS
from lib.method.pretrain import load_model, pretrain, save_model
from lib.pipeline import settings, store
from lib.pipeline.settings import Device, Run


class Trained(NamedTuple):
    """A trained model of a run: its seed and its weights."""

    run: Run
    seed: int
    weights: Path


class Progress:
    """How far each task is, in a file that all processes see."""

    def __init__(self, path: Path, tasks: int) -> None:
        self.path, self.tasks, self.parent = path, tasks, os.getpid()
        self.done = np.memmap(path, np.float64, "w+", shape=(tasks,))

    def reporter(self, slot: int) -> Callable[[float], None]:
        """A picklable function that a task calls with the units done so far."""
        return partial(_report, str(self.path), self.tasks, slot, self.parent)


def _report(path: str, tasks: int, slot: int, parent: int, done: float) -> None:
    if parent not in (os.getpid(), os.getppid()):
        os._exit(1)  # the study was killed: nobody waits for this task, and an exception would not end its process
    np.memmap(path, np.float64, "r+", shape=(tasks,))[slot] = done


def train(runs: Sequence[Run], views: Views | Mapping[str, Views]) -> tuple[list[Trained], pd.DataFrame]:
    """Train every seed of every run, or take it from the store; interrupted trainings resume.

    Args:
        runs: resolved. views: what they see, or for several datasets one for each name in `Run.dataset`.

    Returns:
        The models in the order of runs and seeds, and their histories: run, seed, step and the mean of each loss since
        the row before.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    device = settings.load().device
    tasks = [(run, seed, _views_of(run, views)) for run in runs for seed in run.seeds]
    entries = compute(
        "trainings", tasks, [training_dependencies(*task, device.devices) for task in tasks],
        partial(_train, device=device), costs=[cost(run) for run, _, _ in tasks],
        units=[run.pretrain.steps for run, _, _ in tasks], unit="step", device=device,
    )  # fmt: skip
    trained = [Trained(run, seed, entry / "model.safetensors") for (run, seed, _), entry in zip(tasks, entries)]
    histories = [
        pd.read_csv(entry / "history.csv").assign(run=run.name, seed=seed)
        for (run, seed, _), entry in zip(tasks, entries)
    ]
    return trained, pd.concat(histories, ignore_index=True)


def evaluate(
    trained: Sequence[Trained], views: Views | Mapping[str, Views], function: Callable, dependencies: Mapping
) -> tuple[pd.DataFrame, dict[tuple[str, int], Path]]:
    """Evaluate trained models, or take their rows from the store.

    Args:
        trained: of `train`, or the same weights elsewhere. views: as for `train`.
        function: ``function(model, views, run, seed, report)`` returns a frame of tidy rows, or that and a mapping of
            arrays; it may tell ``report`` the share that is done. Picklable.
        dependencies: what the rows depend on beside model, views and run: the name of the evaluation, its version.

    Returns:
        All rows, and for models with arrays the .npz file that holds them, by run and seed.
    """
    device = settings.load().device
    tasks = [(run, seed, _views_of(run, views), weights) for run, seed, weights in trained]
    entries = compute(
        "evaluations", tasks, [evaluation_dependencies(*task) | dict(dependencies) for task in tasks],
        partial(_evaluate, function=function, device=device), costs=[cost(run) for run, *_ in tasks],
        units=[1] * len(tasks), unit="model", device=device,
    )  # fmt: skip
    rows = [pd.read_csv(entry / "rows.csv", dtype={"context_length": "Int64"}) for entry in entries]
    arrays = {(task[0].name, task[1]): entry / "arrays.npz" for task, entry in zip(tasks, entries)}
    return pd.concat(rows, ignore_index=True), {at: path for at, path in arrays.items() if path.is_file()}


def training_dependencies(run: Run, seed: int, views: Views, devices: int = 1) -> dict:
    """Everything that the weights of a training depend on; its key in the store.

    Each of several devices draws a batch of its own, so their number counts.
    """
    method = METHODS[run.method]
    sections = run.model_dump(mode="json", include=set(method.reads), exclude={"pretrain": {"checkpoint_every"}})
    return {
        "method": run.method, "version": method.version, "groups": list(run.groups), "seed": seed,
        "precision": run.precision, "views": views.digest, **sections, **({"devices": devices} if devices > 1 else {}),
    }  # fmt: skip


def evaluation_dependencies(run: Run, seed: int, views: Views, weights: Path) -> dict:
    """What any evaluation depends on: the weights themselves, the views, and the run as its rows name it."""
    left_out = {"seeds": True, "study": True, "sections": True, "pretrain": {"checkpoint_every"}}
    return {
        "weights": hashlib.sha256(Path(weights).read_bytes()).hexdigest(), "views": views.digest, "seed": seed,
        "run": run.model_dump(mode="json", exclude=left_out),
    }  # fmt: skip


def views_of_study(name: str, runs: Sequence[Run]) -> Views | dict[str, Views]:
    """The prepared views of a study: its folder of build/data, or that folder's one for each dataset of its runs."""
    folder = Path("build/data") / settings.load().studies[name]
    if (folder / "views.npz").exists() or not folder.is_dir():
        return load_views(folder)
    return {dataset: load_views(folder / dataset) for dataset in dict.fromkeys(run.dataset for run in runs)}


def train_one(name: str, seed: int) -> None:
    """Train one seed of a run into the store, on the devices of params.yaml or of torchrun on one machine.

    A cluster fills the store so, and `dvc repro` then finds what it needs.
    """
    params = settings.load()
    run = params.run(name)
    if run.study not in params.studies:
        raise ValueError(f"The study {run.study} of run {name} is trained by its notebook: `dvc repro {run.study}`.")
    views = _views_of(run, views_of_study(run.study, [run]))
    device = params.device
    if "TORCHELASTIC_RUN_ID" in os.environ:  # the processes are there already
        device = device.model_copy(update={"strategy": "auto", "devices": int(os.environ["LOCAL_WORLD_SIZE"])})
    with tqdm(total=run.pretrain.steps, unit="step", desc=f"{name}, seed {seed}", mininterval=1) as bar:
        entry = training(run, seed, views, device, lambda done: bar.update(done - bar.n))
    print(f"{name}, seed {seed}: in the store as {entry.name}")


def training(run: Run, seed: int, views: Views, device: Device, report: Callable[[float], None]) -> Path:
    """The store's entry of a training, which is made in this process if it is not there; `report` is told the steps."""
    dependencies = training_dependencies(run, seed, views, device.devices)
    name = store.key(dependencies)
    _train(run, seed, views, name, dependencies, report, device)
    return store.folder() / "trainings" / name


def evaluation(
    run: Run, seed: int, views: Views, weights: Path, function: Callable, dependencies: Mapping, device: Device,
    report: Callable[[float], None],
) -> Path:  # fmt: skip
    """The same of an evaluation; `function` and `dependencies` as of `evaluate`, `report` is told the share done."""
    of = evaluation_dependencies(run, seed, views, weights) | dict(dependencies)
    name = store.key(of)
    _evaluate(run, seed, views, weights, name, of, report, function, device)
    return store.folder() / "evaluations" / name


def _views_of(run: Run, views: Views | Mapping[str, Views]) -> Views:
    return views if isinstance(views, Views) else views[run.dataset]


def jobs(device: Device, tasks: int) -> int:
    """How many tasks run at once: all cores of a processor, or one where there is an accelerator of its own."""
    if device.devices > 1:
        return 1
    if device.jobs != "auto":
        return min(device.jobs, tasks)
    on_cpu = device.accelerator == "cpu" or (device.accelerator == "auto" and not torch.cuda.is_available())
    return min(joblib.cpu_count() if on_cpu else 1, tasks)


def compute(
    kind: str, tasks: Sequence[tuple], dependencies: Sequence[Mapping], work: Callable, costs: Sequence[float],
    units: Sequence[int], unit: str, device: Device,
) -> list[Path]:  # fmt: skip
    """Entries of the store for all tasks; those that are missing are computed side by side, the longest first.

    Args:
        kind: of the entries. tasks: arguments of `work`, which goes on with the entry's name, its dependencies and a
            function to report the units done, and adds the entry.
        dependencies, costs, units: of each task; a cost is a time in any unit, the units are those of the bar.
    """
    names = [store.key(of) for of in dependencies]
    missing = {name: i for i, name in enumerate(names) if not store.find(kind, name)}
    order = sorted(missing.values(), key=lambda i: -costs[i])
    if order:
        count = jobs(device, len(order))
        with tempfile.TemporaryDirectory() as scratch:
            progress = Progress(Path(scratch) / "progress", len(order))
            calls = [
                joblib.delayed(work)(*tasks[i], names[i], dependencies[i], progress.reporter(slot))
                for slot, i in enumerate(order)
            ]
            with Bar(progress, [units[i] for i in order], unit, f"{kind}, {len(order)} of {len(tasks)} new"):
                joblib.Parallel(n_jobs=count, mmap_mode="c", batch_size=1, pre_dispatch="all")(calls)
    return [store.find(kind, name) for name in names]


def place(device: Device) -> str:
    """Where one process computes: cuda, mps or cpu."""
    gpu = torch.cuda.is_available() and device.accelerator in ("auto", "cuda")
    return "cuda" if gpu else "mps" if device.accelerator == "mps" else "cpu"


def cost(run: Run) -> float:
    """Roughly how long a training takes: images, and as much again for the tokens of contexts."""
    tokens = run.pretrain.contexts_per_step * run.model.block_size if "context" in METHODS[run.method].reads else 0
    return run.images + run.pretrain.steps * tokens


class Bar:
    """One live line for all tasks, drawn by a thread of its own."""

    def __init__(self, progress: Progress, units: Sequence[int], unit: str, label: str) -> None:
        self.progress, self.units, self.stop = progress, np.array(units, float), threading.Event()
        self.bar = tqdm(total=sum(units), unit=unit, desc=label, mininterval=1, smoothing=0.05)
        self.thread = threading.Thread(target=self._draw, daemon=True)

    def _draw(self) -> None:
        while not self.stop.wait(0.5):
            self._update()

    def _update(self) -> None:
        done = np.array(self.progress.done)
        self.bar.set_postfix_str(f"{int((done >= self.units).sum())} of {len(done)} tasks done", refresh=False)
        self.bar.update(round(done.sum(), 2) - self.bar.n)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self._update()
        self.bar.close()


def _train(
    run: Run,
    seed: int,
    views: Views,
    name: str,
    dependencies: Mapping,
    report: Callable[[float], None],
    device: Device,
) -> None:
    if store.find("trainings", name):
        return  # made by another process meanwhile
    from lightning_fabric import Fabric  # slow to import, and needed here alone

    torch.set_num_threads(1)
    fabric = Fabric(
        accelerator=device.accelerator, devices=device.devices, strategy=device.strategy, precision=run.precision
    )
    fabric.launch(_train_on, run, seed, views, name, dependencies, report)


def _train_on(fabric, run: Run, seed: int, views: Views, name: str, dependencies: Mapping, report: Callable) -> None:
    checkpoint = store.checkpoint(name)
    model, history = pretrain(
        run, seed, views, fabric=fabric, checkpoint=checkpoint, report=report, label=f"{run.name}, seed {seed}"
    )

    def write(folder: Path) -> None:
        save_model(model, folder / "model.safetensors")
        pd.DataFrame(history).to_csv(folder / "history.csv", index=False)

    if fabric.global_rank == 0:
        store.add("trainings", name, dependencies, write)
        checkpoint.unlink(missing_ok=True)


def _evaluate(
    run: Run,
    seed: int,
    views: Views,
    weights: Path,
    name: str,
    dependencies: Mapping,
    report: Callable[[float], None],
    function: Callable,
    device: Device,
) -> None:
    if store.find("evaluations", name):
        return
    torch.set_num_threads(1)
    found = function(load_model(weights, run, views).to(place(device)), views, run, seed, report)
    rows, arrays = found if isinstance(found, tuple) else (found, {})

    def write(folder: Path) -> None:
        rows.to_csv(folder / "rows.csv", index=False)
        if arrays:
            np.savez(folder / "arrays.npz", **arrays)

    store.add("evaluations", name, dependencies, write)
    report(1)
