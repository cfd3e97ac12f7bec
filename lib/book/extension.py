"""What the book adds to Sphinx: equations as MathML, numbers of equations and figures, links of texts.

Notebooks write plain Markdown, which GitHub and JupyterLab show as well. Here every displayed equation and every
picture gets a number with the notebook's before it, and can be linked: `[equation 2.1](02_context.ipynb#equation-1)`,
`#figure-3`; so can `#paper-table-9`, the section whose heading names that table of the paper. Where a page first
mentions an entry of the glossary or a paper of the bibliography, such as Chen et al. (2020), and wherever it mentions
a notebook, such as notebook 04, the words become a link.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.nodes import make_refnode

#: Words in these are not linked.
APART = (
    nodes.reference, nodes.title, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw,
    nodes.caption, nodes.term, nodes.rubric, nodes.comment,
)  # fmt: skip


# ---- equations


def mathml(latex: str, display: str = "inline") -> str:
    """An equation as MathML Core, in which a script or double-struck letter is a character of its own."""
    return re.sub(r'<mi mathvariant="(script|double-struck|bold)">(\w)</mi>', _letter, convert(latex, display=display))


def _letter(match: re.Match) -> str:
    name = f"{match[1]} {'small' if match[2].islower() else 'capital'} {match[2]}".upper()
    try:
        return f"<mi>{unicodedata.lookup(f'MATHEMATICAL {name}')}</mi>"
    except KeyError:  # such as ℒ and ℝ, which Unicode had before
        return f"<mi>{unicodedata.lookup(name)}</mi>"


def visit_math(self, node: nodes.math) -> None:
    self.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def visit_displaymath(self, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(mathml(node.astext(), "block"))
    if node.get("number"):
        self.body.append(f'<span class="eqno">({node["number"]})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


# ---- numbers


def artefacts(heading: str) -> list[str]:
    """Anchors of the paper's tables and figures that a heading names: ``Tables 9 and 12 to 13`` has three."""
    found = []
    for kind, listed in re.findall(r"\b(Table|Figure)s? ((?:\d+(?:, | and | to )?)+)", heading):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", listed):
            found += [f"paper-{kind.lower()}-{number}" for number in range(int(first), int(last or first) + 1)]
    return found


class Numbers(SphinxTransform):
    """Equations and figures with numbers and anchors, and anchors of the paper's tables and figures."""

    default_priority = 840  # Sphinx's domains look for anchors at 850

    def apply(self, **kwargs) -> None:
        number = re.match(r"\d+", PurePosixPath(self.env.docname).name)
        prefix = f"{int(number[0])}." if number else ""
        for count, equation in enumerate(self.document.findall(nodes.math_block), 1):
            equation["number"] = f"{prefix}{count}"
            self._anchor(equation, f"equation-{count}")
        for count, image in enumerate(self._pictures(), 1):
            section = _inside(image, nodes.section)
            heading = [child.deepcopy() for child in section[0].children]
            if isinstance(heading[0], nodes.Text):
                heading[0] = nodes.Text(re.sub(r"^\d+( ·|\.) ", "", heading[0]))
            caption = nodes.caption("", "", nodes.strong("", f"Figure {prefix}{count}."), nodes.Text(" "), *heading)
            figure = nodes.figure("", image.deepcopy(), caption)
            figure[0]["alt"] = caption.astext()
            image.replace_self(figure)
            self._anchor(figure, f"figure-{count}")
        named: dict[str, nodes.section] = {}
        for section in self.document.findall(nodes.section):
            for name in artefacts(section[0].astext()):
                if name not in named or isinstance(named[name].parent, nodes.document):
                    named[name] = section
        for name, section in named.items():
            target = nodes.target()
            self._anchor(target, name)
            section.insert(1, target)

    def _pictures(self) -> list[nodes.image]:
        """Pictures that cells show."""
        shown = self.document.findall(lambda node: isinstance(node, nodes.container) and "mime_type" in node)
        return [image for of in shown if of["mime_type"] == "image/png" for image in of.findall(nodes.image)]

    def _anchor(self, node: nodes.Element, anchor: str) -> None:
        """The name is the page's, so that pages may have the same anchors."""
        node["ids"] = [anchor]
        node["names"] = [f"{self.env.docname} {anchor}".lower()]
        self.document.note_explicit_target(node)


def _inside(node: nodes.Node, kind: type | tuple[type, ...]) -> nodes.Node | None:
    """The nearest of this kind around a node."""
    while node is not None and not isinstance(node, kind):
        node = node.parent
    return node


# ---- links


def link(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turns the first mentions on a page of symbols, terms and papers, and every mention of a notebook, into links."""
    if docname in ("glossary", "bibliography"):
        return
    to = partial(make_refnode, app.builder, docname)
    terms = {
        _key(name): partial(to, *place)
        for (kind, name), place in app.env.domaindata["std"]["objects"].items() if kind == "term"
    }  # fmt: skip
    for formula in list(doctree.findall(nodes.math)):
        make = None if _inside(formula.parent, APART) else terms.pop(_key(formula.astext()), None)
        if make:
            formula.replace_self(make(formula.deepcopy()))
    words = sorted((term for term in terms if re.fullmatch(r"[\w@²][\w\- @²]+", term)), key=len, reverse=True)
    once = _papers(app.env, to) + [(rf"\b(?i:{re.escape(term)}s?)\b", terms[term]) for term in words]
    # Of a notebook with a page for each study that of the headline, or the first.
    notebooks = {}
    for name in sorted(app.env.found_docs, key=lambda name: (not name.endswith("-main"), name)):
        if number := re.match(r"notebooks/(\d\d)_", name):
            notebooks.setdefault(number[1], partial(to, name, None))
    _link_words(doctree, once, [(rf"\b[Nn]otebook\s{number}\b", make) for number, make in notebooks.items()])


def _papers(env: BuildEnvironment, to: Callable) -> list[tuple[str, Callable]]:
    """For each paper of the bibliography how it is cited, such as ``Chen et al. (2020)`` or ``Chen et al., 2020``."""
    found = []
    for citation in env.get_domain("cite").citations:
        names = [" ".join(person.prelast_names + person.last_names) for person in citation.entry.persons["author"]]
        who = re.escape(" and ".join(names) if len(names) < 3 else f"{names[0]} et al.")
        year = citation.entry.fields["year"]
        make = partial(to, citation.bibliography_key.docname, citation.citation_id)
        found.append((rf"{who} \({year}\)|{who}, {year}", make))
    return found


def _link_words(doctree: nodes.document, once: list[tuple[str, Callable]], always: list[tuple[str, Callable]]) -> None:
    """Links words that fit a pattern, by what makes a link of a node."""
    patterns, seen = once + always, set()
    fits = re.compile("|".join(f"({pattern})" for pattern, _ in patterns))
    for text in [text for text in doctree.findall(nodes.Text) if not _inside(text.parent, APART)]:
        parts, end = [], 0
        for match in fits.finditer(text):
            index = match.lastindex - 1
            if index not in seen:
                parts += [nodes.Text(text[end : match.start()]), patterns[index][1](nodes.inline("", match[0]))]
                end = match.end()
                if index < len(once):
                    seen.add(index)
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(text[end:])])


def _key(term: str) -> str:
    """A term as it is looked up: words without case, formulas without spaces and braces."""
    return re.sub(r"[{}\s]", "", term) if re.search(r"[\\_^{]", term) or len(term) == 1 else term.lower()


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    app.add_transform(Numbers)
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True}
