"""The reference, results/full/rows: where a run's numbers stand in it, and the claims under single changes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from scipy.stats import t

from lib.report import claims as claiming
from lib.report import results, summary
from lib.report.results import Results

ROWS = Path("results/full/rows")
#: Numbers of the headline that are set beside the reference; of curves the first and the last.
HEADLINE = r"(?:relative|individual|individual_strong_probe)\..*|shortcut\..*"
#: What two runs may differ in and still be the same experiment.
FREE = {"name", "seeds", "study", "sections", "checkpoint_every"}


def read(study: str) -> Results | None:
    """The reference's runs of the section that a study has its name from, None if it has none yet."""
    return results.read(study, folder=ROWS, each_context=True) if (ROWS / study / "runs.json").is_file() else None


def headlines() -> list[Results]:
    """The reference's headline, and then each single change of it in the place of the headline."""
    studies = [of for study in ("main", "robustness") if (of := read(study))]
    names = [(of, name) for of in studies for name in of.runs.index[of.runs["method"] == "contextssl"]]
    return [summary.as_headline(of, name) for of, name in names]


def headline(of: Results) -> pd.Series:
    """The settings of the run that is shown first; its name is the series'."""
    runs = of.of("main").runs
    return runs[runs["method"] == "contextssl"].iloc[0]


def differing(ours: Results, reference: Results) -> list[str]:
    """What the headline's settings differ in, such as ``steps 12, there 1500``."""
    mine, theirs = headline(ours), headline(reference)
    keys = [key for key in mine.index.intersection(theirs.index) if key not in FREE]
    return [f"{key} {mine[key]}, there {theirs[key]}" for key in keys if str(mine[key]) != str(theirs[key])]


def place(ours: Results, reference: Results, coverage: float = 0.95) -> pd.DataFrame:
    """The headline's numbers beside those of the reference, each a mean over seeds of means over contexts.

    Returns:
        z: our mean's distance from the reference's, in standard deviations of the latter's seeds. place: inside where
        the mean of as many seeds as ours would lie in `coverage` of repetitions (Student's t, both means uncertain).
    """
    mine, theirs = (
        claiming.by_name(summary.numbers(summary.as_headline(of, headline(of).name))) for of in (ours, reference)
    )
    lines = []
    for name in _ends(pd.Index(mine).intersection(pd.Index(theirs))):
        own, other = mine[name].values.mean(1), theirs[name].values.mean(1)
        spread, away = other.std(ddof=1) if len(other) > 1 else float("nan"), own.mean() - other.mean()
        reach = t.ppf((1 + coverage) / 2, len(other) - 1) * spread * (1 / len(own) + 1 / len(other)) ** 0.5
        lines.append({
            "number": name, "ours": own.mean(), "n": len(own), "reference": other.mean(), "lowest": other.min(),
            "highest": other.max(), "n of reference": len(other), "z": away / spread if spread else float("nan"),
            "place": "one seed" if len(other) == 1 else "inside" if abs(away) <= reach + 1e-6 else "outside",
        })  # fmt: skip
    return pd.DataFrame(lines)


def _ends(names: pd.Index) -> list[str]:
    """Of the headline's numbers those that are no curve, and the ends of those that are."""
    found = pd.Series(names[names.str.fullmatch(HEADLINE)], dtype="str")
    told = found.str.extract(r"^(?P<curve>.*)\.c(?P<length>\d+)$").assign(length=lambda of: of["length"].astype(float))
    lengths = told.groupby("curve")["length"]
    end = told["length"].isin([0]) | (told["length"] == lengths.transform("max")) | told["curve"].isna()
    # Without a context the number is the same under all kinds, so it counts once.
    kind = told["curve"].str.replace(r"\.\w+\.", ".", regex=True)
    again = told["length"].eq(0) & told.assign(kind=kind).duplicated(["kind", "length"])
    return found[end & ~again].tolist()


def under_changes(claims: Sequence[Mapping], of: Results) -> pd.DataFrame:
    """Claims about the headline asked of each ContextSSL run in its place.

    Returns:
        A line for each claim and run: run, claim, verdict, because, n (seeds), and `ratio`: the value with the longest
        context as a share of that without; of a claim about no context, its estimate.
    """
    lines = []
    for run in of.runs.index[of.runs["method"] == "contextssl"]:
        named = claiming.by_name(summary.numbers(summary.as_headline(of, run)))
        for claim in claims:
            found = claiming.judge(claim, named)
            curve = str(claim.get("curve", claim.get("left"))).removesuffix(".last") + ".c"
            ends = sorted((int(name.removeprefix(curve)), name) for name in named if name.startswith(curve))
            values = [named[name].values.mean() for _, name in ends]
            ratio = values[-1] / values[0] if len(values) > 1 else found.estimate
            lines.append({"run": run, "claim": claim["id"], "verdict": found.word, "because": found.reason,
                          "n": found.seeds, "ratio": ratio})  # fmt: skip
    return pd.DataFrame(lines)
