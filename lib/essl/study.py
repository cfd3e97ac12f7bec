"""The cases of the chapter, from the settings ``essl``, and their tidy rows: each (case, seed) is a task of one thread.

What a case is follows from lists of transformations, methods and seeds. A training and the rows of its evaluation are
entries of the store (`lib.pipeline.store`), so that what is finished is not computed again.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from lib.essl import evaluation
from lib.essl.methods import METHODS
from lib.essl.training import initialized, train
from lib.pipeline import settings, store
from lib.pipeline import study as pipeline
from lib.pipeline.settings import Device, Essl, Invariant, Section

#: Columns of rows that say whose they are.
NAMED = ["run", "study", "method", "role", "transformation", "steps", "seed"]


class Case(Section):
    """What is trained: a method on random views, invariant or sensitive to one more set of transformations.

    augmentation: ``crop`` or ``full``, see `lib.essl.transformations.random_view`. invariant, sensitive: names of
    `lib.essl.transformations.SETS`, or "". random_labels: the control of sensitivity, see `lib.essl.objective.ESSL`.
    """

    name: str
    study: str
    method: Invariant
    role: Literal["baseline", "invariance", "sensitivity", "control", "longer"]
    augmentation: Literal["crop", "full"]
    invariant: str = ""
    sensitive: str = ""
    random_labels: bool = False
    steps: int
    seeds: tuple[int, ...]

    @property
    def transformation(self) -> str:
        return self.invariant or self.sensitive


def diagnosis(essl: Essl) -> list[Case]:
    """SimCLR on random crops, and with one more set: as invariance, as sensitivity, and the latter's control."""
    spec = essl.diagnosis
    common = {"study": "essl-diagnosis", "method": "simclr", "augmentation": "crop"} | _length(spec)
    cases = [Case(name="crop", role="baseline", **common)]
    for of in spec.transformations:
        cases.append(Case(name=f"{of}-invariance", role="invariance", invariant=of, **common))
        cases.append(Case(name=f"{of}-sensitivity", role="sensitivity", sensitive=of, **common))
        if of in spec.controls:
            cases.append(Case(name=f"{of}-control", role="control", sensitive=of, random_labels=True, **common))
    return cases


def methods(essl: Essl) -> list[Case]:
    """Each method with all augmentations: plain, E-, and plain for as long as E- takes."""
    spec, cases = essl.methods, []
    for method in spec.names:
        common = {"study": "essl-methods", "method": method, "augmentation": "full"} | _length(spec)
        cases.append(Case(name=f"plain-{method}", role="baseline", **common))
        cases.append(Case(name=f"e-{method}", role="sensitivity", sensitive=spec.sensitive, **common))
        if method in spec.longer:
            steps = round(spec.steps * cost_of_a_step(essl.recipe))
            cases.append(Case(name=f"longer-{method}", role="longer", **common | {"steps": steps}))
    return cases


def cases(essl: Essl) -> list[Case]:
    """All of the chapter; no two have one name, nor has any run of `runs`."""
    return diagnosis(essl) + methods(essl)


def budgets(cases: Sequence[Case], essl: Essl) -> pd.DataFrame:
    """What claims of matched trainings ask for: steps, images and seeds of each case by its name."""
    found = [(case.name, case.steps, case.steps * essl.recipe.batch, case.seeds) for case in cases]
    return pd.DataFrame(found, columns=["run", "steps", "images", "seeds"]).set_index("run")


def _length(spec) -> dict:
    return {"steps": spec.steps, "seeds": spec.seeds}


def cost_of_a_step(spec) -> float:
    """A step with the third view, in steps without it: pixels encoded, of two views or of these and all copies."""
    return 1 + spec.copies * spec.third_size**2 / (2 * spec.view_size**2)


def cost(case: Case, essl: Essl) -> float:
    """Roughly how long a training takes, in images of the size of its views."""
    return 2 * essl.recipe.batch * case.steps * (cost_of_a_step(essl.recipe) if case.sensitive else 1)


# ---- What a task depends on


def recipe(case: Case, seed: int, essl: Essl) -> dict:
    """All settings that the weights of a training depend on.  Raises ValueError if its method has no lambda."""
    unread = {"checkpoint_every", "sensitivity_weights"}
    unread |= set() if case.sensitive else {"classifier", "copies", "third_area", "third_size"}
    unread |= set() if case.invariant else {"probability"}
    weights, weight = essl.recipe.sensitivity_weights, {}
    if case.sensitive:
        if case.method not in weights:
            raise ValueError(f"essl.recipe.sensitivity_weights has no {case.method}; write its lambda there.")
        weight = {"sensitivity_weight": weights[case.method]}
    return {
        "essl": METHODS[case.method].version, "seed": seed,
        "case": case.model_dump(mode="json", exclude={"name", "study", "role", "seeds"}),
        "recipe": essl.recipe.model_dump(mode="json", exclude=unread), **weight,
    }  # fmt: skip


def recipe_of_rows(case: Case, seed: int, essl: Essl) -> dict:
    """All settings that the rows of a task depend on."""
    of_data = {"name", "train_images", "validation_images", "test_images", "data_seed"}
    return recipe(case, seed, essl) | {
        "evaluation": evaluation.VERSION, "evaluate": essl.evaluate.model_dump(mode="json"),
        "data": essl.model_dump(mode="json", include=of_data),
    }  # fmt: skip


def digest(images) -> str:
    """Of `lib.essl.data.Images`: sha256 over pixels, labels and splits."""
    found = hashlib.sha256()
    for part in (images.images, images.labels.astype("int64"), "\n".join(images.split).encode()):
        found.update(part)
    return found.hexdigest()


# ---- Computing


def rows_of(cases: Sequence[Case], images, essl: Essl) -> pd.DataFrame:
    """Train and evaluate what the store has not.

    Args:
        images: `lib.essl.data.Images`.

    Returns:
        Tidy rows: run, study, method, role, transformation, steps, seed and the columns of `evaluation.evaluate`;
        metric ``seconds``, of split train, is the processor's time of the training.
    """
    device, of_images = settings.load().device, digest(images)
    tasks = [(case, seed, images) for case in cases for seed in case.seeds]
    entries = pipeline.compute(
        "evaluations", tasks, [dependencies_of_rows(case, seed, of_images, essl) for case, seed, _ in tasks],
        partial(work, essl=essl, device=device), costs=[cost(case, essl) for case, *_ in tasks],
        units=[case.steps + 1 for case, *_ in tasks], unit="step", device=device,
    )  # fmt: skip
    return pd.concat([rows_in(entry, *task[:2]) for task, entry in zip(tasks, entries)], ignore_index=True)


def dependencies_of_rows(case: Case, seed: int, images: str, essl: Essl) -> dict:
    """What a task's rows in the store depend on: settings and images, these by their `digest`."""
    return recipe_of_rows(case, seed, essl) | {"images": images}


def rows_in(entry: Path, case: Case, seed: int) -> pd.DataFrame:
    """Rows of a task from its entry of the store, with the columns of `rows_of`."""
    own = {key: getattr(case, key) for key in ("study", "method", "role", "transformation", "steps")}
    rows = pd.read_csv(entry / "rows.csv").assign(run=case.name, seed=seed, **own)
    return rows[[*NAMED, *rows.columns.difference(NAMED, sort=False)]]


def work(
    case: Case, seed: int, images, name: str, dependencies: Mapping, report: Callable[[float], None], *, essl: Essl,
    device: Device,
) -> None:  # fmt: skip
    """One task, in this process: the training and the rows, as far as the store has them not.

    Args:
        name, dependencies: of the rows in the store. report: is told the steps done; the last is the evaluation.
    """
    if store.find("evaluations", name):
        return  # made by another process meanwhile
    torch.set_num_threads(1)
    place, spec = pipeline.place(device), essl.recipe
    seen = images.images[images.split == "train"]
    of = recipe(case, seed, essl) | {"images": hashlib.sha256(seen).hexdigest()}
    training = store.key(of)
    if not store.find("trainings", training):
        checkpoint = store.checkpoint(training)
        model, history = train(
            case, seed, torch.from_numpy(seen), spec, place=place, checkpoint=checkpoint, report=report
        )

        def write(folder: Path) -> None:
            weights = {key: value.contiguous().cpu() for key, value in model.state_dict().items()}
            save_file(weights, folder / "model.safetensors")
            pd.DataFrame(history).to_csv(folder / "history.csv", index=False)

        store.add("trainings", training, of, write)
        checkpoint.unlink(missing_ok=True)
    entry = store.find("trainings", training)
    model = initialized(case, seed, spec)
    model.load_state_dict(load_file(entry / "model.safetensors"))
    rows = evaluation.evaluate(model.to(place).eval(), images, case, spec, essl.evaluate)
    seconds = pd.read_csv(entry / "history.csv")["seconds"].iloc[-1]
    rows.loc[len(rows)] = ("train", "seconds", seconds, 0.0, len(seen))
    store.add("evaluations", name, dependencies, lambda folder: rows.to_csv(folder / "rows.csv", index=False))
    report(case.steps + 1)
