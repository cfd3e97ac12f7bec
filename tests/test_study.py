"""Studies: tasks side by side, and the store of what was computed before."""

import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

from lib.method import methods
from lib.pipeline import settings, store, study

ROOT = Path(__file__).parents[1]


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """An empty folder with params.yaml of the ci profile and a DVC folder, whose cache holds the store."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "params.yaml").write_bytes((ROOT / "profiles/ci.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def a_run(name="contextssl", **changes):
    params = settings.load(ROOT / "profiles/ci.yaml")
    return params.run(name, **{"steps": 4, "checkpoint_every": 2, "objects_per_step": 8, "views_per_object": 4,
                               "block_size": 8, "context_lengths": [0, 2], "seeds": [0, 1]} | changes)  # fmt: skip


def jobs(count):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(re.sub(r"jobs: \w+", f"jobs: {count}", text))


def mean_of_embedding(model, views, run, seed, report):
    """Rows of an evaluation, at module level so that a process of its own can find it."""
    report(0.5)
    value = model.encoder(views.images[:4]).mean().item()
    return pd.DataFrame({"run": [run.name], "seed": seed, "context_length": None, "value": value})


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_any_number_of_jobs_gives_the_same_bytes(workspace):
    views, runs, found = tiny.views(), [a_run(), a_run("simclr")], {}
    for count in (1, 2):
        jobs(count)
        folder = workspace / f"jobs-{count}"
        (folder / ".dvc").mkdir(parents=True)
        (folder / "params.yaml").write_text(Path("params.yaml").read_text())
        os.chdir(folder)
        trained, history = study.train(runs, views)
        rows, _ = study.evaluate(trained, views, mean_of_embedding, {"evaluation": "test"})
        found[count] = [weights.read_bytes() for _, _, weights in trained], history, rows
        os.chdir(workspace)
        (workspace / "params.yaml").write_bytes((ROOT / "profiles/ci.yaml").read_bytes())
    assert found[1][0] == found[2][0]
    pd.testing.assert_frame_equal(found[1][1], found[2][1], check_exact=True)
    pd.testing.assert_frame_equal(found[1][2], found[2][2], check_exact=True)


def test_only_what_changed_is_computed(workspace, monkeypatch):
    jobs(1)
    views, trained = tiny.views(), []
    pretrain = study.pretrain
    monkeypatch.setattr(study, "pretrain", lambda run, seed, *a, **k: trained.append((run.name, seed)) or pretrain(
        run, seed, *a, **k))  # fmt: skip
    study.train([a_run(), a_run("simclr")], views)
    assert sorted(trained) == [("contextssl", 0), ("contextssl", 1), ("simclr", 0), ("simclr", 1)]
    trained.clear()
    # Nothing changed; what is no part of a training; what another method reads; one run; one more seed.
    study.train([a_run(checkpoint_every=3), a_run("simclr", mask_probability=0.9)], views)
    assert trained == []
    study.train([a_run(temperature=0.3, seeds=[1]), a_run("simclr", seeds=[0, 1, 2])], views)
    assert sorted(trained) == [("contextssl", 1), ("simclr", 2)]


@pytest.mark.parametrize("change", ["split", "labels", "images", "targets", "groups"])
def test_key_covers_the_data(change):
    """Another split must not bring back a model that has seen what are now test objects."""
    views = tiny.views()
    other = {
        "split": np.roll(views.split, 1), "labels": views.labels.roll(1), "images": views.images + 1,
        "targets": views.targets * 2, "groups": {"rotation": slice(0, 3), "color": slice(3, 6)},
    }[change]  # fmt: skip
    keys = {store.key(study.training_dependencies(a_run(), 0, v)) for v in (views, replace(views, **{change: other}))}
    assert len(keys) == 2


@pytest.mark.parametrize("change", [{"groups": ["rotation"]}, {"width": 64}, {"mask_unit": "pair"}, {"steps": 5}])
def test_key_covers_the_settings(change):
    views = tiny.views()
    assert len({store.key(study.training_dependencies(r, 0, views)) for r in (a_run(), a_run(**change))}) == 2


def test_key_covers_seed_and_version(monkeypatch):
    views = tiny.views()
    keys = {store.key(study.training_dependencies(a_run(), seed, views)) for seed in (0, 1)}
    method = methods.METHODS["contextssl"]
    monkeypatch.setitem(methods.METHODS, "contextssl", replace(method, version=method.version + 1))
    assert len(keys | {store.key(study.training_dependencies(a_run(), 0, views))}) == 3


def test_store_lies_in_the_cache_that_a_queue_shares(workspace):
    assert store.folder().resolve() == (workspace / ".dvc/cache/contextssl").resolve()
    (workspace / ".dvc/config.local").write_text("[cache]\n    dir = /shared/cache\n")
    assert store.folder() == Path("/shared/cache/contextssl")


def test_entry_that_lost_bytes_is_made_anew(workspace):
    store.add("trainings", "x", {}, lambda folder: (folder / "rows.csv").write_text("whole"))
    entry = store.find("trainings", "x")
    (entry / "rows.csv").write_text("who")
    assert store.find("trainings", "x") is None and not entry.exists()


def test_views_are_handed_over_once():
    """All tasks of a study share one memory map of the images."""
    views = tiny.views()
    assert views.__getstate__()["images"] is views.__getstate__()["images"]


def test_failed_entry_leaves_nothing(workspace):
    def write(folder):
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError):
        store.add("trainings", "x", {}, write)
    assert store.find("trainings", "x") is None and contents(store.folder()) == {}


def test_tasks_end_with_their_study(workspace, tmp_path):
    """A study that is killed takes its processes with it, at their next step."""
    script = tmp_path / "endless.py"
    script.write_text(
        "import os, time, joblib\nfrom functools import partial\nfrom pathlib import Path\n"
        "from lib.pipeline.study import Progress\n"
        "def work(report):\n"
        "    Path(f'pid-{os.getpid()}').touch()\n"
        "    while True:\n        report(1)\n        time.sleep(.05)\n"
        "if __name__ == '__main__':\n"
        "    progress = Progress(Path('progress'), 2)\n"
        "    joblib.Parallel(n_jobs=2)(joblib.delayed(work)(progress.reporter(i)) for i in range(2))\n"
    )
    process = subprocess.Popen([sys.executable, script], env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while len(pids := [int(path.name[4:]) for path in Path(".").glob("pid-*")]) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
