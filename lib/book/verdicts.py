"""The page of claims and data: what did not reproduce and why, then each claim with its verdict, n and interval.

Everything is read from what notebooks have decided and written, all as a `lib.report.claims.table`: 20_compare's
claims.csv and the verdicts.csv of the notebooks that decide claims of their own; the same files below results/full/,
where the full evidence is there, and of E-SSL on photographs.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import pandas as pd

from lib.book.extension import artefacts
from lib.essl.data import TITLES
from lib.pipeline.settings import Params
from lib.report import claims as claiming
from lib.report.results import DATA

RESULTS, EXECUTED = Path("results"), Path("build/notebooks")
FULL, PHOTOGRAPHS = RESULTS / "full", RESULTS / "essl-cifar10-jpeg"
COMPARE, AUGMENTATIONS, DIAGNOSIS = "20_compare", "33_augmentation_tables", "41_diagnosis"
#: What a verdict begins with, and its sign, which shows without color, too.
SIGNS = {"holds": "●", "mixed": "◐", "does not": "○", "not testable": "–"}
FAILED = ("does not", "mixed")
#: Whose claims, apart from each other.
WHOSE = {"paper": "ContextSSL", "essl": "E-SSL", "ours": "Our own"}
#: Notebooks whose claims begin with what their data are.
WITH_DATA = (AUGMENTATIONS, "43_photonics", "44_bridge")
#: Which of a notebook's figures shows what its claims are about.
FIGURE = {DIAGNOSIS: 2, "42_essl_methods": 1, "43_photonics": 2, "44_bridge": 1}
#: How data are called; DATA and TITLES have the others.
PEOPLE = {"adult": "UCI Adult", "mimic3": "MIMIC-III", "mimic3-synthetic": "synthetic records, not MIMIC-III"}


def read(params: Params) -> pd.DataFrame:
    """A line for each claim and data set.

    Returns:
        ``page``: name of the notebook that shows it. ``claim``, ``whose`` (one of `WHOSE`), ``data``, ``profile``.
        ``verdict``: as decided. ``word``: one of `SIGNS`, with which it begins. ``facts``: n, estimate and interval, as
        text. ``because``, and ``likely``: our reading of why it fails, where there is one. ``shows``: whether the
        paper's own numbers show it (yes, no, not printed). ``paper``: where.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a claim's number has no notebook in `lib.report.claims.SUBJECTS`.
    """
    essl = TITLES[params.essl.name]
    data = {"41_diagnosis": essl, "42_essl_methods": essl, COMPARE: DATA[params.study("main")[0].dataset]}
    data |= {name: PEOPLE[params.study(name[3:])[0].dataset] for name in ("31_adult", "32_mimic")}
    found = []
    for profile, folder in {f"profile {params.profile}": RESULTS, "full evidence": FULL}.items():
        files = [folder / COMPARE / "claims.csv", *sorted(folder.glob("[0-9]*/verdicts.csv"))]
        for file in files if folder == RESULTS or files[0].is_file() else files[1:]:
            name = file.parent.name
            found.append(_lines(file, name, data.get(name, "")).assign(profile=profile))
    if (file := PHOTOGRAPHS / "verdicts.csv").is_file():
        found.append(_lines(file, DIAGNOSIS, TITLES["cifar10-jpeg"]).assign(profile="full evidence"))
    lines = pd.concat(found).sort_values("whose", key=lambda whose: whose.map([*WHOSE].index), kind="stable")
    lines = lines.reset_index(drop=True)
    lines["word"] = [next(word for word in SIGNS if verdict.startswith(word)) for verdict in lines["verdict"]]
    return lines


def _lines(file: Path, notebook: str, data: str) -> pd.DataFrame:
    """A table of claims in the columns of `read`, but for those that all of them have in common."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; run `dvc repro`.")
    lines = pd.read_csv(file, keep_default_na=False, dtype=str)
    page, claim = pd.Series(notebook, lines.index), lines["claim"]
    if notebook == COMPARE:
        words = {of["id"]: claiming.first_word(of) for of in claiming.load()}
        if unknown := [name for name in lines["id"] if words.get(name) not in claiming.SUBJECTS]:
            raise ValueError(
                f"{file} has the claim {unknown[0]!r}, and which notebook shows it is not known; run `dvc repro`, or "
                "add the first word of its number to SUBJECTS in lib/report/claims.py."
            )
        page = pd.Series([claiming.SUBJECTS[words[name]][1] for name in lines["id"]], lines.index)
    of_data = claim.where(page.isin(WITH_DATA), f"{data}: " + claim).str.partition(": ")
    readings = {of["id"]: of["likely"] for of in claiming.load(notebook=None if notebook == COMPARE else notebook)
                if "likely" in of}  # fmt: skip
    found = lines["estimate"] + (" (" + lines["interval"] + ")").where(lines["interval"] != "", "")
    facts = "n " + lines["n seeds"] + " × " + lines["n contexts"] + ", " + found
    return pd.DataFrame({
        "page": page, "claim": of_data[2].str[:1].str.upper() + of_data[2].str[1:], "whose": lines["whose"],
        "data": of_data[0], "verdict": lines["verdict"],
        "facts": facts.where(lines["estimate"] != "", ""), "because": lines["because"] + ", asked " + lines["asked"],
        "likely": lines["id"].map(readings).fillna(""), "shows": lines["the paper shows it"], "paper": lines["paper"],
    })  # fmt: skip


# ---- the page


def page(params: Params, names: Sequence[str]) -> tuple[str, str]:
    """All verdicts at a glance, and the whole page of claims, both as MyST Markdown.

    Args:
        names: of the executed notebooks.
    """
    lines = read(params)
    notebooks = {name: nbformat.read(EXECUTED / f"{name}.ipynb", as_version=4) for name in names}
    headings = {
        name: re.findall(r"^#+ (.+)$", "\n".join(c.source for c in of.cells if c.cell_type == "markdown"), re.M)
        for name, of in notebooks.items()
    }
    titles = {name: of[0] for name, of in headings.items()}
    # A verdict leads to the first table or figure of the paper that its claim names and a heading of its notebook, too,
    # or to the figure of the notebook that shows what it is about.
    places = {name: {anchor for heading in of for anchor in artefacts(heading)} for name, of in headings.items()}
    own = {name: f"#figure-{n}" for name, n in FIGURE.items() if name in notebooks and _pictures(notebooks[name]) >= n}
    lines["link"] = [
        f"notebooks/{name}.ipynb" + next((f"#{at}" for at in artefacts(paper) if at in places[name]), own.get(name, ""))
        for name, paper in zip(lines["page"], lines["paper"])
    ]
    glance = _glance(lines, titles)
    parts = ["# Claims and data: the verdicts", RULES, glance]
    # Of the full evidence where it decides.
    decided_last = lines.sort_values("word", key=lambda word: word != "not testable", kind="stable")
    latest = decided_last.drop_duplicates(["whose", "page", "claim", "data"], keep="last").sort_index()
    for whose in ("paper", "essl"):
        of = latest[latest["whose"] == whose]
        failed = of[of["word"].isin(FAILED)].sort_values("word", kind="stable")
        untested = of[of["word"] == "not testable"]
        if len(of):
            tested = "No claim can be tested." if len(untested) == len(of) else "All that can be tested hold."
            parts += [
                f"## {WHOSE[whose]}: what did not reproduce, and why", _reasons(failed) or tested,
                f"<details><summary>Not testable here: {len(untested)}</summary>", _reasons(untested), "</details>",
            ]  # fmt: skip
    for (whose, name), of in lines.groupby(["whose", "page"], sort=False):
        about = titles[name].removeprefix("E-SSL: ")
        heading = f"## {WHOSE[whose]}: {about[0].upper() + about[1:]}"
        parts += [heading, f"Shown in [{name}](notebooks/{name}.ipynb).", _claims(of)]
    return glance, "\n\n".join(parts) + "\n"


def _pictures(notebook: nbformat.NotebookNode) -> int:
    """How many pictures the cells of an executed notebook show."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return sum("image/png" in out.get("data", {}) for out in outputs)


RULES = """\
A claim *holds* if it does in every seed and in the whole 95 % interval, Student's over seeds and contexts (of one seed:
over its contexts alone), it *does not* if it does in none; anything between is *mixed*. It is *not testable* where its
model has not learned what is asked, where trainings of different budgets would be compared, where a number is missing,
or where nothing was repeated, so that there is no interval. Claims are predicates in `paper/claims.yaml`, and all are
asked of a constant model, too, of which none may hold. [20_compare](notebooks/20_compare.ipynb) decides those about
images, other notebooks their own. Of E-SSL's paper signs are known here, not numbers. Every verdict leads to the table
or figure behind it."""


def _glance(lines: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Questions and data × profiles, a sign for each claim of a paper; the last row of each paper counts."""
    profiles = list(lines["profile"].unique())
    rows = [["The papers' claims", "on", *profiles]]
    for whose in ("paper", "essl"):
        of_paper = lines[lines["whose"] == whose]
        of_paper = of_paper.assign(data=of_paper["data"].str.replace(r", \w+ latents$", "", regex=True))
        for (page_name, data), of in of_paper.groupby(["page", "data"], sort=False):
            signs = of.apply(lambda line: _link(line, SIGNS[line["word"]]), axis=1).groupby(of["profile"]).agg(" ".join)
            question = f"[{_cell(titles[page_name])}](notebooks/{page_name}.ipynb)"
            rows.append([question, data, *(signs.get(profile, "") for profile in profiles)])
        counts = pd.crosstab(of_paper["word"], of_paper["profile"]).reindex(SIGNS, fill_value=0)
        counts = counts.reindex(columns=profiles, fill_value=0)
        told = [", ".join(f"{word} {n}" for word, n in counts[profile].items() if n) for profile in profiles]
        if len(of_paper):
            rows.append([f"**{WHOSE[whose]}**", "", *told])
    legend = ", ".join(f"{sign} {word}" for word, sign in SIGNS.items())
    return _table(rows) + f"\n\n*{legend}*"


def _reasons(lines: pd.DataFrame) -> str:
    """A list: which claim, on which data, what was found, and why, as we read it."""
    told = []
    for _, line in lines.iterrows():
        claim, found = _cell(line["claim"]), _cell("; ".join(filter(None, [line["facts"], line["because"]])))
        also = " The paper's own numbers do not show it either." * (line["shows"] == "no")
        on = f"(*{line['data']}, {line['profile']}*)"
        likely = f" *Likely why:* {_cell(line['likely'])}" if line["likely"] and line["word"] in FAILED else ""
        told.append(f"- {_link(line, line['verdict'])} {claim} {on}: {found}.{also}{likely}")
    return "\n".join(told)


def _claims(lines: pd.DataFrame) -> str:
    """Claims × data and profiles, each cell a verdict in its color, with n and interval."""
    lines = lines.assign(column=lines["data"] + ", " + lines["profile"])
    columns = list(lines["column"].unique())
    rows = [["Claim", *columns, "In the paper", "The paper's numbers"]]
    for claim, of in lines.groupby("claim", sort=False):
        cells = {
            line["column"]: f"{_link(line, line['verdict'])}<br>{_cell(line['facts'])}" for _, line in of.iterrows()
        }
        first = of.iloc[0]
        shown = {"yes": "show it", "no": "do not show it"}.get(first["shows"], first["shows"])
        rows.append([_cell(claim), *(cells.get(at, "") for at in columns), _cell(first["paper"]), shown])
    return _table(rows)


def _link(line: pd.Series, text: str) -> str:
    """A verdict that leads to where it is shown, in its color, with all that is known where a mouse rests on it."""
    known = [f"{line['claim']} {line['verdict']}", line["facts"], line["because"]]
    title = "; ".join(filter(None, known)).replace('"', "'")
    return f'[{text}]({line["link"]} "{_cell(title)}"){{.{line["word"].replace(" ", "-")}}}'


def _cell(text: str) -> str:
    return re.sub(r"([|*_<>\[\]$~])", r"\\\1", text)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])
