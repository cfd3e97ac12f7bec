"""The book: the executed notebooks as a site of Sphinx that opens from a file and asks no network for anything.

    python -m lib book                  # build/notebooks/*.ipynb -> build/book/index.html

Its sources are laid out as the repository is, executed notebooks in the place of those without outputs, so that a link
means the same in JupyterLab, on GitHub and in the book. No notebook has directives: contents.yaml orders the pages,
conf.py sets up Sphinx, extension.py numbers and links, verdicts.py writes the page of claims.
"""

import io
import posixpath
import re
import shutil
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path, PurePosixPath

import nbformat
from nbformat import NotebookNode
from ruamel.yaml import YAML
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from lib.book import verdicts
from lib.pipeline import settings
from lib.pipeline.run import stages

NOTEBOOKS, BOOK, SCRATCH = Path("build/notebooks"), Path("build/book"), Path("build/.scratch/book")
COURSE = Path("notebooks/course")
HERE = Path(__file__).parent
#: Pages that are no notebooks, by their names in contents.yaml.
OWN = ("index", "verdicts", "glossary", "bibliography")
SETUP = "Set-up: imports and parameters"
#: Where a text names a file: a link or picture of Markdown or of HTML.
LINK = re.compile(r"""(\]\(|\b(?:src|href)=["'])([^)\s#"':]+)""")


def executed(pipeline: Mapping, params: Mapping) -> list[str]:
    """Names of the executed notebooks, one for each study where a notebook runs for several.

    Names come from dvc.yaml and params, never from what lies in the folder, which may be of an earlier selection.
    """
    outs = [Path(out) for stage in stages(pipeline, params).values() for out in stage["outs"]]
    return [out.stem for out in outs if out.parent == NOTEBOOKS]


def ordered(contents: Sequence[Mapping], names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The parts of the book that have pages: title, and names of pages in their order.

    Args:
        contents: of contents.yaml. A page stands where the first pattern fits its name, with or without its study.
        names: of all pages.

    Raises:
        ValueError: a page has no place.
    """
    left, parts = list(names), []
    for part in contents:
        inside = []
        for pattern in part["pages"]:
            inside += [name for name in left if fnmatch(name, pattern) or fnmatch(name.partition("-")[0], pattern)]
            left = [name for name in left if name not in inside]
        if inside:
            parts.append((part["part"], inside))
    if left:
        raise ValueError(f"{HERE.name}/contents.yaml has no place for the page {left[0]!r}; name it in a part.")
    return parts


def prepared(notebook: NotebookNode, name: str) -> NotebookNode:
    """The notebook, changed in place: number and study in its title, and cells of set-up folded into one.

    Exercises, which are the same for all studies, stay on the page of the study main.

    Raises:
        ValueError: it has no title.
    """
    titled = [cell for cell in notebook.cells if cell.cell_type == "markdown" and re.search(r"^# .", cell.source, re.M)]
    if not titled:
        raise ValueError(f"The notebook {name} has no title; begin its first cell with '# '.")
    number, study = re.match(r"\d*", name)[0], name.partition("-")[2]
    words = rf"# {number} · \1" if number else r"# \1"
    titled[0].source = re.sub(r"^# (.+)$", words + f": {study}" * bool(study), titled[0].source, count=1, flags=re.M)

    begin = [place for place, cell in enumerate(notebook.cells) if cell.source.startswith("## Exercises")]
    if begin and study not in ("", "main"):
        told = f"[Exercises]({name.partition('-')[0]}.ipynb) are on the page of the study main."
        notebook.cells[begin[0] :] = [nbformat.v4.new_markdown_cell(told)]

    setup, cells = False, []
    for cell in notebook.cells:
        setup = _is_setup(cell, after=setup)
        cells.append((setup, cell))
    notebook.cells = []
    for setup, group in groupby(cells, key=lambda entry: entry[0]):
        group = [cell for _, cell in group]
        if setup:
            group[0].source = "\n\n".join(cell.source for cell in group)
            group = [group[0]]
            group[0].metadata = NotebookNode(tags=["hide-input"], mystnb={"code_prompt_show": SETUP})
        notebook.cells += group
    for cell in notebook.cells:
        if cell.metadata.get("jupyter", {}).get("source_hidden"):  # folded in JupyterLab, too
            cell.metadata.tags = [*cell.metadata.get("tags", []), "hide-input"]
    return notebook


def _is_setup(cell: NotebookNode, after: bool) -> bool:
    """Imports and parameters, and what follows these and shows nothing."""
    told = {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))
    shows = cell.cell_type != "code" or cell.outputs
    return not shows and bool(after or told or "sys.path.insert" in cell.source)


class Sources:
    """The folder of sources, a mirror of the repository that has the book's pages and the files that they link to.

    Args:
        folder: is made anew. names: of all pages.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.pages = folder, {f"notebooks/{name}.ipynb" for name in names if name not in OWN}
        shutil.rmtree(folder, ignore_errors=True)

    def write(self, path: str, text: str) -> None:
        """Writes a page that is Markdown."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self._linked(text, path), encoding="utf-8")

    def write_notebook(self, path: str, notebook: NotebookNode) -> None:
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = self._linked(cell.source, path)
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)

    def _linked(self, text: str, path: str) -> str:
        """The text with links that lead to pages; files that are none are copied."""
        return LINK.sub(lambda match: match[1] + self._follow(match[2], PurePosixPath(path).parent), text)

    def _follow(self, link: str, folder: PurePosixPath) -> str:
        """Where a link of a page in this folder has to lead to."""
        path = posixpath.normpath(folder / link)
        if path == "README.md":
            return posixpath.relpath("index.md", folder)
        if path.endswith(".ipynb") and path not in self.pages:  # of a notebook with a page for each study
            studies = sorted(page for page in self.pages if page.startswith(path.removesuffix(".ipynb") + "-"))
            chosen = [page for page in studies if page.endswith("-main.ipynb")] or studies
            return posixpath.relpath(chosen[0], folder) if chosen else link
        if path not in self.pages and not path.startswith(("..", "/")) and Path(path).is_file():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, self.folder / path)
        return link


def build() -> Path:
    """Writes the book anew; returns its first page.

    Raises:
        FileNotFoundError: an executed notebook, or a file of verdicts, is missing.
        ValueError: a page has no place in contents.yaml, or no title.
        RuntimeError: Sphinx has a complaint, such as a link that leads nowhere; then there is no book.
    """
    yaml = YAML(typ="safe", pure=True)
    params = settings.load()
    names = executed(yaml.load(Path("dvc.yaml").read_text(encoding="utf-8")), params.model_dump(mode="json"))
    for name in names:
        if not (NOTEBOOKS / f"{name}.ipynb").is_file():
            raise FileNotFoundError(f"{NOTEBOOKS / name}.ipynb does not exist; run `dvc repro`.")
    course = sorted(file for file in COURSE.glob("*") if file.suffix in (".md", ".ipynb"))
    parts = ordered(
        yaml.load((HERE / "contents.yaml").read_text(encoding="utf-8")),
        [*OWN, *names, *(f"course/{file.stem}" for file in course)],
    )
    shutil.rmtree(BOOK, ignore_errors=True)
    sources = Sources(SCRATCH / "source", names)
    sources.pages |= {file.as_posix() for file in course}
    sources.write("references.bib", (HERE / "references.bib").read_text(encoding="utf-8"))
    for name in names:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        sources.write_notebook(f"notebooks/{name}.ipynb", prepared(notebook, name))
    for file in course:
        if file.suffix == ".md":
            sources.write(file.as_posix(), file.read_text(encoding="utf-8"))
        else:
            notebook = nbformat.read(file, as_version=4)
            sources.write_notebook(file.as_posix(), prepared(notebook, f"course/{file.stem}"))
    glance, judged = verdicts.page(params, names)
    lists = "\n".join(_toctree(part, inside) for part, inside in parts)
    for name in OWN:
        text = judged if name == "verdicts" else (HERE / f"{name}.md").read_text(encoding="utf-8")
        sources.write(f"{name}.md", text.replace("<!-- glance -->", glance).replace("<!-- contents -->", lists))

    out, told = SCRATCH / "html", io.StringIO()
    for folder in (out, SCRATCH / "doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    with patch_docutils(HERE), docutils_namespace():  # so that a process can build more than one
        app = Sphinx(
            sources.folder, HERE, out, SCRATCH / "doctrees", "html", status=None, warning=told, warningiserror=True
        )
        app.build()
    if app.statuscode:
        faults = re.sub(r"\x1b\[[\d;]*m", "", told.getvalue()).replace(f"{sources.folder.resolve()}/", "").strip()
        raise RuntimeError(f"The book is not built, since Sphinx complains:\n{faults}")
    for leftover in (".buildinfo", "objects.inv"):
        (out / leftover).unlink(missing_ok=True)
    out.replace(BOOK)
    return BOOK / "index.html"


def _toctree(part: str, names: Sequence[str]) -> str:
    """A part's pages as a directive; the first page is where it stands."""
    inside = "\n".join(name if name in OWN else f"notebooks/{name}" for name in names if name != "index")
    return f"```{{toctree}}\n:caption: {part}\n:maxdepth: 1\n\n{inside}\n```\n"


def main() -> None:
    print(f"The book: {build()}")
