"""Verdicts on the claims of paper/claims.yaml about tables of persons, decided as all are (`lib.report.claims`)."""

import pandas as pd

from lib.report import claims, results

#: A score that starts here has no room to rise.
CEILING = 0.995
#: Who has seen all columns but the attribute's own.
BLIND = "gradient boosting, without gender"


def decide(notebook: str, rows: pd.DataFrame, paper: pd.DataFrame, stand_in: bool) -> pd.DataFrame:
    """The `lib.report.claims.table` of a notebook's claims; ``because`` begins with the means that are compared.

    Args:
        notebook: 31_adult or 32_mimic. rows: of `lib.people.tables.save`, ours and references. paper: published
            numbers. stand_in: our data are not the paper's.
    """
    ours, blind = _curves(results.select(rows, source="ours")), results.select(rows, source=BLIND)
    found = claims.by_name(pd.concat([ours, blind.assign(number="blind." + blind["metric"], run=BLIND)]))
    constant = claims.by_name(ours.assign(value=ours["floor"]).dropna(subset="floor"))
    published = claims.by_name(_curves(paper.assign(run="published", seed=0, context_seed=pd.NA, floor=0.0)))
    asked = claims.load(notebook=notebook)
    table = claims.table(asked, found, published, constant, pd.DataFrame(), stand_in)
    for at, claim in enumerate(asked):
        if not table.loc[at, "n seeds"]:
            continue
        sides = [claim[side] for side in ("minus", "left") if side in claim]
        means = [claims.judge({"left": side, "relation": ">", "bound": 0}, found).estimate for side in sides]
        why = table.loc[at, "because"]
        if claim["relation"] == ">" and "minus" in claim and means[0] >= CEILING:
            table.loc[at, "verdict"], why = "not testable", "starts at its ceiling"
        table.loc[at, "because"] = " → ".join(f"{mean:.3f}" for mean in means) + f", {why}"
    return table


def _curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the name of their number, as `lib.report.claims.by_name` takes them."""
    length = rows["context_length"].astype(str)
    return rows.assign(number=rows["environment"] + "." + rows["metric"] + ".c" + length)
