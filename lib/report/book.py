"""The book: one HTML page per executed notebook, in the order of dvc.yaml, with a contents page.

    python -m lib book                  # build/notebooks/*.ipynb -> build/book/index.html

Pages need no network: pictures are inside them and equations become MathML, which browsers draw themselves.
"""

import html
import re
import shutil
from itertools import groupby
from pathlib import Path

import nbformat
from jinja2 import pass_context
from jinja2.runtime import Context
from jupyter_core.paths import ENV_JUPYTER_PATH
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter
from ruamel.yaml import YAML
from tqdm import tqdm

from lib.pipeline import settings
from lib.pipeline.run import stages

NOTEBOOKS, BOOK = Path("build/notebooks"), Path("build/book")

STYLE = """
:root { --ink: #1d2129; --soft: #5b6472; --line: #dfe3e8; --wash: #f6f7f9; --link: #1257a8; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 17px/1.6 Georgia, "Times New Roman", serif; }
main, nav { max-width: 50rem; margin: 0 auto; padding: 0 1.2rem; }
main { padding-bottom: 3rem; }
nav { display: flex; justify-content: space-between; gap: 1rem; padding-top: .9rem; padding-bottom: .9rem; }
nav, .toc .file, footer { font: 14px/1.5 system-ui, sans-serif; color: var(--soft); }
nav.top { border-bottom: 1px solid var(--line); }
nav.bottom { border-top: 1px solid var(--line); }
h1, h2, h3 { font-family: system-ui, sans-serif; line-height: 1.25; margin: 1.8em 0 .6em; }
h1 { font-size: 1.8rem; margin-top: 1.2rem; } h2 { font-size: 1.3rem; } h3 { font-size: 1.08rem; }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; } .anchor-link { display: none; }
img, svg { max-width: 100%; height: auto; }
code, pre { font: 13.5px/1.5 ui-monospace, Menlo, Consolas, monospace; } p code, li code { background: var(--wash); }
pre { margin: 0; padding: .7rem .9rem; overflow-x: auto; }
.input { background: var(--wash); border: 1px solid var(--line); border-radius: 5px; margin: 1rem 0 .4rem; }
.input .highlight { background: none; }
.output { margin: .4rem 0 1.2rem; overflow-x: auto; }
.celltag_injected-parameters .input { border-style: dashed; }
table { border-collapse: collapse; font: 14px/1.45 system-ui, sans-serif; margin: 1rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--soft); }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 4px solid var(--line); color: var(--soft); }
math { font-size: 1.08em; } math[display="block"] { margin: 1rem 0; overflow-x: auto; }
.toc li { margin: .5rem 0; }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="style.css">
</head>
<body>
{top}
<main>
{body}
</main>
{bottom}
</body>
</html>
"""


class MathRenderer(IPythonRenderer):
    """Markdown to HTML as nbconvert does it, with equations as MathML."""

    def block_math(self, body: str) -> str:
        return convert(body.strip(), display="block")

    def latex_environment(self, name: str, body: str) -> str:
        return convert(rf"\begin{{{name}}}{body}\end{{{name}}}", display="block")

    def inline_math(self, body: str) -> str:
        return convert(body.strip())


class PageExporter(HTMLExporter):
    """Cells of a notebook as a plain HTML fragment."""

    def __init__(self) -> None:
        super().__init__(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)

    def get_prefix_root_dirs(self) -> list[str]:
        """Where templates are looked for: in this environment, not among the user's own."""
        return ENV_JUPYTER_PATH

    @pass_context
    def markdown2html(self, context: Context, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = MathRenderer(escape=False, attachments=attachments, exclude_anchor_links=True)
        return MarkdownWithMath(renderer=renderer).render(source)


def pages(pipeline: dict, params: dict) -> list[str]:
    """Names of the executed notebooks in reading order, one for each study where a notebook runs for several.

    Names come from dvc.yaml and params, never from what lies in the folder, which may be of an earlier selection.
    """
    outs = [Path(out) for stage in stages(pipeline, params).values() for out in stage["outs"]]
    return [out.stem for out in outs if out.parent == NOTEBOOKS]


def title(notebook: NotebookNode, name: str) -> str:
    """The first heading, with the study's name where a stage has several pages."""
    headings = (re.search(r"^# +(.+)$", cell.source, re.M) for cell in notebook.cells if cell.cell_type == "markdown")
    heading = next((match[1].strip() for match in headings if match), name)
    _, _, run = name.partition("-")
    return f"{heading} ({run})" if run else heading


def _entry(group: list[tuple[str, str]]) -> str:
    """A line of the contents: one page, or one notebook with a link for each of its studies."""
    if len(group) == 1:
        name, heading = group[0]
        return f'<li><a href="{name}.html">{html.escape(heading)}</a> <span class="file">{name}</span></li>'
    heading = html.escape(group[0][1].rpartition(" (")[0])
    links = ", ".join(f'<a href="{name}.html">{name.partition("-")[2]}</a>' for name, _ in group)
    return f'<li>{heading}: {links} <span class="file">{group[0][0].partition("-")[0]}</span></li>'


def build() -> Path:
    """Writes the book anew; returns its contents page.

    Raises FileNotFoundError if an executed notebook is missing.
    """
    pipeline = YAML(typ="safe", pure=True).load(Path("dvc.yaml").read_text(encoding="utf-8"))
    params = settings.load().model_dump(mode="json")
    names = pages(pipeline, params)
    for name in names:
        if not (NOTEBOOKS / f"{name}.ipynb").is_file():
            raise FileNotFoundError(f"{NOTEBOOKS / name}.ipynb does not exist; run `dvc repro`.")
    notebooks = [nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4) for name in names]
    titles = [title(notebook, name) for notebook, name in zip(notebooks, names, strict=True)]

    shutil.rmtree(BOOK, ignore_errors=True)
    BOOK.mkdir(parents=True)
    (BOOK / "style.css").write_text(STYLE + HtmlFormatter(style="friendly").get_style_defs(".highlight"), "utf-8")
    exporter = PageExporter()
    for index, name in enumerate(tqdm(names, desc="book", unit="page", mininterval=1)):
        links = ['<a href="index.html">Contents</a>']
        for place, step, arrow in ((0, -1, "← {}"), (2, 1, "{} →")):
            there = index + step
            known = 0 <= there < len(names)
            text = arrow.format(html.escape(titles[there])) if known else ""
            links.insert(place, f'<a href="{names[there]}.html">{text}</a>' if known else "<span></span>")
        bars = {side: f'<nav class="{side}">{"".join(links)}</nav>' for side in ("top", "bottom")}
        body, _ = exporter.from_notebook_node(notebooks[index])
        page = PAGE.format(title=html.escape(titles[index]), body=body, **bars)
        (BOOK / f"{name}.html").write_text(page, encoding="utf-8")
    entries = "\n".join(_entry(list(group)) for _, group in groupby(zip(names, titles), lambda e: e[0].split("-")[0]))
    body = (
        "<h1>ContextSSL, a reproducible compendium</h1>\n"
        f"<p>The executed notebooks of profile <code>{params['profile']}</code>, in reading order. Change "
        "<code>params.yaml</code>, run <code>dvc repro</code>, and these pages follow.</p>\n"
        f'<ol class="toc">\n{entries}\n</ol>'
    )
    index_page = BOOK / "index.html"
    index_page.write_text(PAGE.format(title="ContextSSL", body=body, top="", bottom=""), encoding="utf-8")
    return index_page


def main() -> None:
    print(f"The book: {build()}")
