"""The runner of notebooks, on tiny notebooks in a folder of their own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from lib.pipeline import run

ROOT = Path(__file__).parents[1]

PIPELINE = """
stages:
  tiny:
    foreach: ${studies}
    do:
      cmd: python -m lib run tiny study=${key}
      deps: [notebooks/tiny.ipynb, "build/data/${item}"]
      params: [pretrain, model]
      outs:
        - build/tiny/${key}
        - build/notebooks/tiny-${key}.ipynb: {push: false}
"""
PARAMETERS = "study = None\npretrain: dict = {}\nmodel = {}"
WORK = """
import os, sys, time
from pathlib import Path
from tqdm import tqdm
import lib.pipeline.settings
folder = Path("build/tiny", study)
folder.mkdir(parents=True, exist_ok=True)
for step in tqdm(range(3), mininterval=0):
    time.sleep(0.01)
    print("step", step)
(folder / "result.txt").write_text(repr([pretrain["weight_decay"], model["pretrained"], study]))
print(os.environ["OMP_NUM_THREADS"], os.environ["PYTHONHASHSEED"], Path(lib.pipeline.settings.__file__).parents[2])
(folder / "python.txt").write_text(sys.executable)
"""


@pytest.fixture
def folder(tmp_path):
    """A repository of one stage; `make(parameters, work)` writes its notebook."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    settings = (ROOT / "profiles/ci.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(settings.replace("weight_decay: 0.3 ", "weight_decay: 5e-5 "))
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def make(folder, parameters=PARAMETERS, work=WORK):
    cells = [v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), v4.new_code_cell(work)]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:02}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / "notebooks/tiny.ipynb")


def start(folder, *arguments):
    # Threads and figures of the caller must not reach the notebook.
    environment = os.environ | {"OMP_NUM_THREADS": "7", "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", "lib", "run", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def execute(folder, *arguments):
    process = start(folder, *arguments)
    out, error = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def test_parameters_arrive_typed_and_bytes_are_stable(folder):
    make(folder)
    first = execute(folder, "tiny", "study=main")
    assert first.returncode == 0, first.stderr
    assert (folder / "build/tiny/main/result.txt").read_text() == "[5e-05, False, 'main']"
    # As a path, not resolved: a venv's python is a link.
    assert Path((folder / "build/tiny/main/python.txt").read_text()).parent == Path(sys.executable).parent
    # One thread; the bar reaches the terminal, not the notebook.
    executed = folder / "build/notebooks/tiny-main.ipynb"
    assert f"1 0 {folder}" in first.stdout
    assert "3/3" in first.stderr and "3/3" not in executed.read_text()

    before = executed.read_bytes()
    executed.unlink()
    assert execute(folder, "tiny", "study=main").returncode == 0
    assert executed.read_bytes() == before


def test_failing_notebook_leaves_nothing_that_looks_finished(folder):
    make(folder, work=WORK + "\nraise ValueError('data/x.npz is truncated; run `dvc pull`.')")
    old = folder / "build/tiny/main/old.txt"
    old.parent.mkdir(parents=True)
    old.write_text("of an earlier run")
    failed = execute(folder, "tiny", "study=main")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == "ValueError: data/x.npz is truncated; run `dvc pull`."
    assert "build/.scratch/failed/tiny-main.ipynb" in failed.stderr
    assert (folder / "build/.scratch/failed/tiny-main.ipynb").is_file()
    assert [path.name for path in (folder / "build/tiny/main").iterdir()] == ["old.txt"]
    assert not (folder / "build/notebooks/tiny-main.ipynb").exists()


def test_ctrl_c_ends_with_one_sentence(folder):
    make(folder, work=WORK + "\nprint('waiting', flush=True)\ntime.sleep(60)")
    process = start(folder, "tiny", "study=main")
    while "waiting" not in process.stdout.readline():
        assert process.poll() is None
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert time.monotonic() - begin < 20 and process.returncode == 1
    assert error.splitlines()[-1] == "tiny study=main was interrupted; the same command goes on where it stopped."
    assert "Traceback" not in error and not (folder / "build/tiny/main").exists()


def test_notebook_that_makes_nothing_fails(folder):
    make(folder, work="print(study)")
    failed = execute(folder, "tiny", "study=main")
    assert failed.returncode == 1
    assert "notebooks/tiny.ipynb ended without making build/tiny/main." in failed.stderr


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (PARAMETERS + "\ncontext = {}", "has context, which its stage does not declare; make the two agree."),
        (
            PARAMETERS.replace("model = {}", ""),
            "lacks model, which its stage in dvc.yaml declares; make the two agree.",
        ),
    ],
)
def test_names_in_the_notebook_must_be_those_declared(folder, monkeypatch, parameters, sentence):
    make(folder, parameters)
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=sentence):
        run.run(["tiny", "study=main"])
    assert not (folder / "build").exists()


def test_stage_must_exist(folder, monkeypatch):
    make(folder)
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="No stage of dvc.yaml runs 'tiny study=mian'; there is: tiny study=main, "):
        run.run(["tiny", "study=mian"])


def test_wrong_params_stop_everything_before_it_starts(folder):
    make(folder)
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("mask_probability: 0.5", "mask_probability: 1.5"))
    failed = execute(folder, "tiny", "study=main")
    assert failed.returncode == 1
    assert "context.mask_probability is 1.5; it must be less than or equal to 1." in failed.stderr
    assert not (folder / "build").exists()
