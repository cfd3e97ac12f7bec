"""Claims about the tables of persons, decided as all claims are (`lib.report.claims`) and written as verdicts.csv."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from lib.people.fairness import RATES
from lib.report import claims, results

#: A score that starts here has no room to rise.
CEILING = 0.995
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
    """A line for each claim, written as CSV: claim, evidence, verdict, n, and whether the paper's numbers show it.

    Args:
        wanted: claims with the keys of paper/claims.yaml ``whose``, ``text``, ``left``, ``minus``, ``relation``,
            ``bound`` and ``learned``. A number is ``<environment>.<metric>.<first|last>``, of the shortest and the
            longest context, or ``blind.<metric>``, what boosting has without the attribute's column.
        rows: of `lib.people.tables.save`, ours and references. paper: published numbers.
        stand_in: our data are not the paper's. path: of the file.

    Returns:
        What is in the file. ``evidence``: means over seeds and contexts, the estimate with its interval, what was asked
        of it, and in how many seeds it is so. ``n``: seeds.

    Raises:
        ValueError: a claim holds of a constant, so that it says nothing.
    """
    ours, lengths = results.select(rows, source="ours"), rows["context_length"]
    ends = {"first": f"c{lengths.min()}", "last": f"c{lengths.max()}"}
    blind = results.select(rows, source=BLIND).assign(number=lambda of: "blind." + of["metric"], run=BLIND)
    found = claims.by_name(pd.concat([_curves(ours), blind]))
    constant = claims.by_name(_curves(ours.assign(value=ours["floor"]).dropna(subset="floor")))
    published = claims.by_name(_curves(paper.assign(run="published", seed=0, context_seed=pd.NA, floor=0.0)))
    lines = []
    for claim in wanted:
        text, whose = claim["text"], claim["whose"]
        claim = claim | {side: _at(claim[side], ends) for side in ("left", "minus", "learned") if side in claim}
        if claims.judge(claim, constant).word == "holds":
            raise ValueError(f"The claim {text!r} holds of a constant, so it says nothing; ask for more.")
        of, printed = claims.judge(claim, found), claims.judge(claim, published)
        word, evidence = of.phrase(stand_in), of.reason
        if of.seeds:
            before, after = (found[claim[side]].values.mean() if side in claim else None for side in ("minus", "left"))
            means = f"{after:.3f}" if before is None else f"{before:.3f} → {after:.3f}, {of.estimate:+.3f}"
            low, high = of.interval
            asked = f"asked {claim['relation']} {claim['bound']:g}"
            evidence = f"{means} (95 % {low:+.3f} to {high:+.3f}), {asked}: {of.reason}"
            if claim["relation"] == ">" and before is not None and before >= CEILING:
                word, evidence = "not testable", f"{means}: starts at its ceiling"
        lines.append({
            "claim": f"{whose}: {text}", "evidence": evidence, "verdict": word, "n": ours["seed"].nunique(),
            "the paper shows it": "not printed" if not printed.seeds else "yes" if printed.word == "holds" else "no",
        })  # fmt: skip
    table = pd.DataFrame(lines)
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
