"""The whole evidence: every run and seed of profiles/full.yaml, resumable over days and machines.

    python -m lib full [minutes]        # what is missing; writes results/full/

A task is one run with one seed: it is trained and evaluated, or taken from the store, and its rows are written at once
into results/full/rows/, which is in git. Beside them stands the key of the task's recipe: settings, seed, versions of
method and evaluation, the pinned data. Nothing that was computed counts, since the last bits of a rendered image differ
between processors. So rows that another machine has made are not made again, though their model is gone; those of a
recipe that the profile no longer has are removed. At the end the notebooks of the sections make their tables, figures
and verdicts of these rows, in a workspace of their own (build/full) that has the profile as its params.yaml.
"""

import contextlib
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import time
from typing import NamedTuple

import joblib
import pandas as pd
import papermill
import torch
from ruamel.yaml import YAML

from lib.data import augment
from lib.data.threediebench import import_3diebench
from lib.data.views import load_views, save_views
from lib.essl import bridge
from lib.essl import study as essl
from lib.essl.data import Images
from lib.essl.data import load as load_images
from lib.evaluation.evaluate import DEPENDENCIES, VERSION, evaluate_and_find_neighbors
from lib.method.methods import METHODS
from lib.miniature.dataset import render_miniature
from lib.people import fairness
from lib.photonics import study as photonics
from lib.pipeline import run as notebooks
from lib.pipeline import settings, store, study
from lib.pipeline.benchmark import processor
from lib.pipeline.essl_photographs import OUT as PHOTOGRAPHS
from lib.pipeline.settings import DATASETS, PEOPLE, Params, Run
from lib.report.plotting import markdown
from lib.report.speedrun import LOG

PROFILE, WORKSPACE = Path("profiles/full.yaml"), Path("build/full")
OUT = Path("results/full")
ROWS = OUT / "rows"
#: Studies that their own notebook trains, evaluates and shows.
BY_NOTEBOOK = dict(zip(PEOPLE, ("31_adult", "32_mimic"))) | {"photonics": "43_photonics"}
#: Studies whose notebook takes its rows from the store.
FROM_STORE = {"essl-diagnosis": "41_diagnosis", "essl-methods": "42_essl_methods", "bridge": "44_bridge"}
SECTIONS = (
    "10_main_results", "11_masking", "12_auxiliary", "13_labels", "14_single", "15_representations",
    "33_augmentation_tables", "20_compare", "17_robustness",
)  # fmt: skip
#: Seconds for each image or token of a training, its evaluation included, until some task was timed.
SECONDS = 4e-4
TEXT = {"dtype": "str", "keep_default_na": False}  # how rows are read, so that they are written as they were
KEYS = ("run", "seed", "key", "processor", "torch", "train_seconds", "evaluation_seconds", "commit", "date")


class Task(NamedTuple):
    """One run, or one case of E-SSL, with one seed, and the params with which its data are made."""

    params: Params
    run: Run | essl.Case | photonics.Case
    seed: int

    @property
    def recipe(self) -> dict:
        """All that the task's rows are made from, but for the processor."""
        params, run, seed = self
        if isinstance(run, essl.Case):
            return essl.recipe_of_rows(run, seed, params.essl)
        if isinstance(run, photonics.Case):
            return photonics.recipe_of_rows(run, seed, params.photonics)
        method, people = METHODS[run.method], run.study in PEOPLE
        read = {"groups", "dataset", "precision", "evaluate", *method.reads}
        return {
            "run": run.model_dump(mode="json", include=read, exclude={"pretrain": {"checkpoint_every"}}),
            "seed": seed, "method": run.method, "version of method": method.version,
            "version of evaluation": fairness.VERSION if people else VERSION, "data": recipe_of(params, run.dataset),
        }  # fmt: skip

    @property
    def key(self) -> str:
        return store.key(self.recipe)

    @property
    def cost(self) -> float:
        """Roughly how long it takes, in any unit."""
        if isinstance(self.run, essl.Case):
            return essl.cost(self.run, self.params.essl)
        if isinstance(self.run, photonics.Case):
            return photonics.cost(self.run, self.params.photonics)
        return study.cost(self.run)

    @property
    def at(self) -> tuple[str, int]:
        """The run's name and the seed."""
        return self.run.name, self.seed


class Done(NamedTuple):
    """What a finished task leaves: its rows, all cells text, and its line of keys.csv."""

    rows: pd.DataFrame
    line: dict


def plan(params: Params) -> list[Task]:
    """All tasks: the first seed of every run, then the second, so that an unfinished whole says something of all.

    In a round the studies stand as in the profile, the headline's first, and the single changes of it last.
    """
    runs = [(params, run) for name in (*params.studies, *PEOPLE) for run in params.study(name)]
    runs += [(params, case) for case in essl.cases(params.essl)]
    runs += [(params, case) for case in photonics.cases(params.photonics)]
    runs += [(params, run) for run in bridge.runs(params, params.essl.bridge)]
    runs += [params.variation(name) for name in params.robustness]
    rounds = max(len(run.seeds) for _, run in runs)
    return [Task(own, run, run.seeds[i]) for i in range(rounds) for own, run in runs if i < len(run.seeds)]


# ---- The data


def recipe_of(params: Params, dataset: str) -> dict:
    """The settings that a data set is made with, and the pinned files."""
    folder = DATASETS[dataset][0]
    sections = {"3diebench": ["data"], "augmented": ["data", "augment"], "mimic": ["mimic"]}.get(folder, [])
    pinned = YAML(typ="safe", pure=True).load(Path("data.dvc").read_text(encoding="utf-8"))["outs"][0]["md5"]
    told = {name: getattr(params, name).model_dump(mode="json", exclude={"root"}) for name in sections}
    return {"pinned": pinned, **told}


def views_folder(params: Params, dataset: str) -> Path:
    """The folder of prepared views, in the store of this machine; made if it is not there."""
    code = hashlib.sha256()
    for file in sorted([*Path("lib/miniature").glob("*.py"), *Path("lib/data").glob("*.py")]):
        code.update(file.read_bytes())
    recipe = {"dataset": dataset, "code": code.hexdigest(), **recipe_of(params, dataset)}
    name = store.key(recipe)
    return store.find("views", name) or store.add("views", name, recipe, partial(_make_views, params, dataset))


def _make_views(params: Params, dataset: str, folder: Path) -> None:
    """As notebooks 01 and 30 do."""
    if DATASETS[dataset][0] == "augmented":
        sources = augment.load_sources(params.augment, views_folder(params, params.data.name))
        save_views(augment.make_views(sources, dataset, params.augment), folder)
    elif params.data.name == "3diebench":
        data = params.data
        import_3diebench(data.root, folder, data.image_size, data.views, data.split)
    else:
        render_miniature(params.data, "data", folder)


# ---- What is done


def read(tasks: Sequence[Task]) -> dict[tuple[str, int], Done]:
    """The finished tasks of results/full/rows/ by run and seed, without those whose recipe is another one now."""
    keys, found = {task.at: task.key for task in tasks}, {}
    for file in sorted(ROWS.glob("*/keys.csv")):
        rows = pd.read_csv(file.with_name("rows.csv.gz"), **TEXT)
        parts = {(name, int(seed)): part for (name, seed), part in rows.groupby(["run", "seed"], sort=False)}
        for told in pd.read_csv(file).astype(object).to_dict("records"):
            at = told["run"], told["seed"]
            if keys.get(at) == told["key"]:
                found[at] = Done(parts[at], told)
    return found


def write(name: str, tasks: Sequence[Task], done: Mapping[tuple[str, int], Done]) -> None:
    """The folder of a study: rows.csv.gz and runs.json as `lib.report.results.read` takes them, and keys.csv.

    Those of E-SSL, the bridge and photonics, which are no evaluation of a study, are in cases.json instead.

    The bytes depend on what is done alone, not on the order in which it was.
    """
    folder, order = ROWS / name, list(dict.fromkeys(task.run.name for task in tasks))
    finished = [task for task in tasks if task.run.study == name and task.at in done]
    finished.sort(key=lambda task: order.index(task.run.name))
    if not finished:
        shutil.rmtree(folder, ignore_errors=True)
        return
    seeds = {run: tuple(task.seed for task in finished if task.run.name == run) for run in order}
    runs = {task.run.name: task.run.model_copy(update={"seeds": seeds[task.run.name]}) for task in finished}
    told = json.dumps([run.model_dump(mode="json") for run in runs.values()], indent=1) + "\n"
    rows = pd.concat([done[task.at].rows for task in finished])
    keys = pd.DataFrame([done[task.at].line for task in finished], columns=KEYS)

    part = folder.with_name(f"{name}.part")  # an interruption leaves the old folder or the new one
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    rows.to_csv(part / "rows.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})
    own = name in FROM_STORE or isinstance(finished[0].run, photonics.Case)
    kind = "cases" if own else "runs"  # what has runs.json is read as a study's evaluation
    (part / f"{kind}.json").write_text(told, encoding="utf-8")
    keys.to_csv(part / "keys.csv", index=False)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def finished_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of an evaluation as text, their numbers to five significant digits."""
    rows = rows.astype("str").where(rows.notna(), "")
    return rows.assign(**{of: [cell and f"{float(cell):.5g}" for cell in rows[of]] for of in ("value", "floor")})


def line(task: Task, train_seconds: float, evaluation_seconds: float) -> dict:
    """A task's line of keys.csv; nan are the seconds of what was in the store before."""
    # Rows that were written before are no edit: dirty is what could make other numbers.
    git = partial(subprocess.run, capture_output=True, text=True)
    commit = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    if not commit:
        commit = "unknown"
    elif git(["git", "diff", "--quiet", "HEAD", "--", "lib", "notebooks", "profiles", "data.dvc"]).returncode == 1:
        commit += "-dirty"
    return {
        "run": task.run.name, "seed": task.seed, "key": task.key,
        "processor": processor(study.place(task.params.device)),
        "torch": torch.__version__.partition("+")[0],
        "train_seconds": train_seconds, "evaluation_seconds": evaluation_seconds,
        "commit": commit, "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip


# ---- Computing


def compute(
    task: Task, data: Path | Images, seconds: float, report: Callable[[float], None]
) -> tuple[Task, Done | str]:  # fmt: skip
    """A task from its views (their folder) or images, in this process.

    `report` is told how many of the expected `seconds` are behind it. Returns what went wrong where the training
    diverged, for the other tasks go on.
    """
    works, begin = {"essl-diagnosis": _compute_essl, "essl-methods": _compute_essl, "bridge": _compute_bridge}, time()
    work = works.get(task.run.study, _compute_run)
    try:
        rows, trained, evaluated = work(task, data, lambda share: report(seconds * share))
    except FloatingPointError as error:
        return task, str(error)
    report(seconds)
    spent = line(task, _since(trained, begin), _since(evaluated, max(begin, trained.stat().st_mtime)))
    return task, Done(rows, spent)


def _compute_run(task: Task, folder: Path, report: Callable[[float], None]) -> tuple[pd.DataFrame, Path, Path]:
    """Rows, and the store's entries of training and evaluation; `report` is told the share done."""
    (params, run, seed), views, steps = task, load_views(folder), task.run.pretrain.steps
    trained = study.training(run, seed, views, params.device, lambda done: report(done / steps / 2))
    evaluated = study.evaluation(
        run, seed, views, trained / "model.safetensors", evaluate_and_find_neighbors, DEPENDENCIES, params.device,
        lambda share: report((1 + share) / 2),
    )  # fmt: skip
    return finished_rows(pd.read_csv(evaluated / "rows.csv", **TEXT)), trained, evaluated


def _compute_essl(task: Task, images: Images, report: Callable[[float], None]) -> tuple[pd.DataFrame, Path, Path]:
    """The same of a case of E-SSL; its training and evaluation are one entry."""
    params, case, seed = task
    of = essl.dependencies_of_rows(case, seed, essl.digest(images), params.essl)
    essl.work(
        case, seed, images, store.key(of), of, lambda done: report(done / (case.steps + 1)), essl=params.essl,
        device=params.device,
    )  # fmt: skip
    entry = store.find("evaluations", store.key(of))
    return finished_rows(essl.rows_in(entry, case, seed)), entry, entry


def _compute_bridge(task: Task, folder: Path, report: Callable[[float], None]) -> tuple[pd.DataFrame, Path, Path]:
    """The same of a run of the bridge."""
    (params, run, seed), views, steps = task, load_views(folder), task.run.pretrain.steps
    of = bridge.dependencies_of_rows(run, seed, views, params.device)
    bridge.work(run, seed, views, store.key(of), of, lambda done: report(done / (steps + 1)), device=params.device)
    entry = store.find("evaluations", store.key(of))
    return finished_rows(pd.read_csv(entry / "rows.csv", **TEXT)), entry, entry


def _since(entry: Path, begin: float) -> float:
    """Seconds that an entry of the store took, nan if it was there before."""
    return round(entry.stat().st_mtime - begin) if entry.stat().st_mtime >= begin else float("nan")


def expected_seconds(tasks: Sequence[Task], done: Mapping[tuple[str, int], Done]) -> dict[tuple[str, int], int]:
    """How long each task takes: as its run's other seeds did, else by images and tokens, at the rate so far."""
    costs = pd.Series({task.run.name: task.cost for task in tasks}, dtype=float)
    lines = pd.DataFrame([of.line for of in done.values()], columns=KEYS)
    seconds = (lines["train_seconds"] + lines["evaluation_seconds"]).astype(float)
    seconds = seconds.groupby(lines["run"]).mean().reindex(costs.index)
    rate = seconds.sum() / costs[seconds.notna()].sum() if seconds.notna().any() else SECONDS
    seconds = seconds.fillna(rate * costs)
    return {task.at: max(1, round(seconds[task.run.name])) for task in tasks}


def compute_all(tasks: Sequence[Task], done: dict[tuple[str, int], Done], until: float) -> list[str]:
    """Compute what is missing, side by side, and write the rows of each task at once; after `until` none is started.

    Returns what went wrong: a sentence for each training that diverged.
    """
    missing, wrong = [task for task in tasks if task.at not in done and task.run.study not in BY_NOTEBOOK], []
    if not missing or time() > until:
        return wrong
    images = None  # drawn once: those of E-SSL are the same for all
    data: list[Path | Images] = []
    for task in missing:
        if isinstance(task.run, essl.Case):
            images = images or load_images(task.params.essl)
        data.append(images if isinstance(task.run, essl.Case) else views_folder(task.params, task.run.dataset))
    seconds = [expected_seconds(tasks, done)[task.at] for task in missing]
    with tempfile.TemporaryDirectory() as scratch:
        progress = study.Progress(Path(scratch) / "progress", len(missing))
        calls = (
            joblib.delayed(compute)(task, data[slot], seconds[slot], progress.reporter(slot))
            for slot, task in enumerate(missing)
            if time() < until
        )
        count = study.jobs(missing[0].params.device, len(missing))
        parallel = joblib.Parallel(count, return_as="generator_unordered", pre_dispatch="n_jobs", batch_size=1)
        with study.Bar(progress, seconds, "s", f"full, {len(missing)} of {len(tasks)} new"):
            for task, found in parallel(calls):
                if isinstance(found, Done):
                    done[task.at] = found
                    write(task.run.study, tasks, done)
                else:
                    wrong.append(found)
    return wrong


def compute_by_notebook(tasks: Sequence[Task], done: dict[tuple[str, int], Done], until: float) -> list[str]:
    """The studies of people and of photonics, each as a whole by its notebook, as `compute_all` the others."""
    wrong = []
    for name, notebook in BY_NOTEBOOK.items():
        mine, begin = [task for task in tasks if task.run.study == name], time()
        if begin > until or all(task.at in done for task in mine):
            continue
        prepare([])
        if error := execute(notebook):
            wrong.append(error)
            continue
        folder = WORKSPACE / "build" / ("evaluations" if name in PEOPLE else "essl") / name
        rows = finished_rows(pd.read_csv(folder / "rows.csv", **TEXT))
        for task in mine:
            of = rows[(rows["run"] == task.run.name) & (rows["seed"] == str(task.seed))]
            done[task.at] = Done(of, line(task, round((time() - begin) / len(mine)), 0))
        write(name, tasks, done)
    return wrong


# ---- Tables, figures and verdicts


def prepare(studies: Sequence[str]) -> None:
    """Make the workspace: links to what is the repository's and to the rows of studies, and the profile's params."""
    evaluations, results = WORKSPACE / "build/evaluations", WORKSPACE / "results"
    shutil.rmtree(evaluations, ignore_errors=True)
    links = {WORKSPACE / name: Path(name) for name in ("lib", "notebooks", "paper", "data", "dvc.yaml", ".dvc")}
    links |= {results / "full/rows": ROWS, results / PHOTOGRAPHS.name: PHOTOGRAPHS, results / LOG.name: LOG}
    links |= {evaluations / name: ROWS / name for name in studies}
    for link, target in links.items():
        _link(link, target)
    evaluations.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PROFILE, WORKSPACE / "params.yaml")


def begun(name: str, tasks: Sequence[Task], done: Mapping[tuple[str, int], Done]) -> bool:
    """Whether each run of a section of the study has a seed: claims about all its runs would else be asked of some."""
    mine = [task for task in tasks if task.run.study == name]
    sections = {section for task in mine for section in task.run.sections}
    there = {task.run.name for task in mine if task.at in done}
    return any(there >= {task.run.name for task in mine if section in task.run.sections} for section in sections)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


def lend(tasks: Sequence[Task], done: Mapping[tuple[str, int], Done]) -> list[str]:
    """Put the rows of E-SSL and the bridge into the store, also those of another machine.

    Returns:
        The notebooks that need no more. That of the bridge finds its views in the workspace, too.
    """
    whole, seen = [], {}  # seen: digest of the images, or views of a dataset
    for name, notebook in FROM_STORE.items():
        mine = [task for task in tasks if task.run.study == name]
        if not mine or not all(task.at in done for task in mine):
            continue
        for params, run, seed in mine:
            rows = done[run.name, seed].rows
            if isinstance(run, Run):
                if run.dataset not in seen:
                    folder, place = views_folder(params, run.dataset), DATASETS[run.dataset][0]
                    inside = place if place == "3diebench" else f"{place}/{run.dataset}"
                    _link(WORKSPACE / "build/data" / inside, folder)
                    seen[run.dataset] = load_views(folder)
                of = bridge.dependencies_of_rows(run, seed, seen[run.dataset], params.device)
            else:
                if "images" not in seen:
                    seen["images"] = essl.digest(load_images(params.essl))
                of = essl.dependencies_of_rows(run, seed, seen["images"], params.essl)
                rows = rows.drop(columns=essl.NAMED)
            if not store.find("evaluations", store.key(of)):
                store.add("evaluations", store.key(of), of,
                          lambda folder, rows=rows: rows.to_csv(folder / "rows.csv", index=False))  # fmt: skip
        whole.append(notebook)
    return whole


def execute(notebook: str) -> str:
    """Run a notebook in the workspace and bring its results to results/full/; returns what went wrong, if anything."""
    shutil.rmtree(OUT / notebook, ignore_errors=True)
    with contextlib.chdir(WORKSPACE):
        try:
            notebooks.run([notebook])
        except papermill.PapermillExecutionError as error:
            return f"{notebook}: {' '.join(error.evalue.split())}"
        outs = notebooks.stage_of([notebook], settings.load().model_dump(mode="json"))["outs"]
    for out in (Path(out) for out in outs if out.startswith("results/")):
        copy = shutil.copytree if (WORKSPACE / out).is_dir() else shutil.copyfile
        copy(WORKSPACE / out, OUT / out.relative_to("results"))
    return ""


def report(tasks: Sequence[Task], done: Mapping[tuple[str, int], Done], wrong: Sequence[str]) -> str:
    """results/full/README.md: what is there, what it took where, and what is not there."""
    text = ["# The full evidence", "Made by `python -m lib full` from `profiles/full.yaml`; the rows are in `rows/`."]
    text.append(f"**{len(done)} of {len(tasks)} checkpoints** are trained and evaluated.")
    if done:
        lines = pd.DataFrame([done[task.at].line | {"study": task.run.study} for task in tasks if task.at in done])
        lines["hours"] = lines[["train_seconds", "evaluation_seconds"]].astype(float).sum(axis=1) / 3600
        hours = lines["hours"].sum()
        text[-1] += f" They took {hours:.1f} hours of a core or of a share of a GPU, without what was stored before."
        by = lines.groupby("study", sort=False)
        table = by.agg(checkpoints=("seed", "size"), hours=("hours", "sum"))
        table.insert(1, "of", pd.Series([task.run.study for task in tasks]).value_counts())
        for name in ("processor", "torch", "commit", "date"):
            table[name] = by[name].agg(lambda of: ", ".join(sorted(set(of))))
        text.append(markdown(table.reset_index()))
    if wrong:
        text += ["Not there:", "\n".join(f"- {sentence}" for sentence in wrong)]
    return "\n\n".join(text) + "\n"


def main(minutes: float | None = None) -> None:
    """Compute what is missing, for `minutes` or to the end; then make tables, figures and verdicts of what is there."""
    begin, params = time(), settings.load(PROFILE)
    until, tasks = begin + 60 * minutes if minutes is not None else float("inf"), plan(params)
    done = read(tasks)
    ROWS.mkdir(parents=True, exist_ok=True)
    for name in {path.name for path in ROWS.glob("*/")} | {task.run.study for task in tasks}:
        write(name, tasks, done)
    wrong = compute_all(tasks, done, until) + compute_by_notebook(tasks, done, until)
    if left := [task for task in tasks if task.at not in done]:
        seconds, count = expected_seconds(tasks, done), study.jobs(params.device, len(left))
        hours = sum(seconds[task.at] for task in left) / count / 3600
        print(f"{len(left)} of {len(tasks)} tasks are left, about {hours:.1f} hours with {count} at a time; the same "
              "command goes on.")  # fmt: skip
    prepare([name for name in (*params.studies, *PEOPLE) if begun(name, tasks, done)])
    wrong += filter(None, map(execute, [*SECTIONS, *lend(tasks, done)]))
    (OUT / "README.md").write_text(report(tasks, done, wrong), encoding="utf-8")
    print("\n".join([*wrong, f"Rows, tables and verdicts are in {OUT}/."]))
