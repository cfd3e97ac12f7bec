"""The course: what its pages tell to type runs, its exercises are solvable, its links lead somewhere.

Every `dvc …` command of the course's pages, the README and all notebooks is read by DVC's own parser and its overrides
are applied by DVC's own function, to the settings of the profile that the page is about.
"""

import contextlib
import functools
import io
import re
import shlex
import shutil
from pathlib import Path

import nbformat
import pytest
from dvc.cli.parser import get_main_parser
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps
from ruamel.yaml import YAML

from lib.course.exercises import NOT_YET, RIGHT
from lib.pipeline import settings
from lib.pipeline.run import stages

ROOT = Path(__file__).parents[1]
COURSE = ROOT / "notebooks/course"
PAGES = sorted(COURSE.glob("*.md"))
PIPELINE = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))


def texts(path):
    """Markdown of a page or notebook."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def commands(text):
    """`dvc …` in blocks of sh and in inline code; `dvc exp run -S ...` only says that something stands there."""
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", text)
    inline = re.findall(r"`([^`]+)`", re.sub(r"(?ms)^```.*?^```", "", text))
    lines = [line for block in blocks for line in block.splitlines()] + [" ".join(code.split()) for code in inline]
    parts = [part.strip() for line in lines for part in re.split(r"&&|;", line)]
    return [part for part in parts if part.startswith("dvc ") and "..." not in part]


@functools.cache
def profile(name):
    """The file of a profile, and what it says."""
    return (source := ROOT / "profiles" / f"{name}.yaml"), settings.load(source)


FOUND = [
    pytest.param(path, command, name, id=f"{path.stem}, {name}: {command}")
    for path in (*PAGES, ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.ipynb")))
    for command in dict.fromkeys(commands(texts(path)))
    # Students read the notebooks, too, and type what stands there.
    for name in (
        {".md": ["course"], ".ipynb": ["laptop", "course"]}[path.suffix] if path.parent != ROOT else ["laptop"]
    )
]


@pytest.mark.parametrize(("path", "command", "name"), FOUND)
def test_a_command_can_be_typed(path, command, name, tmp_path):
    words = shlex.split(command, comments=True)
    assert not re.search(r"(?<!\S)[^'\"\s]*[<>|]", command), "the shell would take < > | for itself"
    given = get_main_parser().parse_args(words[1:])
    source, before = profile(name)
    sweep = get_hydra_sweeps({"params.yaml": getattr(given, "set_param", None) or []})
    for overrides in sweep:
        shutil.copyfile(source, tmp_path / "params.yaml")
        after = before
        if overrides["params.yaml"]:
            apply_overrides(tmp_path / "params.yaml", overrides["params.yaml"])
            after = settings.load(tmp_path / "params.yaml")
        assert after != before or not overrides["params.yaml"] or len(sweep) > 1, "it changes nothing"
        known = stages(PIPELINE, after.model_dump(mode="json"))
        for target in getattr(given, "targets", None) or []:
            assert target in known or target in PIPELINE["stages"] or (ROOT / target).exists(), f"no stage {target}"
            study = target.partition("@")[2]
            if overrides["params.yaml"] and study in before.studies and not target.startswith("section"):
                assert after.study(study) != before.study(study), f"it changes nothing that {target} computes"


def test_commands_are_found():
    assert commands("Run `dvc repro\nplan && dvc push`, not `dvc exp run -S ...`.\n\n```sh\ndvc dag  # all\n```\n") == [
        "dvc dag  # all", "dvc repro plan", "dvc push"
    ]  # fmt: skip
    for page in PAGES[:-1]:  # a README stands behind 1 to 6
        assert any(" exp run -S " in command for command in commands(texts(page))), f"{page.name} has no hypothesis"


# ---- pages


def test_there_are_six_sessions():
    assert [page.stem[:2] for page in PAGES] == ["1-", "2-", "3-", "4-", "5-", "6-", "RE"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", texts(page)):
        assert (COURSE / link).is_file(), f"{page.name} links to {link}, which does not exist"


@pytest.mark.parametrize("page", PAGES[:-1], ids=lambda page: page.stem)
def test_a_session_has_all_its_parts(page):
    text = texts(page)
    parts = [re.split(r" \(| for |: ", heading)[0] for heading in re.findall(r"(?m)^## (.+)", text)]
    assert [part for part in parts if part != "Set-up"] == [
        "Goals", "Reading", "Opening", "Exercises", "Hypothesis", "Assignment", "Notes"
    ]  # fmt: skip
    assert sum(map(int, re.findall(r"(?m)^\| (\d+) \|", text.partition("## Assignment")[2]))) == 10, "ten points"
    assert re.search(r"about \d+ minutes?", text), "what the hypothesis costs"
    hypothesis = text.partition("## Hypothesis")[2].partition("## Assignment")[0]
    assert "python -m lib use course" in hypothesis, "the way back to the profile"
    notes = re.findall(r"(?m)^- \*\*(\w+)", text.partition("## Notes for the teacher")[2])
    assert {"Misconceptions", "Opening", "Expected", "Timing"} <= set(notes)


def named_exercises():
    return {
        name
        for path in (ROOT / "notebooks").glob("*.ipynb")
        for name in re.findall(r"(?m)^### (\d\d\.\d) ", texts(path))
    }


def test_exercises_of_notebooks_exist():
    named = {name for page in PAGES for name in re.findall(r"\b([0-4]\d\.\d)\b", texts(page))}
    assert named and named <= named_exercises()


def said(source, names):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(source, "<block>", "exec"), names)
    return out.getvalue()


@pytest.mark.parametrize("page", PAGES[:-1], ids=lambda page: page.stem)
def test_starters_fail_and_solutions_pass(page, monkeypatch):
    """Blocks run in order; a check behind its starter says *not yet*, and *right* behind its solution."""
    monkeypatch.chdir(ROOT)
    text, names, asked, checked = texts(page), {"__name__": "__main__"}, None, []
    for details, source in re.findall(r"(?s)(<details>.*?\n\n)?```python\n(.*?)```", text):
        output = said(source, names)
        if details:
            output = said(asked, names)
            assert f": {RIGHT}." in output and NOT_YET not in output, f"the solution fails: {output}"
            asked = None
        elif 'with check("' in source:
            assert asked is None, "the exercise before lacks a solution"
            assert f": {NOT_YET}. " in output, f"the starter passes: {output}"
            asked = source
            checked += re.findall(r'check\("(.*?)"\)', source)
    assert asked is None
    headings = re.findall(r"(?m)^### (C\d\.\d) .+ · ★{1,3} · \d+ minutes · computes ", text)
    assert checked == headings == [f"C{page.stem[0]}.{n}" for n in range(1, len(checked) + 1)]
