"""`python -m lib full` at tiny sizes: what is in git is not computed again, and nothing finished is lost."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

from lib.evaluation.evaluate import COLUMNS
from lib.pipeline import full, settings, store, study
from lib.report import reference, results

ROOT = Path(__file__).parents[1]
PROFILE = """
bases:
  tiny: {dataset: 3diebench-mini, seeds: [0, 1], study: main, steps: 4, checkpoint_every: 2, objects_per_step: 8,
    views_per_object: 4, block_size: 8, context_lengths: [0, 2], pairs_per_object: 2, context_kinds: [rotation, color],
    groups: [rotation, color], probes: [paper], probe_epochs: 1, retrieval_objects: 0, representation_tasks: [],
    embedding_tasks: [individual]}
runs:
  contextssl: {base: tiny, method: contextssl}
  simclr: {base: tiny, method: simclr, groups: [], seeds: [0]}
robustness:
  palette-object: {palette: object}
"""


def evaluate(model, views, run, seed, share):
    """One row in place of the thousands of an evaluation."""
    row = {
        "run": run.name,
        "method": run.label,
        "seed": seed,
        "space": "embedding",
        "environment": "rotation",
        "context_length": 2,
        "metric": "r2_color",
        "value": model.encoder(views.images[:4]).mean().item(),
    }
    return pd.DataFrame([row], columns=COLUMNS), {}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder with a tiny profiles/full.yaml, without notebooks; views are drawn, not rendered."""
    text = (ROOT / "profiles/ci.yaml").read_text(encoding="utf-8").replace("profile: ci", "profile: full")
    text = re.sub(r"(?ms)^studies:.*", "studies: {main: 3diebench}\n", text)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/full.yaml").write_text(text + PROFILE, encoding="utf-8")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "data.dvc").write_bytes((ROOT / "data.dvc").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(full, "execute", lambda notebook: "")
    monkeypatch.setattr(full.essl, "cases", lambda essl: [])  # but in the test of them
    monkeypatch.setattr(full.photonics, "cases", lambda photonics: [])
    monkeypatch.setattr(full.bridge, "runs", lambda params, spec: [])
    monkeypatch.setattr(full, "_make_views", lambda params, dataset, folder: (folder / params.data.palette).touch())
    monkeypatch.setattr(full, "load_views", draw)
    monkeypatch.setattr(full, "evaluate_and_find_neighbors", evaluate)
    return tmp_path


def draw(folder, brighter=0):
    """Views of a prepared folder; another palette gives other pixels."""
    views = tiny.views()
    return replace(views, images=views.images + brighter + (folder / "object").exists())


def edit(before, after):
    path = Path("profiles/full.yaml")
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


def keys():
    """Run and seed -> key, of what is done."""
    lines = pd.concat([pd.read_csv(file) for file in full.ROWS.glob("*/keys.csv")])
    return {(of.run, of.seed): of.key for of in lines.itertuples()}


@pytest.fixture
def trained(monkeypatch):
    """Run and seed of every training that is begun; `trained.stop` are those that end as Ctrl-C does."""

    class Begun(list):
        stop = ()

    begun, pretrain = Begun(), study.pretrain

    def recorded(run, seed, *more, **named):
        begun.append((run.name, seed))
        if (run.name, seed) in begun.stop:
            raise KeyboardInterrupt
        return pretrain(run, seed, *more, **named)

    monkeypatch.setattr(study, "pretrain", recorded)
    return begun


ALL = [("contextssl", 0), ("simclr", 0), ("palette-object", 0), ("contextssl", 1), ("palette-object", 1)]


def test_rows_are_read_as_those_of_the_pipeline(workspace, trained):
    full.main()
    assert trained == ALL  # seed by seed, the headline first
    found = results.read("main", folder=full.ROWS)
    assert found.runs["seeds"].to_dict() == {"simclr": [0], "contextssl": [0, 1]}
    own = pd.concat([pd.read_csv(path / "rows.csv") for path in (store.folder() / "evaluations").iterdir()])
    own, kept = own[own["run"] == "contextssl"], found.rows[found.rows["run"] == "contextssl"]
    np.testing.assert_allclose(kept["value"], own.sort_values("seed")["value"], rtol=5e-5)
    assert list(results.read("robustness", folder=full.ROWS).runs.index) == ["palette-object"]
    headline, changed = reference.headlines()
    assert [reference.headline(of).name for of in (headline, changed)] == ["contextssl", "palette-object"]
    assert reference.differing(headline, changed) == []  # only its data, which are no setting of a run
    assert "**5 of 5 checkpoints**" in (full.OUT / "README.md").read_text()


def test_another_machine_computes_nothing_again(workspace, trained, monkeypatch):
    """Without the store, and where a processor renders other bytes."""
    full.main()
    before = {path: path.read_bytes() for path in full.ROWS.rglob("*") if path.is_file()}
    shutil.rmtree(store.folder())
    monkeypatch.setattr(full, "load_views", lambda folder: draw(folder, brighter=1))
    trained.clear()
    full.main()
    assert trained == [] and not store.folder().exists()
    assert {path: path.read_bytes() for path in full.ROWS.rglob("*") if path.is_file()} == before


def test_interruption_loses_the_tasks_under_way_alone(workspace, trained):
    trained.stop = [("palette-object", 0)]
    with pytest.raises(KeyboardInterrupt):
        full.main()
    assert list(keys()) == ALL[:2]
    trained.stop, done = (), keys()
    trained.clear()
    full.main()
    assert trained == ALL[2:] and keys().items() > done.items()


def test_claims_about_all_runs_of_a_section_are_asked_of_all(workspace):
    """A study is shown when each run of one of its sections has a seed, be it without the runs of another section."""
    edit("groups: [], seeds: [0]}", "groups: [], seeds: [0, 1], sections: [main, single]}")
    tasks = full.plan(settings.load(full.PROFILE))
    mine = [task for task in tasks if task.run.study == "main"]
    assert full.begun("main", tasks, {("contextssl", 0): None, ("simclr", 1): None})
    assert full.begun("main", tasks, {("simclr", 0): None})  # all of the section single
    assert not full.begun("main", tasks, {task.at: None for task in mine if task.run.name == "contextssl"})
    assert not full.begun("main", tasks, {})


def test_no_task_is_started_after_the_minutes(workspace, trained, capsys):
    full.main(minutes=0)
    assert trained == [] and "5 of 5 tasks are left, about" in capsys.readouterr().out
    assert "**0 of 5 checkpoints**" in (full.OUT / "README.md").read_text()


@pytest.mark.parametrize(
    ("before", "after", "anew"),
    [
        ("{palette: object}", "{palette: object, rotation_range: 0.5}", ["palette-object"]),
        ("{base: tiny, method: simclr,", "{base: tiny, method: simclr, temperature: 0.4,", ["simclr"]),
        ("checkpoint_every: 2", "checkpoint_every: 3", []),
        ("probe_epochs: 1", "probe_epochs: 2", ["contextssl", "simclr", "palette-object"]),
        ("rotation_range: 0.785398", "rotation_range: 0.7", ["contextssl", "simclr", "palette-object"]),
    ],
)
def test_a_changed_setting_replaces_what_it_touches(workspace, before, after, anew):
    tasks = {task.at: task.key for task in full.plan(settings.load(full.PROFILE))}
    edit(before, after)
    again = {task.at: task.key for task in full.plan(settings.load(full.PROFILE))}
    assert {name for (name, _), key in again.items() if key not in tasks.values()} == set(anew)
    assert len(set(again.values())) == len(again)


def test_rows_of_another_recipe_are_removed(workspace, trained):
    full.main()
    before = keys()
    edit("{base: tiny, method: simclr,", "{base: tiny, method: simclr, temperature: 0.4,")
    full.main(minutes=0)
    assert set(before) - set(keys()) == {("simclr", 0)}
    trained.clear()
    full.main()
    assert trained == [("simclr", 0)] and keys()["simclr", 0] != before["simclr", 0]


def test_what_the_pipeline_has_computed_is_taken(workspace, trained):
    params = settings.load(full.PROFILE)
    Path("params.yaml").write_bytes(full.PROFILE.read_bytes())
    models, _ = study.train(params.study("main"), tiny.views())
    study.evaluate(models, tiny.views(), evaluate, full.DEPENDENCIES)
    trained.clear()
    full.main()
    assert trained == [("palette-object", 0), ("palette-object", 1)]
    lines = pd.read_csv(full.ROWS / "main/keys.csv")
    assert lines[["train_seconds", "evaluation_seconds"]].isna().all(axis=None)


def test_one_diverging_training_does_not_end_the_others(workspace, monkeypatch):
    def diverge(run, *more, training=study.training):
        if run.name == "simclr":
            raise FloatingPointError("The loss of simclr is nan.")
        return training(run, *more)

    monkeypatch.setattr(study, "training", diverge)
    full.main()
    assert ("simclr", 0) not in keys() and len(keys()) == 4
    assert "- The loss of simclr is nan." in (full.OUT / "README.md").read_text()


def test_essl_is_shown_from_rows_that_another_machine_has_made(workspace, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(full.bridge, "runs", lambda params, spec: [])
    monkeypatch.setattr(
        full, "plan", lambda params, plan=full.plan: [of for of in plan(params) if isinstance(of.run, full.essl.Case)]
    )
    monkeypatch.setattr(full, "load_images", lambda spec: "images")
    monkeypatch.setattr(full.essl, "digest", lambda images: images)
    monkeypatch.setattr(full, "execute", lambda notebook: executed.append(notebook) or "")
    trained = []

    def work(case, seed, images, name, of, report, **more):
        trained.append((case.name, seed))
        rows = pd.DataFrame([("test", "linear", 1 / 3, 25.0, 9)], columns=["split", "metric", "value", "floor", "n"])
        store.add("evaluations", name, of, lambda folder: rows.to_csv(folder / "rows.csv", index=False))

    monkeypatch.setattr(full.essl, "work", work)
    executed, tasks = [], full.plan(settings.load(full.PROFILE))
    full.main()
    assert len(trained) == len(tasks) > 0 and {"41_diagnosis", "42_essl_methods"} <= set(executed)
    rows = pd.read_csv(full.ROWS / "essl-diagnosis/rows.csv.gz")
    of_run = rows[rows["run"] == "rotation-sensitivity"]
    assert of_run["seed"].tolist() == [0, 1] and set(of_run["role"]) == {"sensitivity"}
    with pytest.raises(ValueError, match="has no run"):  # they are no study's evaluation
        results.read(folder=full.ROWS)
    assert set(rows["value"]) == {0.33333}

    before = keys()
    shutil.rmtree(store.folder())
    trained.clear()
    full.main()
    assert trained == [] and keys() == before
    shown = full.essl.diagnosis(settings.load(full.PROFILE).essl)
    Path("params.yaml").write_bytes(full.PROFILE.read_bytes())
    found = full.essl.rows_of(shown, "images", settings.load().essl)  # as the notebook has it
    assert trained == [] and set(found["value"]) == {0.33333} and len(found) == 2 * len(shown)

    edit("third_size: 16", "third_size: 8")
    full.main(minutes=0)
    assert set(before) - set(keys()) == {(name, seed) for name, seed in before if "sens" in name or "control" in name
                                         or name.startswith(("e-", "longer"))}  # fmt: skip


def test_the_bridge_is_shown_from_rows_that_another_machine_has_made(workspace, trained, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    edit("runs: [simclr, crop-blur-simclr]", "runs: [simclr]")
    edit("pairs_per_object: 2", "pairs_per_object: 1")
    monkeypatch.setattr(full.essl, "cases", lambda essl: [])
    monkeypatch.setattr(full.photonics, "cases", lambda photonics: [])
    executed, seen = [], []
    monkeypatch.setattr(full, "execute", lambda notebook: executed.append(notebook) or "")
    monkeypatch.setattr(full, "_make_views", lambda params, dataset, folder: (folder / "views.npz").touch())
    monkeypatch.setattr(full, "load_views", draw)
    monkeypatch.setattr(full, "evaluate_and_find_neighbors", evaluate)
    monkeypatch.setattr(full.bridge.evaluate, "evaluate_run", lambda *of: evaluate(*of, None)[0])
    training = study.training
    monkeypatch.setattr(study, "training", lambda run, *more: seen.append(run.name) or training(run, *more))
    full.main()
    params = settings.load(full.PROFILE)
    own = full.bridge.runs(params, params.essl.bridge)
    assert set(run.name for run in own) < set(seen) and "44_bridge" in executed
    with pytest.raises(ValueError, match="has no run"):  # its rows are no study's evaluation
        results.read("bridge", folder=full.ROWS)

    before, rows = keys(), pd.read_csv(full.ROWS / "bridge/rows.csv.gz")
    shutil.rmtree(store.folder())
    seen.clear()
    full.main()
    assert seen == [] and keys() == before
    monkeypatch.chdir(full.WORKSPACE)  # as the notebook has it
    monkeypatch.setattr(full.bridge, "load_views", draw)
    assert Path("build/data/3diebench/views.npz").is_file()
    found = full.bridge.rows_of(own, full.bridge.views_of(own))
    assert seen == [] and len(found) == len(rows) == sum(len(run.seeds) for run in own)
