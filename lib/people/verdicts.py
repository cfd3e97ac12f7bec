"""Claims about the tables of persons, decided as all claims are (`lib.report.claims`) and written as verdicts.csv."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from lib.people.fairness import RATES
from lib.report import claims, results

#: A score that starts here has no room to rise.
CEILING = 0.995
#: Keys of a claim that name numbers.
SIDES = ("left", "minus", "learned")
#: Who has seen all columns but the attribute's own.
BLIND = "gradient boosting, without gender"


def change(
    whose: str, environment: str, text: str, metric: str, relation: str, bound: float = 0.0, **learned: str
) -> dict:
    """The claim that a metric changes so from no context to the longest; ``learned``: what else must be learned."""
    name, curve = f"{environment} context: {text}", f"{environment}.{metric}"
    ends = {"left": f"{curve}.last", "minus": f"{curve}.first"}
    return {"whose": whose, "text": name, "relation": relation, "bound": bound} | ends | learned


def beyond_the_paper(score: str) -> list[dict]:
    """Claims of ours on both tables: whether the outcome is kept, the column forgotten, and gaps smaller at one AUC.

    Args:
        score: metric of the outcome, which must still be read where its gaps are compared.
    """
    found = []
    for environment in ("equivariant", "invariant"):
        start = f"{environment}.{score}.first"
        found.append(change("ours", environment, "the outcome stays readable", score, ">=", -0.01, learned=start))
    for probe in ("flipped", "standardized"):
        curve = f"invariant.gender_{probe}"
        found.append({
            "whose": "ours", "text": f"invariant context: the gender column is forgotten ({probe}, at most .55)",
            "left": f"{curve}.last", "relation": "<=", "bound": 0.55, "learned": f"{curve}.first",
        })  # fmt: skip
    for gap, label in zip(RATES, ("true", "false")):
        gap, end = f"{gap}_matched", f"invariant.{score}.last"
        shrinks = change("ours", "invariant", f"the {label}-positive gap shrinks, at one AUC", gap, "<", learned=end)
        text = f"invariant context: no larger {label}-positive gap than boosting without gender, at one AUC"
        found += [shrinks, shrinks | {"text": text, "relation": "<=", "minus": f"blind.{gap}"}]
    return found


def decide(
    wanted: Sequence[Mapping], rows: pd.DataFrame, paper: pd.DataFrame, stand_in: bool, path: Path | str
) -> pd.DataFrame:
    """A `lib.report.claims.table`, written as CSV; ``because`` begins with the means that are compared.

    Args:
        wanted: claims with the keys of paper/claims.yaml ``whose``, ``text``, ``left``, ``minus``, ``relation``,
            ``bound`` and ``learned``. A number is ``<environment>.<metric>.<first|last>``, of the shortest and the
            longest context, or ``blind.<metric>``, what boosting has without the attribute's column.
        rows: of `lib.people.tables.save`, ours and references. paper: published numbers.
        stand_in: our data are not the paper's. path: of the file.

    Returns:
        What is in the file.

    Raises:
        ValueError: a claim holds of a constant, so that it says nothing.
    """
    ours, lengths = results.select(rows, source="ours"), rows["context_length"]
    ends = {"first": f"c{lengths.min()}", "last": f"c{lengths.max()}"}
    blind = results.select(rows, source=BLIND).assign(number=lambda of: "blind." + of["metric"], run=BLIND)
    found = claims.by_name(pd.concat([_curves(ours), blind]))
    constant = claims.by_name(_curves(ours.assign(value=ours["floor"]).dropna(subset="floor")))
    published = claims.by_name(_curves(paper.assign(run="published", seed=0, context_seed=pd.NA, floor=0.0)))
    at_ends = [claim | {side: _at(claim[side], ends) for side in SIDES if side in claim} for claim in wanted]
    asked = [claim | {"id": re.sub(r"\W+", "-", claim["text"].lower()).strip("-")} for claim in at_ends]
    table = claims.table(asked, found, published, constant, pd.DataFrame(), stand_in)
    if empty := table.loc[table["constant model"] == "holds", "claim"].tolist():
        raise ValueError(f"The claim {empty[0]!r} holds of a constant, so it says nothing; ask for more.")
    for at, claim in enumerate(asked):
        if not table.loc[at, "n seeds"]:
            continue
        before, after = (found[claim[side]].values.mean() if side in claim else None for side in ("minus", "left"))
        means = f"{after:.3f}" if before is None else f"{before:.3f} → {after:.3f}"
        table.loc[at, "because"] = f"{means}, {table.loc[at, 'because']}"
        if claim["relation"] == ">" and before is not None and before >= CEILING:
            table.loc[at, ["verdict", "because"]] = "not testable", f"{means}, starts at its ceiling"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    return table


def _curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the name of their number, as `lib.report.claims.by_name` takes them."""
    length = rows["context_length"].astype(str)
    return rows.assign(number=rows["environment"] + "." + rows["metric"] + ".c" + length)


def _at(number: str, ends: Mapping[str, str]) -> str:
    stem, _, end = number.rpartition(".")
    return f"{stem}.{ends.get(end, end)}"
