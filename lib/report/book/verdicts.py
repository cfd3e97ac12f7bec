"""The page of claims and data: what did not reproduce and why, then each claim with its verdict, n and interval.

Everything is read from what notebooks have decided and written: results/20_compare/claims.csv (and, where the full
evidence is there, the same file below results/full/) and the verdicts.csv of notebooks that decide claims of their own.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import pandas as pd

from lib.pipeline import settings
from lib.pipeline.settings import Params
from lib.report import claims as claiming
from lib.report.book.extension import artefacts
from lib.report.results import DATA

RESULTS, EXECUTED = Path("results"), Path("build/notebooks")
COMPARE, AUGMENTATIONS = "20_compare", "33_augmentation_tables"
#: What a verdict begins with, and its sign, which shows without color, too.
SIGNS = {"holds": "●", "mixed": "◐", "does not": "○", "not testable": "–"}
#: The notebook that shows a number, by the beginning of its name in paper/claims.yaml.
SHOWN = {
    "relative": "10_main_results", "individual": "10_main_results", "retrieval": "10_main_results",
    "invariant": "10_main_results", "trained": "10_main_results", "shortcut": "11_masking", "masking": "11_masking",
    "auxiliary": "12_auxiliary", "labels": "13_labels", "single": "14_single", "drop": "15_representations",
    "neighbors": "16_neighbors", "augmentations": AUGMENTATIONS,
}  # fmt: skip
#: How data are called; DATA has the others.
PEOPLE = {"adult": "UCI Adult", "mimic3": "MIMIC-III", "mimic3-synthetic": "synthetic records, not MIMIC-III"}


def read(params: Params) -> pd.DataFrame:
    """A line for each claim and data set.

    Returns:
        ``page``: name of the notebook that shows it. ``claim``, ``whose`` (paper, ours), ``data``, ``profile``.
        ``verdict``: as decided. ``word``: one of `SIGNS`, with which it begins. ``facts``: n, estimate and interval, as
        text. ``because``. ``shows``: whether the paper's own numbers show it (yes, no, not printed). ``paper``: where.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a claim's number has no notebook in `SHOWN`.
    """
    found = []
    for profile, folder in {f"profile {params.profile}": RESULTS, "full evidence": RESULTS / "full"}.items():
        if folder != RESULTS and not (folder / COMPARE / "claims.csv").is_file():
            continue
        of = [_of_images(folder / COMPARE / "claims.csv", DATA[params.study("main")[0].dataset])]
        for study in settings.PEOPLE:
            for file in folder.glob(f"*_{study}/verdicts.csv"):
                of.append(_of_notebook(file, PEOPLE[params.study(study)[0].dataset]))
        found.append(pd.concat(of).assign(profile=profile))
    lines = pd.concat(found, ignore_index=True)
    lines["word"] = [next(word for word in SIGNS if verdict.startswith(word)) for verdict in lines["verdict"]]
    return lines


def _csv(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; run `dvc repro`.")
    return pd.read_csv(file, keep_default_na=False, dtype=str)


def _of_images(file: Path, data: str) -> pd.DataFrame:
    lines, pages = _csv(file), {}
    for claim in claiming.load():
        about = claim.get("left", claim.get("curve"))
        pages[claim["id"]] = re.split(r"[._]", about if isinstance(about, str) else about[0])[0]
    if unknown := [name for name in lines["id"] if pages.get(name) not in SHOWN]:
        raise ValueError(
            f"{file} has the claim {unknown[0]!r}, and which notebook shows it is not known; run `dvc repro`, or add "
            "the first word of its number to SHOWN in lib/report/book/verdicts.py."
        )
    page = lines["id"].map(pages).map(SHOWN)
    # Claims about pairs of augmentations begin with the pair.
    pair = lines["claim"].where(page == AUGMENTATIONS, f"{data}: " + lines["claim"]).str.partition(": ")
    found = lines["estimate"] + (" (" + lines["interval"] + ")").where(lines["interval"] != "", "")
    facts = "n " + lines["n seeds"] + " × " + lines["n contexts"] + ", " + found
    return pd.DataFrame({
        "page": page, "claim": pair[2].str[:1].str.upper() + pair[2].str[1:], "whose": lines["whose"],
        "data": pair[0], "verdict": lines["verdict"],
        "facts": facts.where(lines["estimate"] != "", ""), "because": lines["because"] + ", asked " + lines["asked"],
        "shows": lines["the paper shows it"], "paper": lines["paper"],
    })  # fmt: skip


def _of_notebook(file: Path, data: str) -> pd.DataFrame:
    """Verdicts of a notebook that decides claims of its own, as `lib.people.verdicts` writes them."""
    lines = _csv(file)
    whose, found = lines["claim"].str.partition(": "), lines["evidence"].str.partition(", asked ")
    decided = found[1] != ""
    return pd.DataFrame({
        "page": file.parent.name, "claim": whose[2].str[:1].str.upper() + whose[2].str[1:], "whose": whose[0],
        "data": data, "verdict": lines["verdict"], "facts": ("n " + lines["n"] + ", " + found[0]).where(decided, ""),
        "because": ("asked " + found[2]).where(decided, lines["evidence"]), "shows": lines["the paper shows it"],
        "paper": "",
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
    # A verdict leads to the first table or figure of the paper that its claim names and a heading of its notebook, too.
    named = {name: {anchor for heading in of for anchor in artefacts(heading)} for name, of in headings.items()}
    lines["link"] = [
        f"notebooks/{name}.ipynb" + next((f"#{at}" for at in artefacts(paper) if at in named[name]), "")
        for name, paper in zip(lines["page"], lines["paper"])
    ]
    glance = _glance(lines, titles)
    of_paper = lines[lines["whose"] == "paper"]
    of_paper = of_paper.drop_duplicates(
        ["page", "claim", "data"], keep="last"
    )  # of the full evidence where it is there
    failed = of_paper[of_paper["word"].isin(["does not", "mixed"])].sort_values("word", kind="stable")
    untested = of_paper[of_paper["word"] == "not testable"]
    parts = [
        "# Claims and data: the verdicts", RULES, glance, "## What did not reproduce, and why",
        _reasons(failed) or "Every claim of the paper that could be tested holds.",
        f"<details><summary>Not testable here: {len(untested)}</summary>", _reasons(untested), "</details>",
    ]  # fmt: skip
    for name, of in lines.groupby("page", sort=False):
        parts += [f"## {titles[name]}", f"Shown in [{name}](notebooks/{name}.ipynb).", _claims(of)]
    return glance, "\n\n".join(parts) + "\n"


RULES = """\
A claim *holds* if it does in every seed and in the whole 95 % interval over seeds and contexts, it *does not* if it
does in none; anything between is *mixed*. It is *not testable* where its model has not learned what is asked, where
trainings of different budgets would be compared, or where a number is missing. Claims about images are predicates in
`paper/claims.yaml`, which [20_compare](notebooks/20_compare.ipynb) asks of our numbers, of the published ones and of a
constant model; notebooks about other data decide their own. Every verdict leads to the table or figure behind it."""


def _glance(lines: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Questions and data × profiles, a sign for each claim of the paper; the last row counts."""
    of_paper = lines[lines["whose"] == "paper"]
    of_paper = of_paper.assign(data=of_paper["data"].str.replace(r", \w+ latents$", "", regex=True))
    profiles = list(of_paper["profile"].unique())
    rows = [["The paper's claims", "on", *profiles]]
    for (page_name, data), of in of_paper.groupby(["page", "data"], sort=False):
        signs = of.apply(lambda line: _link(line, SIGNS[line["word"]]), axis=1).groupby(of["profile"]).agg(" ".join)
        question = f"[{_cell(titles[page_name])}](notebooks/{page_name}.ipynb)"
        rows.append([question, data, *(signs.get(profile, "") for profile in profiles)])
    counts = pd.crosstab(of_paper["word"], of_paper["profile"]).reindex(SIGNS, fill_value=0)
    told = [", ".join(f"{word} {n}" for word, n in counts[profile].items() if n) for profile in profiles]
    legend = ", ".join(f"{sign} {word}" for word, sign in SIGNS.items())
    return _table([*rows, [f"*{legend}*", "", *told]])


def _reasons(lines: pd.DataFrame) -> str:
    """A list: which claim, on which data, what was found."""
    told = []
    for _, line in lines.iterrows():
        claim, found = _cell(line["claim"]), _cell("; ".join(filter(None, [line["facts"], line["because"]])))
        also = " The paper's own numbers do not show it either." * (line["shows"] == "no")
        on = f"(*{line['data']}, {line['profile']}*)"
        told.append(f"- {_link(line, line['verdict'])} {claim} {on}: {found}.{also}")
    return "\n".join(told)


def _claims(lines: pd.DataFrame) -> str:
    """Claims × data and profiles, each cell a verdict in its color, with n and interval."""
    lines = lines.assign(column=lines["data"] + ", " + lines["profile"])
    columns = list(lines["column"].unique())
    rows = [["Claim", *columns, "In the paper", "Its own numbers"]]
    for claim, of in lines.groupby("claim", sort=False):
        cells = {
            line["column"]: f"{_link(line, line['verdict'])}<br>{_cell(line['facts'])}" for _, line in of.iterrows()
        }
        first = of.iloc[0]
        shown = {"yes": "show it", "no": "do not show it"}.get(first["shows"], first["shows"])
        own = "*Ours:* " * (first["whose"] == "ours")
        rows.append([own + _cell(claim), *(cells.get(at, "") for at in columns), _cell(first["paper"]), shown])
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
