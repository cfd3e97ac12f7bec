"""Who learns the density of states from how many labels: tasks of the settings ``photonics``, and their tidy rows.

Three rounds, each task on one thread, each result an entry of the store (`lib.pipeline.store`): labels, pretrained
encoders, and the errors of a method with some labels. A seed is a whole repetition: its own labeled and unlabeled
crystals, its own pretraining and fine-tuning; the crystals that select and those that are reported are common to all.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from lib.photonics import learn
from lib.photonics.crystals import contrast, crystals
from lib.photonics.dos import EMPTY, errors, labels
from lib.photonics.learn import Found, Labeled
from lib.pipeline import settings, store
from lib.pipeline import study as pipeline
from lib.pipeline.settings import Photonics, Section

#: Raised when a label, a training or a row comes out otherwise.
VERSION = 1
#: Crystals that one task labels.
CHUNK = 100
#: Method -> its pretraining ("" for none, "random" for weights as drawn) and what is done with labels.
METHODS = {
    "ridge-materials": ("", "materials"), "ridge": ("", "spectrum"), "scratch": ("", "fine-tuned"),
    "augmented": ("", "augmented"), "circular": ("", "circular"), "simclr": ("simclr", "fine-tuned"),
    "e-simclr": ("e-simclr", "fine-tuned"), "simclr-all": ("simclr-all", "fine-tuned"),
    "simclr-augmented": ("simclr", "augmented"),
    "e-simclr-augmented": ("e-simclr", "augmented"), "random-frozen": ("random", "frozen"),
    "simclr-frozen": ("simclr", "frozen"), "e-simclr-frozen": ("e-simclr", "frozen"),
    "simclr-all-frozen": ("simclr-all", "frozen"),
}  # fmt: skip
NAMES = {
    "ridge-materials": "kernel ridge: contrast, fill", "ridge": "kernel ridge: contrast, fill, spectrum",
    "scratch": "network from scratch", "augmented": "scratch, augmented by symmetries",
    "circular": "augmented, on a torus (circular padding)", "simclr": "SimCLR, fine-tuned",
    "e-simclr": "E-SimCLR, fine-tuned", "simclr-all": "SimCLR invariant to all, fine-tuned",
    "simclr-augmented": "SimCLR, then augmented", "e-simclr-augmented": "E-SimCLR, then augmented",
    "random-frozen": "random weights, frozen", "simclr-frozen": "SimCLR, frozen", "e-simclr-frozen": "E-SimCLR, frozen",
    "simclr-all-frozen": "SimCLR invariant to all, frozen",
}  # fmt: skip
FINE_TUNED = ("fine-tuned", "augmented", "circular")
#: Of the lower and higher contrast: half of all crystals are nearly empty lattices, and the others carry the error.
CONTRASTS = {"below 2": (1, 2), "above 2": (2, np.inf), "all": (1, np.inf)}
COLUMNS = ["contrast", "metric", "value", "floor", "crystals"]


class Case(Section):
    """A method that learns from some labeled crystals of a family; with 0 labels, the pretraining itself."""

    name: str
    study: str = "photonics"
    family: str
    method: str
    labels: int
    seeds: tuple[int, ...]


def cases(spec: Photonics) -> list[Case]:
    """All of the chapter: the pretrainings of each family, then its methods with the fewest labels to the most."""
    found, pretrainings = [], dict.fromkeys(METHODS[method][0] for method in spec.methods)
    for family in spec.families:
        common = {"family": family, "seeds": spec.seeds}
        for of in (of for of in pretrainings if of not in ("", "random")):
            found.append(Case(name=f"{family}-{of}-pretraining", method=of, labels=0, **common))
        for n in spec.training_labels:
            found += [Case(name=f"{family}-{of}-{n}", method=of, labels=n, **common) for of in spec.methods]
    return found


def cost(case: Case, spec: Photonics) -> float:
    """Roughly how long a case takes, in images that a network sees."""
    if case.labels == 0:
        return spec.pretrain.steps * spec.pretrain.batch * (6 if case.method == "e-simclr" else 2)
    trained = METHODS[case.method][1] in FINE_TUNED
    return spec.finetune.steps * spec.finetune.batch if trained else case.labels


# ---- What a result depends on


def _labels_recipe(family: str, split: str, seeds: Sequence[int], first: int, count: int, spec: Photonics) -> dict:
    return {
        "photonics": VERSION, "labels": spec.labels.model_dump(mode="json"), "size": spec.size, "family": family,
        "split": split, "seeds": list(seeds), "first": first, "count": count,
    }  # fmt: skip


def _pretraining_recipe(family: str, pretraining: str, seed: int, spec: Photonics) -> dict:
    unread = set() if pretraining == "e-simclr" else {"classifier", "sensitivity_weight"}
    return {
        "photonics": VERSION, "pretraining": pretraining, "family": family, "seed": seed, "size": spec.size,
        "data_seed": spec.data_seed, "unlabeled": spec.unlabeled, "tested": spec.test_labels,
        "network": spec.network.model_dump(mode="json", exclude={"head"}),
        "pretrain": spec.pretrain.model_dump(mode="json", exclude=unread),
    }  # fmt: skip


def recipe_of_rows(case: Case, seed: int, spec: Photonics) -> dict:
    """All settings that the rows of a case and seed depend on."""
    if case.labels == 0:
        return _pretraining_recipe(case.family, case.method, seed, spec)
    pretraining, use = METHODS[case.method]
    read = {"materials": ("ridge",), "spectrum": ("ridge",), "frozen": ("ridge", "network")}
    sections = read.get(use, ("network", "finetune"))
    return {
        "photonics": VERSION, "use": use, "weights": pretraining, "validation": spec.validation_labels,
        "test": spec.test_labels,
        "of": _labels_recipe(case.family, "train", (spec.data_seed, seed), 0, case.labels, spec),
        **{name: getattr(spec, name).model_dump(mode="json") for name in sections},
        "after": _pretraining_recipe(case.family, pretraining, seed, spec) if _is_trained(pretraining) else None,
    }  # fmt: skip


def _is_trained(pretraining: str) -> bool:
    return pretraining not in ("", "random")


# ---- Computing


def labeled(family: str, split: str, count: int, seeds: Sequence[int], spec: Photonics) -> Labeled:
    """Crystals 0 to count - 1 of a split with their labels, which are computed if the store has them not.

    Args:
        seeds: of `lib.photonics.crystals.crystals`.
    """
    parts = [(first, min(CHUNK, count - first)) for first in range(0, count, CHUNK)]
    tasks = [(family, split, seeds, first, size) for first, size in parts]
    device, sizes = settings.load().device, [size for _, size in parts]
    entries = pipeline.compute(
        "densities", tasks, [_labels_recipe(*task, spec) for task in tasks], partial(_label, spec=spec),
        costs=sizes, units=sizes, unit="crystal", device=device,
    )  # fmt: skip
    permittivity = crystals(family, split, range(count), spec.size, *seeds)
    return Labeled(permittivity, np.concatenate([np.load(entry / "density.npy") for entry in entries]))


def _label(
    family: str, split: str, seeds: Sequence[int], first: int, count: int, name: str, dependencies: Mapping,
    report: Callable[[float], None], *, spec: Photonics,
) -> None:  # fmt: skip
    if store.find("densities", name):
        return  # made by another process meanwhile
    found = labels(crystals(family, split, range(first, first + count), spec.size, *seeds), spec.labels)
    store.add("densities", name, dependencies, lambda folder: np.save(folder / "density.npy", found))
    report(count)


def rows_of(spec: Photonics) -> pd.DataFrame:
    """Label, pretrain and train what the store has not.

    Returns:
        Tidy rows: run, study, family, method, labels, seed, contrast, metric, value, floor (the empty lattice) and
        crystals (tested). Errors in percent: ``error`` as validation selects, ``error_last`` after the last step,
        ``error_least`` the least of the test crystals themselves, which is what was published. With 0 labels, of a
        pretraining: ``seconds`` of a processor, and for E-SimCLR ``pretext``, the percentage of the test crystals whose
        transformation is told.
    """
    every, most = cases(spec), max(spec.training_labels)
    splits = {}
    for family in spec.families:
        common = [
            labeled(family, split, count, (spec.data_seed,), spec)
            for split, count in (("validation", spec.validation_labels), ("test", spec.test_labels))
        ]
        for seed in spec.seeds:
            splits[family, seed] = labeled(family, "train", most, (spec.data_seed, seed), spec), *common
    alone = [(case, seed) for case in every if case.labels == 0 for seed in spec.seeds]
    after = [(case, seed, splits[case.family, seed]) for case in every if case.labels for seed in spec.seeds]
    frames = []
    for kind, tasks, work, steps in (
        ("trainings", alone, _pretrain, spec.pretrain.steps), ("evaluations", after, _learn, spec.finetune.steps),
    ):  # fmt: skip
        entries = pipeline.compute(
            kind, tasks, [recipe_of_rows(case, seed, spec) for case, seed, *_ in tasks], partial(work, spec=spec),
            costs=[cost(case, spec) for case, *_ in tasks], units=[steps] * len(tasks), unit="step",
            device=settings.load().device,
        )  # fmt: skip
        for (case, seed, *_), entry in zip(tasks, entries):
            own = case.model_dump(include={"study", "family", "method", "labels"})
            frames.append(pd.read_csv(entry / "rows.csv").assign(run=case.name, seed=seed, **own))
    columns = ["run", "study", "family", "method", "labels", "seed", *COLUMNS]
    return pd.concat(frames, ignore_index=True)[columns]


def _pretrain(
    case: Case, seed: int, name: str, dependencies: Mapping, report: Callable[[float], None], *, spec: Photonics
) -> None:  # fmt: skip
    if store.find("trainings", name):
        return
    torch.set_num_threads(1)
    begin, scale = process_time(), spec.network.input
    unlabeled = crystals(case.family, "unlabeled", range(spec.unlabeled), spec.size, spec.data_seed, seed)
    images = learn.network_input(unlabeled, scale)
    f, p2, history = learn.pretrain(case.method, case.family, images, spec, seed, report)
    rows = [("all", "seconds", process_time() - begin, None, spec.unlabeled)]
    if case.method == "e-simclr":
        unseen = crystals(case.family, "test", range(spec.test_labels), spec.size, spec.data_seed)
        accuracy = learn.pretext_accuracy(f, p2, case.family, learn.network_input(unseen, scale))
        rows.append(("all", "pretext", accuracy, 25.0, spec.test_labels))

    def write(folder: Path) -> None:
        save_file({key: value.contiguous() for key, value in f.state_dict().items()}, folder / "encoder.safetensors")
        pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
        pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "rows.csv", index=False)

    store.add("trainings", name, dependencies, write)


def _learn(
    case: Case, seed: int, splits: Sequence[Labeled], name: str, dependencies: Mapping,
    report: Callable[[float], None], *, spec: Photonics,
) -> None:  # fmt: skip
    if store.find("evaluations", name):
        return
    torch.set_num_threads(1)
    train, selecting, test = splits
    splits = Labeled(train.permittivity[: case.labels], train.density[: case.labels]), selecting, test
    pretraining, use = METHODS[case.method]
    network = spec.network.model_copy(update={"padding": "circular"}) if use == "circular" else spec.network
    f = learn.new_encoder(network, seed)
    if _is_trained(pretraining):
        entry = store.find("trainings", store.key(_pretraining_recipe(case.family, pretraining, seed, spec)))
        f.load_state_dict(load_file(entry / "encoder.safetensors"))
    if use in FINE_TUNED:
        found = learn.fine_tune(f, use != "fine-tuned", splits, spec, seed, report)
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
    """Means over the test crystals of each contrast, in the columns `COLUMNS`."""
    contrasts, empty, rows = contrast(test.permittivity), errors(EMPTY[None], test.density), []
    for name, (low, high) in CONTRASTS.items():
        inside = (contrasts >= low) & (contrasts < high)
        for metric, of in zip(("error", "error_last", "error_least"), found):
            rows.append((name, metric, of[inside].mean(), empty[inside].mean(), inside.sum()))
    return pd.DataFrame(rows, columns=COLUMNS)
