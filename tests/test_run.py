"""The runner of notebooks, on tiny notebooks in a folder of their own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from lib.pipeline import run, store

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
    (tmp_path / "params.yaml").write_text(re.sub(r"weight_decay: [\d.e-]+", "weight_decay: 5e-5", settings))
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


def start(folder, *arguments, **variables):
    # Threads and figures of the caller must not reach the notebook.
    environment = os.environ | {"OMP_NUM_THREADS": "7", "MPLBACKEND": "agg"} | variables
    environment.pop("PYTEST_CURRENT_TEST", None)  # where it is set, ipykernel does not capture what C code writes
    command = [sys.executable, "-m", "lib", "run", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def execute(folder, *arguments, **variables):
    process = start(folder, *arguments, **variables)
    out, error = process.communicate(timeout=300)
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


FIGURE = """
import sys
import warnings
from pathlib import Path
import matplotlib.pyplot as plt
import pandas as pd
from lib.report import plotting

warnings.warn("not an error")
print(sorted(name for name in globals() if not name.startswith("_")), sys.flags.no_user_site)
plt.plot([1, 2])
plt.title("before the style is set")
plt.show()
plotting.style()
fig, ax = plt.subplots()
ax.plot([1, 2])
plotting.show(fig, Path("build/tiny", study, "figure"), "with the style")
pd.DataFrame({"value": [0.123456]})
"""
HOSTILE_RC = """
text.usetex: True
figure.figsize: 1, 1
figure.dpi: 30
savefig.dpi: 30
axes.facecolor: red
xtick.labelsize: 3
"""
HOSTILE_CODE = """
print("started")
mine = 1
import matplotlib
import pandas
matplotlib.rcParams["lines.linewidth"] = 9
pandas.options.display.precision = 1
"""


def hostile(home):
    """A user's home whose every setting would change a notebook; returns the variables that lead there."""
    files = {
        "matplotlibrc": HOSTILE_RC,
        "config/matplotlib/matplotlibrc": HOSTILE_RC,
        "ipython/profile_default/startup/00.py": HOSTILE_CODE,
        "ipython/profile_default/ipython_kernel_config.py": "c.InlineBackend.figure_formats = {'jpeg'}\n"
        "c.InteractiveShell.ast_node_interactivity = 'all'",
        "startup.py": HOSTILE_CODE,
        "packages/pandas/__init__.py": "raise ImportError('the pandas of somebody else')",
        "jupyter/kernels/python3/kernel.json": '{"argv": ["false"], "display_name": "mine", "language": "python"}',
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    return {
        "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "MATPLOTLIBRC": str(home / "matplotlibrc"),
        "IPYTHONDIR": str(home / "ipython"), "PYTHONSTARTUP": str(home / "startup.py"),
        "PYTHONPATH": str(home / "packages"), "PYTHONWARNINGS": "error::UserWarning",
        "JUPYTER_PATH": str(home / "jupyter"), "JUPYTER_DATA_DIR": str(home / "jupyter"),
    }  # fmt: skip


def made(folder):
    kinds = (".ipynb", ".png", ".svg")
    return {path.name: path.read_bytes() for path in (folder / "build").rglob("*") if path.suffix in kinds}


def test_settings_of_a_user_change_nothing(folder, tmp_path_factory):
    make(folder, work=FIGURE)
    assert execute(folder, "tiny", "study=main").returncode == 0
    before = made(folder)
    assert sorted(before) == ["figure.png", "figure.svg", "tiny-main.ipynb"]

    shutil.rmtree(folder / "build")
    variables = hostile(tmp_path_factory.mktemp("home"))
    (folder / "matplotlibrc").write_text(HOSTILE_RC)
    again = execute(folder, "tiny", "study=main", **variables)
    assert again.returncode == 0, again.stderr
    assert made(folder) == before


def test_by_hand_matplotlib_starts_from_its_defaults(tmp_path):
    code = """if True:
        from matplotlib import rcParams, rcParamsDefault
        print([key for key in rcParams if key != "backend" and rcParams[key] != rcParamsDefault[key]])"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | hostile(tmp_path), capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr


def test_failing_notebook_leaves_nothing_that_looks_finished(folder, monkeypatch):
    trained = (
        "\nfrom lib.pipeline import store\nstore.add('trainings', 'x', {}, lambda at: (at / 'model').write_text('1'))"
    )
    make(folder, work=WORK + trained + "\nraise ValueError('data/x.npz is truncated; run `dvc pull`.')")
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
    monkeypatch.chdir(folder)
    assert store.find("trainings", "x"), "what was trained before the failure must not be lost"


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


def test_a_process_that_dies_ends_with_one_sentence(folder):
    make(folder, work=WORK + "\nos.abort()")
    done = execute(folder, "tiny", "study=main")
    assert done.returncode == 1 and "Fatal Python error: Aborted" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("tiny study=main: its Python process died, most often because")
    assert "Traceback" not in done.stderr and not (folder / "build/tiny/main").exists()
    assert not list((folder / "build/.scratch/running").iterdir())


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
    (folder / "params.yaml").write_text(re.sub(r"mask_probability: [\d.]+", "mask_probability: 1.5", text, count=1))
    failed = execute(folder, "tiny", "study=main")
    assert failed.returncode == 1
    assert "context.mask_probability is 1.5; it must be less than or equal to 1." in failed.stderr
    assert not (folder / "build").exists()
