"""Who learns the density of states from how many labels: tasks of the settings ``photonics``, and their tidy rows.

Three rounds, each task on one thread, each result an entry of the store (`lib.pipeline.store`): labels, pretrained
encoders, and the errors of a method with some labels. A seed is a whole repetition: its own labeled and unlabeled
crystals, its own pretraining and fine-tuning; the crystals that select and those that are reported are common to all.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import process_time
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from scipy import stats

from lib.photonics import dos, learn
from lib.photonics.crystals import contrast, crystals
from lib.photonics.learn import Found, Labeled
from lib.pipeline import settings, store
from lib.pipeline import study as pipeline

#: Raised when a label, a training or a row comes out otherwise.
VERSION = 1
#: Crystals that one task labels.
CHUNK = 100
#: Method -> its pretraining ("" for none, "random" for weights as drawn) and what is done with labels.
METHODS = {
    "ridge-materials": ("", "materials"), "ridge": ("", "spectrum"), "scratch": ("", "fine-tuned"),
    "augmented": ("", "augmented"), "simclr": ("simclr", "fine-tuned"), "e-simclr": ("e-simclr", "fine-tuned"),
    "simclr-all": ("simclr-all", "fine-tuned"), "simclr-augmented": ("simclr", "augmented"),
    "e-simclr-augmented": ("e-simclr", "augmented"), "random-frozen": ("random", "frozen"),
    "simclr-frozen": ("simclr", "frozen"), "e-simclr-frozen": ("e-simclr", "frozen"),
    "simclr-all-frozen": ("simclr-all", "frozen"),
}  # fmt: skip
NAMES = {
    "ridge-materials": "kernel ridge: contrast, fill", "ridge": "kernel ridge: contrast, fill, spectrum",
    "scratch": "network from scratch", "augmented": "scratch, augmented by symmetries", "simclr": "SimCLR, fine-tuned",
    "e-simclr": "E-SimCLR, fine-tuned", "simclr-all": "SimCLR invariant to all, fine-tuned",
    "simclr-augmented": "SimCLR, then augmented", "e-simclr-augmented": "E-SimCLR, then augmented",
    "random-frozen": "random weights, frozen", "simclr-frozen": "SimCLR, frozen", "e-simclr-frozen": "E-SimCLR, frozen",
    "simclr-all-frozen": "SimCLR invariant to all, frozen",
}  # fmt: skip
#: Of the lower and higher contrast: half of all crystals are nearly empty lattices, and the others carry the error.
CONTRASTS = {"below 2": (1, 2), "above 2": (2, np.inf), "all": (1, np.inf)}


class Task(NamedTuple):
    """Training crystals, 0 where no label is seen, of which a method learns in one seed."""

    family: str
    method: str
    labels: int
    seed: int


# ---- What a result depends on


def _labels_recipe(family: str, split: str, seeds: Sequence[int], first: int, count: int, spec) -> dict:
    return {
        "photonics": VERSION, "labels": spec.labels.model_dump(mode="json"), "size": spec.size, "family": family,
        "split": split, "seeds": list(seeds), "first": first, "count": count,
    }  # fmt: skip


def _pretraining_recipe(task: Task, spec) -> dict:
    return {
        "photonics": VERSION, "pretraining": METHODS[task.method][0], "family": task.family, "seed": task.seed,
        "size": spec.size, "data_seed": spec.data_seed, "unlabeled": spec.unlabeled,
        "network": spec.network.model_dump(mode="json", exclude={"head"}),
        "pretrain": spec.pretrain.model_dump(mode="json"),
    }  # fmt: skip


def recipe(task: Task, spec) -> dict:
    """All settings that a task's rows depend on."""
    pretraining, use = METHODS[task.method]
    read = {"materials": ("ridge",), "spectrum": ("ridge",), "frozen": ("ridge", "network")}
    sections = read.get(use, ("network", "finetune"))
    return {
        **(_pretraining_recipe(task, spec) if pretraining else {"family": task.family, "seed": task.seed}),
        "rows": VERSION, "use": use, "n": task.labels, "validation": spec.validation_labels, "test": spec.test_labels,
        "of": _labels_recipe(task.family, "train", (spec.data_seed, task.seed), 0, task.labels, spec),
        **{name: getattr(spec, name).model_dump(mode="json") for name in sections},
    }  # fmt: skip


# ---- Computing


def labeled(family: str, split: str, count: int, seeds: Sequence[int], spec) -> Labeled:
    """Crystals 0 to count - 1 of a split with their labels, which are computed if the store has them not."""
    parts = [(first, min(CHUNK, count - first)) for first in range(0, count, CHUNK)]
    tasks = [(family, split, seeds, first, size) for first, size in parts]
    device = settings.load().device
    entries = pipeline.compute(
        "densities", tasks, [_labels_recipe(*task, spec) for task in tasks], partial(_label, spec=spec),
        costs=[size for _, size in parts], units=[size for _, size in parts], unit="crystal", device=device,
    )  # fmt: skip
    permittivity = crystals(family, split, range(count), spec.size, *seeds)
    return Labeled(permittivity, np.concatenate([np.load(entry / "density.npy") for entry in entries]))


def _label(
    family: str, split: str, seeds: Sequence[int], first: int, count: int, name: str, dependencies: Mapping,
    report: Callable[[float], None], *, spec,
) -> None:  # fmt: skip
    if store.find("densities", name):
        return  # made by another process meanwhile
    found = dos.labels(crystals(family, split, range(first, first + count), spec.size, *seeds), spec.labels)
    store.add("densities", name, dependencies, lambda folder: np.save(folder / "density.npy", found))
    report(count)


def rows_of(spec) -> pd.DataFrame:
    """Label, pretrain and train what the store has not.

    Args:
        spec: the settings ``photonics``.

    Returns:
        Tidy rows: family, method, labels, seed, contrast, metric, value, floor (the empty lattice), crystals (tested).
        Errors in percent: ``error`` as validation selects, ``error_last`` after the last step, ``error_least`` the
        least of the test crystals themselves, which is what was published. With 0 labels, of a pretraining:
        ``pretext``, of unseen crystals the percentage whose transformation is told, and ``seconds`` of a processor.
    """
    device = settings.load().device
    test = {of: labeled(of, "test", spec.test_labels, (spec.data_seed,), spec) for of in spec.families}
    selecting = {of: labeled(of, "validation", spec.validation_labels, (spec.data_seed,), spec) for of in spec.families}
    most = max(spec.training_labels)
    training = {
        (of, seed): labeled(of, "train", most, (spec.data_seed, seed), spec)
        for of in spec.families
        for seed in spec.seeds
    }
    tasks = [
        Task(family, method, labels, seed)
        for seed in spec.seeds
        for family in spec.families
        for method in spec.methods
        for labels in spec.training_labels
    ]
    once = {store.key(_pretraining_recipe(task, spec)): task for task in tasks if METHODS[task.method][0]}
    once = [(task._replace(labels=0),) for task in once.values()]
    pretrained = pipeline.compute(
        "trainings", once, [_pretraining_recipe(task, spec) for (task,) in once], partial(_pretrain, spec=spec),
        costs=[1 + 2 * (METHODS[task.method][0] == "e-simclr") for (task,) in once],
        units=[spec.pretrain.steps] * len(once), unit="step", device=device,
    )  # fmt: skip
    entries = pipeline.compute(
        "evaluations",
        [(of, (training[of.family, of.seed], selecting[of.family], test[of.family])) for of in tasks],
        [recipe(task, spec) for task in tasks], partial(_learn, spec=spec), costs=[task.labels for task in tasks],
        units=[spec.finetune.steps] * len(tasks), unit="step", device=device,
    )  # fmt: skip
    frames = [
        pd.read_csv(entry / "rows.csv").assign(**task._asdict())
        for task, entry in [*zip((task for (task,) in once), pretrained), *zip(tasks, entries)]
    ]
    columns = [*Task._fields, "contrast", "metric", "value", "floor", "crystals"]
    rows = pd.concat(frames, ignore_index=True)[columns]
    return rows.assign(method=rows["method"].where(rows["labels"] > 0, rows["method"].map(lambda of: METHODS[of][0])))


def _pretrain(task: Task, name: str, dependencies: Mapping, report: Callable[[float], None], *, spec) -> None:
    if store.find("trainings", name):
        return
    torch.set_num_threads(1)
    begin, pretraining = process_time(), METHODS[task.method][0]
    unlabeled = crystals(task.family, "unlabeled", range(spec.unlabeled), spec.size, spec.data_seed, task.seed)
    images = learn.network_input(unlabeled, spec.network.input)
    f, p2, history = learn.pretrain(pretraining, task.family, images, spec, task.seed, report)
    rows = [("seconds", process_time() - begin, np.nan, spec.unlabeled)]
    if pretraining == "e-simclr":
        unseen = crystals(task.family, "test", range(spec.test_labels), spec.size, spec.data_seed)
        accuracy = learn.pretext_accuracy(f, p2, task.family, learn.network_input(unseen, spec.network.input))
        rows.append(("pretext", accuracy, 25.0, spec.test_labels))

    def write(folder: Path) -> None:
        save_file({key: value.contiguous() for key, value in f.state_dict().items()}, folder / "encoder.safetensors")
        pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
        frame = pd.DataFrame(rows, columns=["metric", "value", "floor", "crystals"])
        frame.assign(contrast="all").to_csv(folder / "rows.csv", index=False)

    store.add("trainings", name, dependencies, write)


def _learn(
    task: Task, splits: Sequence[Labeled], name: str, dependencies: Mapping, report: Callable[[float], None], *, spec
) -> None:  # fmt: skip
    if store.find("evaluations", name):
        return
    torch.set_num_threads(1)
    train, selecting, test = splits
    splits = Labeled(train.permittivity[: task.labels], train.density[: task.labels]), selecting, test
    pretraining, use = METHODS[task.method]
    f = learn.new_encoder(spec.network, task.seed)
    if pretraining not in ("", "random"):
        entry = store.find("trainings", store.key(_pretraining_recipe(task, spec)))
        f.load_state_dict(load_file(entry / "encoder.safetensors"))
    if use in ("fine-tuned", "augmented"):
        found = learn.fine_tune(f, use == "augmented", splits, spec, task.seed, report)
    else:
        spectra = [partial(learn.spectrum, most=most) for most in spec.ridge.orders]
        choices = {
            "materials": [learn.materials], "frozen": [partial(learn.frozen, f, spec=spec.network)],
            "spectrum": [lambda of, more=more: np.hstack([learn.materials(of), more(of)]) for more in spectra],
        }  # fmt: skip
        found = learn.kernel_ridge(choices[use], splits, spec.ridge)
    rows = errors_by_contrast(found, test)
    store.add("evaluations", name, dependencies, lambda folder: rows.to_csv(folder / "rows.csv", index=False))
    report(spec.finetune.steps)


def errors_by_contrast(found: Found, test: Labeled) -> pd.DataFrame:
    """Rows of contrast, metric, value, floor and crystals of the errors of test crystals."""
    contrasts, empty, rows = contrast(test.permittivity), dos.errors(dos.EMPTY[None], test.density), []
    for name, (low, high) in CONTRASTS.items():
        inside = (contrasts >= low) & (contrasts < high)
        for metric, errors in zip(("error", "error_last", "error_least"), found):
            rows.append((name, metric, errors[inside].mean(), empty[inside].mean(), inside.sum()))
    return pd.DataFrame(rows, columns=["contrast", "metric", "value", "floor", "crystals"])


# ---- Verdicts


def verdicts(rows: pd.DataFrame, method: str, rivals: Sequence[str], at_least: float = 0.95) -> pd.DataFrame:
    """Is a method better than its rivals? A line for each family, number of labels and rival.

    Both have the same labels in a seed, so errors are compared seed by seed: the difference in percentage points, its
    mean and Student's interval over seeds. ``better`` or ``worse`` where the whole interval is on one side of 0.

    Args:
        rows: of `rows_of`. at_least: coverage of the interval.
    """
    rows = rows[(rows["metric"] == "error") & (rows["contrast"] == "all")]
    table = rows.pivot(index=["family", "labels", "seed"], columns="method", values="value")
    mean = table.groupby(["family", "seed"]).mean().assign(labels="mean of all").set_index("labels", append=True)
    table = pd.concat([table, mean.reorder_levels(table.index.names)])
    lines = []
    for (family, labels), part in table.groupby(["family", "labels"], sort=False):
        for rival in (of for of in rivals if of in part):
            difference = (part[method] - part[rival]).dropna()
            n, low, high = len(difference), -np.inf, np.inf
            if n > 1:
                reach = stats.t.ppf((1 + at_least) / 2, n - 1) * difference.std() / np.sqrt(n)
                low, high = difference.mean() - reach, difference.mean() + reach
            word = "better" if high < 0 else "worse" if low > 0 else f"not told apart at n = {n}"
            lines.append({
                "family": family, "labels": labels, "method": method, "rival": rival,
                "difference": difference.mean(), "low": low, "high": high, "n": n, "verdict": word,
            })  # fmt: skip
    return pd.DataFrame(lines)
