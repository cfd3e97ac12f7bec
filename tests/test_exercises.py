"""Every exercise of every notebook: its starter runs and fails its check, its solution passes it.

Notebooks with exercises are found, not listed; what makes one is said in lib/course/exercises.py.  A notebook's cells
run one after another, with the settings of the profile ci, in this process; of one that reads what other stages made,
imports, parameters and exercises alone.
"""

import contextlib
import io
import os
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch

from lib.course.exercises import NOT_YET, RIGHT, check
from lib.pipeline import run, settings

ROOT = Path(__file__).parents[1]
CI = settings.load(ROOT / "profiles/ci.yaml").model_dump(mode="json")


def tags(cell):
    return cell.metadata.get("tags", [])


def exercises(cells):
    """Places of starters."""
    return [place for place, cell in enumerate(cells) if "exercise" in tags(cell)]


FOUND = {
    path: cells
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    if exercises(cells := nbformat.read(path, as_version=4).cells)
}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """Notebooks go to the root, show figures and set torch's randomness."""
    monkeypatch.chdir(os.getcwd())
    with plt.rc_context({"backend": "agg"}), torch.random.fork_rng(devices=[]):
        yield
    plt.close("all")


def said(source, names):
    """What a cell prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(source, "<cell>", "exec"), names)
    return out.getvalue()


def solution_of(cell):
    """The code folded into a solution's text."""
    (code,) = re.findall(r"(?s)<details>.*?```python\n(.*?)```.*?</details>", cell.source)
    return code


def stage_of(path):
    """The notebook's stage in the profile ci, that of the study main where there are several; and its items."""
    parameters = "".join(cell.source for cell in FOUND[path] if "parameters" in tags(cell))
    items = {"study": "main"} if "study = " in parameters else {}
    return run.stage_of([path.stem, *(f"{name}={item}" for name, item in items.items())], CI), items


def test_there_are_exercises():
    assert FOUND


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_an_exercise_is_four_cells(path):
    cells = FOUND[path]
    names = []
    for place in exercises(cells):
        text, starter, asked, solution = cells[place - 1 : place + 3]
        heading = re.match(r"### (\d\d\.\d) .+ · (★{1,3}) · (\d+) minutes · computes ", text.source)
        assert heading, f"{text.source.splitlines()[0]!r} lacks its name, stars, minutes or what it computes"
        names.append(heading[1])
        assert starter.cell_type == asked.cell_type == "code" and "check" in tags(asked)
        assert f'with check("{heading[1]}"):' in asked.source
        assert solution.cell_type == "markdown" and "solution" in tags(solution)
    assert names == [f"{path.stem[:2]}.{n}" for n in range(1, len(names) + 1)]
    assert len(names) == sum("check" in tags(cell) for cell in cells) == sum("solution" in tags(cell) for cell in cells)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_starters_fail_and_solutions_pass(path):
    cells, names, starters = FOUND[path], {"__name__": "__main__"}, exercises(FOUND[path])
    stage, items = stage_of(path)
    files = [*stage["deps"], *stage["outs"]]
    built = any(file.startswith(("build/", "results/")) and not file.startswith("build/notebooks/") for file in files)
    for place, cell in enumerate(cells):
        if cell.cell_type != "code":
            continue
        if built and not ({"parameters", "exercise", "check"} & set(tags(cell)) or "sys.path.insert" in cell.source):
            continue
        output = said(cell.source, names)
        if "parameters" in tags(cell):
            names.update(run.parameters_of(path, stage, items, CI))
        if place - 1 in starters:
            assert NOT_YET in output and RIGHT not in output, f"{cell.id}: the starter passes: {output}"
            said(solution_of(cells[place + 1]), names)
            output = said(cell.source, names)
            assert RIGHT in output and NOT_YET not in output, f"{cell.id}: the solution fails: {output}"


def test_a_check_lets_the_notebook_run_on(capsys):
    with check("00.1"):
        raise AssertionError("look at the sign")
    with check("00.2"):
        _ = 1 / 0
    with check("00.3"):
        pass
    assert capsys.readouterr().out.splitlines() == [
        "Exercise 00.1: not yet. look at the sign",
        "Exercise 00.2: not yet. ZeroDivisionError: division by zero",
        "Exercise 00.3: right.",
    ]


def test_the_readme_counts_them():
    course = sum(
        len(re.findall(r"(?m)^### C\d", path.read_text("utf-8"))) for path in ROOT.glob("notebooks/course/*.md")
    )
    count = sum(len(exercises(cells)) for cells in FOUND.values())
    text = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"There are {count} exercises in the notebooks and {course} in the [course]" in text
