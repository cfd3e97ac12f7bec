"""The whole pipeline at tiny sizes, in a copy of the repository as a fresh clone would have it; takes some minutes."""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML
from test_book import faults

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A new repository of all files that are in git or would be, without DVC's cache and anything built."""
    folder = tmp_path_factory.mktemp("clone")
    listing = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, subprocess.check_output(listing, cwd=ROOT, text=True).split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    # What this repository has computed must not help, nor its own temporary state.
    (folder / "dvc.lock").unlink(missing_ok=True)
    for path in (folder / "results").glob("*"):
        if path.name not in ("full", "essl-cifar10-jpeg", "trials.csv"):  # inputs: made beside the pipeline
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    call(folder, "git", "init", "--quiet")
    call(folder, "git", "add", "--all")
    call(folder, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "-m", "clone")
    return folder


def call(folder, *command):
    """Runs a command with this environment's programs first; its output, or a failure that shows the end of it."""
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout[-4000:]}"
    return done.stdout


def stale(folder):
    """Names of the stages that `dvc repro` would run or that changed."""
    return set(json.loads(call(folder, "dvc", "status", "--json")))


def edit(folder, key, value):
    yaml = YAML(pure=True)
    mapping = inner = yaml.load((folder / "params.yaml").read_text(encoding="utf-8"))
    *path, last = key.split(".")
    for part in path:
        inner = inner[part]
    inner[last] = value
    yaml.dump(mapping, folder / "params.yaml")


def entries(folder, kind):
    """Names of what the store holds."""
    return {path.name for path in (folder / ".dvc/cache/contextssl" / kind).iterdir()}


def ran(output):
    return set(re.findall(r"Running stage '(.+?)'", output))


def test_pipeline(clone):
    call(clone, "dvc", "pull", "data.dvc")
    assert (clone / "data/scenes").is_dir()
    call(clone, sys.executable, "-m", "lib", "use", "ci")

    call(clone, "dvc", "repro")
    assert stale(clone) == set()
    again = call(clone, "dvc", "repro")
    assert "Running stage" not in again and "up to date" in again
    assert faults(clone / "build/book") == []
    for row in csv.DictReader((clone / "paper/artefacts.csv").open(encoding="utf-8")):
        made = row["output"].split("; ") if row["status"] == "made" else []
        assert [name for name in made if not (clone / name).is_file()] == []


def test_an_edit_computes_what_it_touches(clone):
    """Runs after `test_pipeline`, in its clone."""
    before = {kind: entries(clone, kind) for kind in ("trainings", "evaluations")}
    results = digest(clone / "results")

    # One run: its study's stages run, but it alone is trained and evaluated, once for its one seed.
    edit(clone, "runs.mask-090.temperature", 0.3)
    done = ran(call(clone, "dvc", "repro"))
    studies = {name for name in done if "@" in name and not name.startswith("section")}
    assert studies == {"pretrain@masking", "evaluate@masking"}
    assert all(len(entries(clone, kind) - old) == 1 for kind, old in before.items())

    # The way back computes nothing and gives the same bytes.
    call(clone, "git", "checkout", "--quiet", "params.yaml")
    call(clone, sys.executable, "-m", "lib", "use", "ci")
    after = {kind: entries(clone, kind) for kind in before}
    call(clone, "dvc", "repro")
    assert {kind: entries(clone, kind) for kind in before} == after and digest(clone / "results") == results

    # Another color in figures trains and evaluates nothing.
    plotting = clone / "lib/report/plotting.py"
    text = plotting.read_text(encoding="utf-8")
    plotting.write_text(text.replace('"colorblind"', '"deep"'), encoding="utf-8")
    planned = ran(call(clone, "dvc", "repro", "--dry"))
    assert planned and not {name for name in planned if name.startswith(("pretrain", "evaluate", "data"))}
    plotting.write_text(text, encoding="utf-8")
    assert stale(clone) == set()


def test_stages_repeat_byte_for_byte(clone):
    """Runs after `test_pipeline`, in its clone: without the store and DVC's cache of runs."""
    before = (clone / "dvc.lock").read_bytes()
    shutil.rmtree(clone / ".dvc/cache/contextssl")
    call(clone, "dvc", "repro", "--force", "--single-item", "--no-run-cache", "pretrain@labels")
    call(clone, "dvc", "repro", "--force", "--single-item", "--no-run-cache", "evaluate@labels")
    assert (clone / "dvc.lock").read_bytes() == before


def digest(folder):
    """Hashes of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_photographs_have_results_of_their_own(clone):
    """Runs after `test_pipeline`, in its clone: one command for the augmentations of a folder of photographs."""
    if not (clone / "build/data/augmented").exists():
        pytest.skip("the pipeline did not run")
    folder, generator = clone.parent / "photographs", np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        for kind in ("cat", "dog"):
            (folder / split / kind).mkdir(parents=True)
            for k in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / kind / f"{k:04}.png")
    own = lambda files: {name: of for name, of in files.items() if not name.startswith("cifar10-jpeg/")}  # noqa: E731
    before = own(digest(clone / "results"))
    call(clone, sys.executable, "-m", "lib", "photographs", str(folder))
    made = sorted((clone / "results/cifar10-jpeg").rglob("table-*.md"))
    assert [path.stem for path in made] == [f"table-{n:02}" for n in (2, 12, 13, 14, 15, 16)]
    assert all("CIFAR-10 (JPEG-recompressed)" in path.read_text(encoding="utf-8") for path in made)
    assert "python -m lib photographs" in (clone / "results/cifar10-jpeg/run.md").read_text(encoding="utf-8")
    # The pipeline's own results are as they were.
    assert own(digest(clone / "results")) == before and stale(clone) == set()


def test_changed_data_file_is_noticed(clone):
    """Runs after `test_pipeline`, in its clone: a truncated input fails in one sentence that names it."""
    arrays = clone / "build/data/3diebench/views.npz"
    if not arrays.exists():
        pytest.skip("the pipeline did not run")
    content = arrays.read_bytes()
    arrays.unlink()
    arrays.write_bytes(content[: len(content) // 2])
    failed = subprocess.run(
        [sys.executable, "-m", "lib", "run", "03_pretrain", "study=labels"],
        cwd=clone,
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 1
    assert "views.npz" in failed.stderr.splitlines()[-1]
