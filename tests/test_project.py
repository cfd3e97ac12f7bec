"""What holds the repository together: pins, clean notebooks, and a pipeline that declares what it uses."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
from ruamel.yaml import YAML

from lib import book
from lib.pipeline import run, settings

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
yaml = YAML(typ="safe", pure=True)
PARAMS = settings.load(ROOT / "params.yaml").model_dump(mode="json")
STAGES = run.stages(yaml.load((ROOT / "dvc.yaml").read_text(encoding="utf-8")), PARAMS)
OF_NOTEBOOKS = {name: stage for name, stage in STAGES.items() if "lib run " in stage["cmd"]}
#: They check parameters and carry them to the notebook, where the values are declared; or say "right" to an exercise.
CARRIERS = {"lib/pipeline/settings.py", "lib/pipeline/run.py", "lib/course/exercises.py"}


def pins():
    """The requirements in environment.yml's pip section, as conda reads it."""
    dependencies = yaml.load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    return next(entry["pip"] for entry in dependencies if isinstance(entry, dict))


def read(path):
    return nbformat.read(path, as_version=4)


def imported_files(source):
    """Files of lib/ that a Python source imports, as paths relative to the root."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        paths = [Path(*name.split(".")).with_suffix(".py") for name in names if name.split(".")[0] == "lib"]
        found |= {path for path in paths if (ROOT / path).is_file()}
    return found


def closure(source):
    """`imported_files` of a source and of everything that these import."""
    found, waiting = set(), imported_files(source)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting |= imported_files((ROOT / path).read_text(encoding="utf-8"))
    return {str(path) for path in found}


def python_of(notebook):
    return "\n".join(
        re.sub(r"(?m)^\s*[%!].*$", "pass", cell.source) for cell in notebook.cells if cell.cell_type == "code"
    )


def test_conda_and_make_install_the_same_pins():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    expression = re.search(r"sed -n '(.+?)' environment.yml", makefile)[1].replace("$$", "$")
    by_make = subprocess.run(
        ["sed", "-n", expression, ROOT / "environment.yml"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert by_make == pins()
    assert [pin for pin in pins() if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin)] == []


@pytest.mark.parametrize("pin", pins())
def test_environment_has_the_pins(pin):
    name, version = pin.split("==")
    assert metadata.version(name).split("+")[0] == version, "run `make` to bring the environment up to its pins"


def test_code_is_clean():
    checked = subprocess.run([sys.executable, "-m", "ruff", "check", "--quiet", ROOT], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert [cell.id for cell in notebook.cells] == [f"cell-{n:02}" for n in range(1, len(notebook.cells) + 1)]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_reads_only_its_declared_settings(path):
    """`defaults`, all of params.yaml, serves the parameters cell alone; elsewhere it would slip past DVC."""
    users = [
        cell.id
        for cell in read(path).cells
        if cell.cell_type == "code" and re.search(r"\bdefaults\s*\[", cell.source)
        if "parameters" not in cell.metadata.get("tags", [])
    ]
    assert users == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_results_in_prose_are_computed(path):
    """No `.73`, `73.3 %` or `0.734` in markdown, which would go stale; the paper's own numbers name their place."""
    typed = []
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"(?s)```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\([^)]*https?://[^)]*\)", "", cell.source)
            for sentence in re.split(r"(?<=[.;:])\s|\n", text):
                if not re.search(r"paper|released|table|figure|section|appendix|eq\.|equation", sentence, re.I):
                    typed += re.findall(r"(?<![\w.])(?:0?\.\d{2,}|\d+\.\d+ ?%)(?![\w.])", sentence)
    assert typed == []


@pytest.mark.parametrize("name", OF_NOTEBOOKS)
def test_stage_and_notebook_agree(name):
    """A notebook's parameters are the sections and items that its stage declares."""
    stem, *items = STAGES[name]["cmd"].partition("lib run ")[2].split()
    notebook = ROOT / "notebooks" / f"{stem}.ipynb"
    run.parameters_of(notebook, STAGES[name], dict(item.split("=") for item in items), PARAMS)
    assert f"notebooks/{stem}.ipynb" in STAGES[name]["deps"]


def used_of_lib(name):
    """Files of lib/ that a stage runs."""
    command = STAGES[name]["cmd"].split()
    if name in OF_NOTEBOOKS:
        return closure(python_of(read(ROOT / "notebooks" / f"{command[4]}.ipynb"))) - CARRIERS
    module = {"plan": "lib/pipeline/settings.py", "book": "lib/book/__init__.py"}[name]
    found = closure((ROOT / module).read_text(encoding="utf-8")) | {module}
    return found if name == "plan" else found - CARRIERS


def covers(dependency, path):
    return path == dependency or path.startswith(dependency + "/")


@pytest.mark.parametrize("name", sorted({name.split("@")[0] for name in STAGES}))
def test_stage_depends_on_what_it_imports(name):
    """A file too few gives stale results; a folder or file that nothing is used of recomputes for nothing."""
    alike = [stage for stage in STAGES if stage.split("@")[0] == name]
    used = set().union(*map(used_of_lib, alike))
    declared = {dep for stage in alike for dep in STAGES[stage]["deps"] if dep.startswith("lib")}
    unused = {dep for dep in declared if not any(covers(dep, path) for path in used)}
    undeclared = {path for path in used if not any(covers(dep, path) for dep in declared)}
    assert (sorted(undeclared), sorted(unused)) == ([], [])


def test_every_notebook_is_a_stage():
    used = {dep for stage in STAGES.values() for dep in stage["deps"] if dep.endswith(".ipynb")}
    assert used == {f"notebooks/{path.name}" for path in NOTEBOOKS}


def test_the_overview_leads_through_the_notebooks_as_the_book_does():
    """notebooks/README.md has each notebook's own question, in the order of the book's contents."""
    overview = (ROOT / "notebooks/README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[\w+\]\((\w+)\.ipynb\) \| (.+) \|$", overview, re.M)
    contents = yaml.load((ROOT / "lib/book/contents.yaml").read_text(encoding="utf-8"))
    ordered = book.ordered(contents, [*book.OWN, *(path.stem for path in NOTEBOOKS)])
    assert [name for name, _ in listed] == [name for _, part in ordered for name in part if name not in book.OWN]
    for name, question in listed:
        cells = read(ROOT / f"notebooks/{name}.ipynb").cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        assert question == " ".join(re.search(r"(?s)\*\*(.+?\?)\*\*", text)[1].split()), name


def test_every_command_of_the_notebooks_exists():
    """`dvc exp run -S key=value target` in a text names a key that params.yaml has, or a run may have, and a stage."""
    known = set(STAGES) | {name.split("@")[0] for name in STAGES}
    wrong = []
    for path in [*NOTEBOOKS, ROOT / "README.md"]:
        cells = read(path).cells if path.suffix == ".ipynb" else []
        text = "\n".join(cell.source for cell in cells) or path.read_text(encoding="utf-8")
        for command in re.findall(r"dvc (?:exp run|repro) [^`\n]*", text):
            for key in re.findall(r"-S ['\"]?(\+{0,2}[\w.-]+)=", command):
                if not _settable(key):
                    wrong.append((path.name, command))
            said = re.sub(r"(?:#|&&|[,.;:)`]).*", "", re.sub(r"-S (?:'[^']*'|\"[^\"]*\"|\S+)", "", command))
            targets = re.sub(r"--?\S+(?: \d+)?|dvc (?:exp run|repro)", "", said)
            wrong += [(path.name, command) for target in targets.split() if target not in known]
    assert wrong == []


def _settable(key):
    section, *rest = key.lstrip("+").split(".")
    if section in ("runs", "bases") and len(rest) == 2 and rest[1] in settings.Changes.model_fields:
        written = rest[0] in PARAMS[section] and rest[1] in YAML_PARAMS[section][rest[0]]
        return rest[0] in PARAMS[section] and written != key.startswith("+")
    inner = PARAMS.get(section)
    for part in rest:
        inner = inner.get(part) if isinstance(inner, dict) else None
    return inner is not None and not key.startswith("+")


YAML_PARAMS = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def test_params_are_those_of_the_laptop():
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "profiles/laptop.yaml").read_bytes()


def test_store_is_small():
    files = [path for path in (ROOT / ".dvc/store").rglob("*") if path.is_file()]
    assert files, "the pinned data is missing from .dvc/store; run `dvc push data.dvc`"
    assert sum(path.stat().st_size for path in files) <= 30e6
