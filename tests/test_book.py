"""The book: links, equations, numbers and verdicts of one that is made of seven small notebooks."""

import contextlib
import re
from base64 import b64decode
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lib import book
from lib.book import extension, verdicts
from lib.report import claims

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of Sphinx's own extensions
ROOT = Path(__file__).parents[1]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
NAMES = [
    "02_context", "06_toy", "03_pretrain-masking", "03_pretrain-main", "10_main_results", "20_compare", "41_diagnosis",
]  # fmt: skip
CLAIMS = """\
id,whose,claim,paper,verdict,because,n seeds,n contexts,asked,estimate,interval,the paper shows it,published,constant \
model
rotation-context-removes-color,paper,Color falls.,"Figure 3, Table 7",holds (stand-in data),in 3 of 3 seeds,3,5,\
value / other <= 0.1,0.020,0.010 to 0.030,yes,0.051,fails
color-context-removes-rotation,paper,Rotation falls.,"Figure 3, Table 6",does not,in 0 of 3 seeds,3,5,\
value / other <= 0.25,0.900,0.800 to 0.950,no,0.227,fails
"""
ESSL = """\
id,whose,claim,paper,verdict,because,n seeds,n contexts,asked,estimate,interval,the paper shows it,published,constant \
model
a,essl,Turns help.,the figure that opens it (a sign),mixed,in 2 of 3 seeds,3,1,value − other > 0,0.010,\
-0.010 to 0.030,not printed,,fails
b,ours,More than the control.,,not testable,"one training of each, and no interval",1,1,value − other > 0,0.002,,\
not printed,,fails
"""
PICTURE = new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"})


def faults(folder):
    """What is wrong with a book, page by page: requests of a network, links to nothing, equations left as TeX."""
    pages = {
        path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts
    }
    anchors = {path.resolve(): set(re.findall(r'\bid="([^"]*)"', text)) for path, text in pages.items()}
    found = []
    for path, text in pages.items():
        name = path.relative_to(folder)
        for tag, link in re.findall(r'<(\w+)\b[^>]*?\s(?:href|src|action)="([^"]*)"', text):
            link, _, anchor = unquote(unescape(link)).partition("#")
            if re.match(r"\w+:|//", link):
                if tag != "a" and not link.startswith("data:"):
                    found.append(f"{name}: <{tag}> asks {link}")
                continue
            target = (path.parent / link.partition("?")[0]).resolve() if link else path.resolve()
            if not target.is_file():
                found.append(f"{name}: no file {link}")
            elif anchor and target in anchors and anchor not in anchors[target]:
                found.append(f"{name}: no {link}#{anchor}")
        for formula in re.findall(r"(?s)<math.*?</math>", text):
            if re.search(r"\\|mathvariant=\"(?!normal)|<merror", formula):  # browsers know no other variant
                found.append(f"{name}: {formula}")
    for path in folder.rglob("*.css"):
        found += [
            f"{path.name} asks {url}"
            for url in re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]*)", path.read_text("utf-8"))
        ]
    return found


def notebook(*cells):
    return new_notebook(
        cells=list(cells), metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    )


def repository(folder):
    """Writes into a folder what the book reads: seven notebooks, and verdicts."""
    for name in ("params.yaml", "profiles", "paper", "lib"):
        (folder / name).symlink_to(ROOT / name)
    made = {name: notebook(new_markdown_cell("# A title")) for name in NAMES}
    made["02_context"] = notebook(
        new_markdown_cell(
            "# Context and masks\n\nChen et al. (2020), notebook 03, [its mask](10_main_results.ipynb#paper-table-7)."
        ),
        new_code_cell("import sys\nsys.path.insert(0, '.')"),
        new_code_cell("p = 1", metadata={"tags": ["injected-parameters"]}),
        new_code_cell("q = p"),
        new_code_cell("print(q)", outputs=[new_output("stream", text="1\n")]),
        new_markdown_cell(
            "## 1. A loss\n\nWith $\\tau$ and $\\tau$:\n\n$$\\mathcal L = \\mathbb E_i x_i$$\n\nand\n\n$$y = x^2.$$"
        ),
        new_code_cell("plot()", outputs=[PICTURE]),
        new_markdown_cell(
            "[The loss](#equation-1), [figure](#figure-1), [03](03_pretrain.ipynb), [code](../lib/__init__.py)."
        ),
        new_markdown_cell("<details><summary>Solution</summary>\n\nIt is $\\tau$.\n\n</details>"),
    )
    for name in ("03_pretrain-masking", "03_pretrain-main"):
        made[name].cells.append(new_markdown_cell("## Exercises\n\n### 03.1 Which loss?"))
    made["10_main_results"] = notebook(
        new_markdown_cell("# Main results"),
        new_markdown_cell("## Tables 6 and 7: latents"),
        new_code_cell("show()", outputs=[PICTURE]),
    )
    made["41_diagnosis"] = notebook(
        new_markdown_cell("# Invariant or sensitive"),
        new_code_cell("sets()", outputs=[PICTURE]),
        new_code_cell("show()", outputs=[PICTURE]),
    )
    outs = "".join(f"  s{i}:\n    cmd: x\n    outs: [build/notebooks/{name}.ipynb]\n" for i, name in enumerate(NAMES))
    (folder / "dvc.yaml").write_text(f"stages:\n{outs}")
    for path in ("build/notebooks", "results/20_compare", "results/10_main_results", "results/41_diagnosis"):
        (folder / path).mkdir(parents=True)
    for name, of in made.items():
        nbformat.write(of, folder / f"build/notebooks/{name}.ipynb")
    (folder / "results/20_compare/claims.csv").write_text(CLAIMS)
    # The full evidence cannot decide the second claim yet, so what the profile says of it must stay in sight.
    undecided = (
        CLAIMS.splitlines()[0] + "\n" + CLAIMS.splitlines()[2].replace("does not,in 0 of 3 seeds", "not testable,x")
    )
    (folder / "results/full/20_compare").mkdir(parents=True)
    (folder / "results/full/20_compare/claims.csv").write_text(undecided + "\n")
    (folder / "results/41_diagnosis/verdicts.csv").write_text(ESSL)
    (folder / "results/10_main_results/figure-03.png").write_bytes(b64decode(PNG))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A book's folder."""
    with contextlib.chdir(repository(tmp_path_factory.mktemp("book"))):
        return book.build().parent.resolve()


def article(folder, name):
    text = (folder / f"{name}.html").read_text(encoding="utf-8")
    return re.search(r'(?s)<article class="bd-article">.*?</article>', text)[0]


def test_nothing_is_asked_of_a_network_and_every_link_leads_somewhere(built):
    assert faults(built) == []
    # The search reads an index that is a script, as a page from a file may.
    assert "mask" in (built / "searchindex.js").read_text(encoding="utf-8")


def test_equations_and_figures_have_numbers_that_can_be_linked(built):
    page = article(built, "notebooks/02_context")
    assert re.search(r'(?s)id="equation-2">.*?\(2\.2\)', page)
    assert re.search(r'(?s)<figure[^>]*id="figure-1".*Figure 2\.1\.</strong> A loss', page)
    assert 'href="#equation-1"' in page and 'href="10_main_results.html#paper-table-7"' in page
    assert "ℒ" in page and "𝔼" in page  # characters of their own: browsers know no other script letters


def test_exercises_of_all_studies_are_on_one_page(built):
    there, elsewhere = (article(built, f"notebooks/03_pretrain-{study}") for study in ("main", "masking"))
    assert "Which loss?" in there
    assert "Which loss?" not in elsewhere and 'href="03_pretrain-main.html"' in elsewhere


def test_setup_is_one_folded_cell(built):
    page = article(built, "notebooks/02_context")
    folded = re.findall(r'(?s)<details class="[^"]*hide.*?</details>', page)
    assert len(folded) == 1 and "print" not in folded[0]
    assert all(word in re.sub("<.*?>", "", folded[0]) for word in ("sys.path.insert", "p = 1", "q = p", book.SETUP))


def test_first_mentions_are_linked(built):
    page = article(built, "notebooks/02_context")
    assert len(re.findall(r'href="\.\./glossary.html#term-tau"', page)) == 1
    assert re.search(r'href="\.\./bibliography.html#[^"]+"[^>]*><span>Chen et al\. \(2020\)<', page)
    assert 'href="03_pretrain-main.html"><span>notebook 03<' in page


def test_a_notebook_is_named_by_its_number_and_study(built):
    contents = article(built, "index")
    assert "02 · Context and masks" in contents and "03 · A title: masking" in contents


def test_verdicts_begin_with_what_did_not_reproduce(built):
    page = article(built, "verdicts")
    assert re.findall("<h2>(.*?)<", page) == [
        "ContextSSL: what did not reproduce, and why", "E-SSL: what did not reproduce, and why",
        "ContextSSL: Main results", "E-SSL: Invariant or sensitive", "Our own: Invariant or sensitive",
    ]  # fmt: skip
    failed, held = "Rotation falls.", "Color falls."
    reasons = page[page.index("ContextSSL: what did not reproduce") : page.index("Not testable here")]
    assert failed in reasons and held not in reasons
    assert "0.900 (0.800 to 0.950)" in reasons and "own numbers do not" in reasons
    place = "notebooks/10_main_results.html#paper-table-"
    assert re.search(rf'(?s)<a class="holds[^>]*href="{place}7".*?holds \(stand-in data\).*?n 3 × 5, 0\.020', page)
    assert re.search(rf'class="does-not[^>]*href="{place}6"', article(built, "index"))
    assert re.search(r'(?s)class="mixed[^>]*href="notebooks/41_diagnosis.html#figure-2".*?n 3 × 1, 0\.010', page)
    ours = page[page.index("Our own:") :]
    assert "More than the control" in ours and "Turns help" not in ours


def test_the_same_bytes_twice(built, tmp_path):
    with contextlib.chdir(repository(tmp_path)):
        book.build()
    again = tmp_path / "build/book"
    files = {path.relative_to(built): path.read_bytes() for path in built.rglob("*") if path.is_file()}
    assert files == {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()}


def test_a_fault_is_named_and_leaves_no_book(tmp_path, monkeypatch):
    monkeypatch.chdir(repository(tmp_path))
    Path("build/book").mkdir()
    Path("build/book/index.html").write_text("of an earlier run")
    text = "# A\n\n[one](missing.ipynb) and [another](10_main_results.ipynb#figure-9)"
    nbformat.write(notebook(new_markdown_cell(text)), "build/notebooks/02_context.ipynb")
    with pytest.raises(RuntimeError, match=r"(?s)missing.*figure-9"):
        book.build()
    assert not Path("build/book").exists()


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(repository(tmp_path))
    nbformat.write(notebook(new_markdown_cell("no title")), "build/notebooks/02_context.ipynb")
    with pytest.raises(ValueError, match="02_context has no title"):
        book.build()
    Path("build/notebooks/02_context.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match="02_context"):
        book.build()


def test_pages_stand_in_the_order_that_teaches():
    contents = [
        {"part": "one", "pages": ["b", "a"]},
        {"part": "none", "pages": ["later"]},
        {"part": "two", "pages": ["c*"]},
    ]
    parts = book.ordered(contents, ["a-main", "a-other", "b", "c1", "c2"])
    assert parts == [("one", ["b", "a-main", "a-other"]), ("two", ["c1", "c2"])]
    with pytest.raises(ValueError, match="'d'"):
        book.ordered(contents, ["a", "d"])


def test_headings_name_tables_and_figures():
    named = ["paper-table-2", "paper-table-12", "paper-table-13", "paper-figure-4"]
    assert extension.artefacts("Tables 2 and 12 to 13, and Figure 4") == named
    assert extension.artefacts("A table of figures") == []


def test_cells_have_the_colors_of_verdicts():
    style = (ROOT / "lib/book/static/book.css").read_text(encoding="utf-8")
    told = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", style))
    assert told == {word.replace(" ", "-"): color for word, color in claims.VERDICTS.items()}
    assert list(verdicts.SIGNS) == list(claims.VERDICTS)


def test_every_paper_that_a_notebook_cites_is_in_the_bibliography():
    entries = (ROOT / "lib/book/references.bib").read_text(encoding="utf-8").split("\n@")
    known = {(re.search(r"author\s*= \{([\w ]+)", of)[1], re.search(r"year\s*= \{(\d+)", of)[1]) for of in entries}
    cited = set()
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        cited |= set(re.findall(r"([A-Z]\w+)(?: et al\.| and [A-Z]\w+),? \(?((?:19|20)\d\d)\b", text))
    assert cited and cited - known == set()
