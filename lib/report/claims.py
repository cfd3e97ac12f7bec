"""Claims as predicates: the same one is asked of our numbers, of the published ones and of a constant model.

A claim bounds one estimate (a number, a difference, a ratio, the worst change of a curve, or how far it dips). It is
decided from the count over seeds and from Student's interval over seeds and contexts. The head of paper/claims.yaml
says what each field means.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML
from scipy.stats import t

RELATIONS = {">=": np.greater_equal, "<=": np.less_equal, "<": np.less, ">": np.greater}
#: How far above its floor a number must be, without context, before anything is asked about it.
LEARNED = 0.1
#: What the runs behind a comparison must have in common, where a claim asks for it.
BUDGET = {"steps": "updates", "images": "images", "seeds": "seeds"}
COVERAGE = 0.95
#: Columns of a `table` that tell a reader the verdict; the others say what exactly was asked, and of whom.
BRIEF = ["claim", "verdict", "n seeds", "n contexts", "estimate", "interval", "because"]
#: What a verdict begins with, and its color, apart from the others for any color vision.
VERDICTS = {"holds": "#56b4a0", "mixed": "#ecc94b", "does not": "#d55e00", "not testable": "#e0e0e0"}
#: The subject of a claim about the paper's tables and figures, and the notebook that shows its numbers, by their first
#: word (`first_word`).
SUBJECTS = {
    "relative": ("adaptation to context", "10_main_results"),
    "individual": ("adaptation to context", "10_main_results"),
    "retrieval": ("retrieval", "10_main_results"), "neighbors": ("nearest neighbors", "16_neighbors"),
    "invariant": ("beside baselines", "10_main_results"), "trained": ("beside baselines", "10_main_results"),
    "shortcut": ("masking", "11_masking"), "masking": ("masking", "11_masking"),
    "auxiliary": ("auxiliary predictor", "12_auxiliary"), "labels": ("labels by context", "13_labels"),
    "single": ("one group alone", "14_single"), "drop": ("representation, embedding", "15_representations"),
    "augmentations": ("augmentations", "33_augmentation_tables"),
}  # fmt: skip
#: What stands below a `table`.
LEGEND = (
    "n: seeds of the run that has fewest, and contexts of each; estimate: what is asked about, of the worst case; "
    f"interval: {100 * COVERAGE:.0f} %, Student's over seeds and contexts (of one seed: over its contexts alone, "
    "without these none); the paper: the same asked of its numbers, pooled R² rescaled so that a constant is at 0; "
    "constant model: every number is its floor."
)


def first_word(claim: Mapping) -> str:
    """Of the name of the number that a claim is about, the part by which `SUBJECTS` knows it."""
    about = claim.get("left", claim.get("curve"))
    return re.split(r"[._]", about if isinstance(about, str) else about[0])[0]


@dataclass(frozen=True)
class Number:
    """One number of one run, by seed and context."""

    run: str
    values: np.ndarray  # (seeds, contexts)
    floor: float


@dataclass(frozen=True)
class Verdict:
    """What is found out about a claim; without numbers it has a word and a reason alone."""

    word: str  # holds | mixed | does not | not testable
    reason: str
    seeds: int = 0  # behind the count; of the run with the fewest, where several are compared
    contexts: int = 0
    estimate: float = float("nan")
    interval: tuple[float, float] = (float("nan"), float("nan"))

    def phrase(self, stand_in: bool) -> str:
        """The verdict in words; data that stand in for the paper's say so beside every "holds"."""
        return f"{self.word} (stand-in data)" if stand_in and self.word == "holds" else self.word


def load(path: str | Path = "paper/claims.yaml", notebook: str | None = None) -> list[dict]:
    """The claims that a notebook decides; without its name those of ContextSSL, which `20_compare` does.

    One with `each` is several, with the words of each entry in the place of their names in braces.

    Raises:
        ValueError: two claims have one id.
    """
    written = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8"))["claims"]
    claims = [_filled(claim, words) for claim in written for words in _each(claim.pop("each", [{}]))]
    ids = [claim["id"] for claim in claims]
    if twice := [name for name in ids if ids.count(name) > 1]:
        raise ValueError(f"{path} has the claim {twice[0]!r} twice; give one of them another id.")
    return [claim for claim in claims if claim.get("notebook") == notebook]


def by_name(numbers: pd.DataFrame) -> dict[str, Number]:
    """`lib.report.summary.numbers`, each name with its seeds, all of which have the same contexts."""
    numbers = numbers.assign(context_seed=numbers["context_seed"].fillna(-1), floor=numbers["floor"].fillna(0))
    numbers = numbers.sort_values(["seed", "context_seed"], kind="stable")
    return {
        name: Number(of["run"].iloc[0], of["value"].to_numpy(float).reshape(of["seed"].nunique(), -1),
                     float(of["floor"].mean()))
        for name, of in numbers.groupby("number", sort=False)
    }  # fmt: skip


def judge(claim: Mapping, numbers: Mapping[str, Number], runs: pd.DataFrame | None = None) -> Verdict:
    """Whether a claim holds of some numbers.

    *Holds*: in every seed, and so does the whole interval. *Does not*: in no seed, and no part of the interval does.
    *Mixed*: anything else. *Not testable*: a number is missing, a number that the claim starts from is not `LEARNED`
    above its floor, budgets differ where the claim is about matched ones, or nothing was repeated, neither with another
    seed nor in another context, so that there is no interval.

    Args:
        claim: an entry of paper/claims.yaml.
        numbers: `by_name`, of all runs or of some.
        runs: by name, with the columns of `BUDGET`; without it (published numbers, a constant model, one seed by
            intent) budgets count as matched, and a number that was not repeated decides alone.

    Raises:
        ValueError: the claim has no estimate or no relation.
    """
    try:
        cases, statistic = _cases(claim, numbers)
        learned = [n for pattern in _list(claim.get("learned", _start(claim))) for n in _find(pattern, numbers)]
    except LookupError as missing:
        return Verdict("not testable", missing.args[0])
    for name in learned:
        mean, floor = numbers[name].values.mean(), numbers[name].floor
        if mean <= floor + LEARNED:
            return Verdict("not testable", f"not learned: {name} is {mean:.3f}, its floor {floor:.3f}")
    names = list(dict.fromkeys(name for case in cases for name in case))
    if claim.get("matched") and runs is not None:
        if differ := _unmatched({numbers[name].run for name in names}, runs):
            return Verdict("not testable", f"budgets differ: {differ}")
        fewest = min(len(numbers[name].values) for name in names)  # so none is told by more trainings
        numbers = {name: replace(numbers[name], values=numbers[name].values[:fewest]) for name in names}

    holds = RELATIONS[claim["relation"]]
    worst = np.min if claim["relation"] in (">", ">=") else np.max

    def estimate(read: Callable[[str, str], np.ndarray]) -> np.ndarray:
        found = [np.atleast_1d(statistic(*(read(name, case[0]) for name in case))) for case in cases]
        shortest = min(map(len, found))
        return worst([of[:shortest] for of in found], axis=0)

    def by_seed(name: str, first: str) -> np.ndarray:
        """Seed by seed; a run other than the first is a mean over its seeds."""
        of = numbers[name].values.mean(1)
        return of if numbers[name].run == numbers[first].run else of.mean()

    each, point = estimate(by_seed), estimate(lambda name, _: numbers[name].values.mean()).item()
    fewest = min(len(numbers[name].values) for name in names)
    contexts = max(numbers[name].values.shape[1] for name in names)
    reach = _reach(estimate, {name: numbers[name] for name in names})
    if np.isnan(reach):
        if runs is not None:
            return Verdict("not testable", "one training of each, and no interval", fewest, contexts, point)
        reach = 0.0
    low, high = point - reach, point + reach
    held, inside = (holds(np.round(of, 12), claim["bound"]) for of in (each, [low, high]))  # 0.1 + 0.2 is 0.3
    if held.all() and inside.all():
        word = "holds"
    else:
        word = "mixed" if held.any() or inside.any() else "does not"
    count = f"in {held.sum()} of {len(held)} seeds"
    if len(held) == 1:
        count = "in the only seed" if held.all() else "not in the only seed"
    if fewest < len(held):
        count += f", against {fewest} of the other"
    if held.all() != inside.all() or held.any() != inside.any():
        count += ", but the interval crosses the bound"
    return Verdict(word, count, fewest, contexts, point, (float(low), float(high)))


def statement(claim: Mapping) -> str:
    """What is asked, such as ``last / first <= 0.1``."""
    if "curve" in claim:
        kind = "worst change between two lengths, " + claim["direction"]
        if claim["direction"] == "dips":
            kind = "least between below both ends by"
        return f"{kind} {claim['relation']} {claim['bound']:g}"
    kind = next((f" {sign} other" for key, sign in (("over", "/"), ("minus", "−")) if key in claim), "")
    return f"value{kind} {claim['relation']} {claim['bound']:g}"


def table(claims: Iterable[Mapping], ours, published, constant, runs: pd.DataFrame, stand_in: bool) -> pd.DataFrame:
    """A line for each claim: the verdict on ours, what the published numbers show, and that a constant model fails.

    Args:
        ours, published, constant: `by_name` of each. runs: ours. stand_in: our data are not the paper's.
    """
    lines = []
    for claim in claims:
        found, printed, blind = judge(claim, ours, runs), judge(claim, published), judge(claim, constant)
        shown = "not printed" if not printed.seeds else "yes" if printed.word == "holds" else "no"
        low, high = found.interval
        lines.append({
            "id": claim["id"], "whose": claim["whose"], "claim": claim["text"], "paper": claim.get("paper", ""),
            "verdict": found.phrase(stand_in), "because": found.reason, "n seeds": found.seeds,
            "n contexts": found.contexts, "asked": statement(claim),
            "estimate": f"{found.estimate:.3f}" if found.seeds else "",
            "interval": f"{low:.3f} to {high:.3f}" if low <= high else "",
            "the paper shows it": shown, "published": f"{printed.estimate:.3f}" if printed.seeds else "",
            "constant model": "no numbers" if blind.reason.startswith("no number") else
                              "not learned" if blind.word == "not testable" else blind.word,
        })  # fmt: skip
    return pd.DataFrame(lines)


def decide(
    notebook: str, numbers: pd.DataFrame, stand_in: bool, runs: pd.DataFrame | None = None
) -> pd.DataFrame:  # fmt: skip
    """The `table` of the claims that a notebook decides, where no numbers are published, but signs alone.

    Args:
        numbers: as of `lib.report.summary.numbers`; a constant model has their floors. runs: for `matched` claims.
    """
    constant = numbers.drop_duplicates("number").assign(value=lambda of: of["floor"])
    runs = pd.DataFrame() if runs is None else runs
    return table(load(notebook=notebook), by_name(numbers), {}, by_name(constant), runs, stand_in)


def counted(lines: pd.DataFrame) -> pd.DataFrame:
    """How many claims of the paper, and how many of ours, have each verdict."""
    return pd.crosstab(lines["whose"], lines["verdict"]).reindex(["paper", "ours"], fill_value=0)


# ---- parts of a judgment


def _each(entries: list[dict] | dict[str, list]) -> Iterable[dict]:
    """The entries of `each`; of lists by name all combinations."""
    if isinstance(entries, list):
        return entries
    return [dict(zip(entries, words)) for words in product(*entries.values())]


def _filled(part, words: Mapping[str, str]):
    """A claim, or a part of it, with words for the names in braces."""
    if isinstance(part, dict):
        return {key: _filled(value, words) for key, value in part.items()}
    if isinstance(part, list):
        return [_filled(value, words) for value in part]
    return part.format(**words) if isinstance(part, str) else part


def _list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _start(claim: Mapping) -> list[str]:
    """What a claim starts from, if it does not say so: what it divides by, or its curves without context."""
    return _list(claim.get("over", [])) + [f"{curve}.first" for curve in _list(claim.get("curve", []))]


def _find(pattern: str, numbers: Iterable[str]) -> list[str]:
    """Names that fit: ``*`` is any one part, ``first`` and ``last`` the shortest and the longest context.

    Raises:
        LookupError: there are none.
    """
    stem, _, end = pattern.rpartition(".")
    stem, plain = (re.escape(part).replace(r"\*", "[^.]+") for part in (stem, end))
    length = r"c(\d+)" if end in ("first", "last") else plain
    path = re.compile(rf"({stem})\.{length}")
    found = [fit for name in numbers if (fit := path.fullmatch(name))]
    if not found:
        raise LookupError(f"no number {pattern}")
    if end not in ("first", "last"):
        return [fit.string for fit in found]
    pick = min if end == "first" else max
    of_curve: dict[str, list[re.Match]] = {}
    for fit in found:
        of_curve.setdefault(fit[1], []).append(fit)
    return [pick(fits, key=lambda fit: int(fit[2])).string for fits in of_curve.values()]


def _cases(claim: Mapping, numbers: Mapping[str, Number]) -> tuple[list[tuple[str, ...]], Callable]:
    """Groups of names, and the estimate from the numbers of one group; the claim must hold for every group."""
    if "relation" not in claim or not {"curve", "left"} & set(claim):
        raise ValueError(f"The claim {claim.get('id')!r} needs `relation`, and `left` or `curve`.")
    if "curve" in claim:
        curves = [
            sorted(_find(f"{prefix}.*", numbers), key=lambda name: int(name.rpartition(".c")[2]))
            for pattern in _list(claim["curve"])
            for prefix in dict.fromkeys(name.rpartition(".")[0] for name in _find(f"{pattern}.first", numbers))
        ]
        if claim["direction"] == "dips":
            if short := [names for names in curves if len(names) < 3]:
                raise LookupError(f"no length between {' and '.join(short[0])}")
            return list(map(tuple, curves)), lambda *v: np.minimum(v[0], v[-1]) - np.min(v[1:-1], axis=0)
        sign = {"rises": 1, "falls": -1}[claim["direction"]]
        # Of all pairs of lengths, not of neighbors alone: small steps back add up.
        return list(map(tuple, curves)), lambda *v: np.min(
            [sign * (v[j] - v[i]) for j in range(len(v)) for i in range(j)], axis=0
        )
    left = [name for pattern in _list(claim["left"]) for name in _find(pattern, numbers)]
    for key, statistic in (("over", np.divide), ("minus", np.subtract)):
        if key in claim:
            right = [name for pattern in _list(claim[key]) for name in _find(pattern, numbers)]
            if not (pairs := [(a, b) for a in left for b in right if a != b]):
                raise LookupError(f"nothing to compare {left[0]} with")
            return pairs, statistic
    return [(name,) for name in left], lambda value: value


def _unmatched(names: set[str], runs: pd.DataFrame) -> str:
    """In what the budgets of runs differ, from least to most; empty if in nothing.

    Of several seeds and more as many are compared, but a single training is no match for several.
    """
    found = runs.loc[sorted(names), list(BUDGET)]
    found = found.assign(seeds=found["seeds"].map(len)).rename(columns=BUDGET)
    if found["seeds"].min() > 1:
        found = found.drop(columns="seeds")
    return ", ".join(f"{name} {of.min()} to {of.max()}" for name, of in found.items() if of.nunique() > 1)


def _reach(estimate: Callable, numbers: Mapping[str, Number]) -> float:
    """Half of Student's interval of an estimate, by the jackknife; nan if nothing was repeated.

    Seeds: of each run one is left out at a time. The variances of runs add up, with Welch's degrees of freedom: of a
    mean it is Student's interval, of the difference of two runs' means Welch's, and of differences within a run that of
    paired ones. Contexts: their draws are the same for all checkpoints, so that one is left out of all at a time, and
    more seeds do not make their share smaller. The half intervals of both add up in squares. What differs between seeds
    in some contexts alone is in both, so that the interval is rather too wide than too narrow.
    """
    means = {name: number.values.mean() for name, number in numbers.items()}

    def variance(repeated: Mapping[str, np.ndarray]) -> tuple[float, int]:
        """Of the estimate, and its degrees of freedom; each value is one seed's or one context's, (count,)."""
        count = len(next(iter(repeated.values())))
        kept = {name: (each.sum() - each) / (count - 1) for name, each in repeated.items()}
        left = estimate(lambda name, _: kept.get(name, np.full(count, means[name])))
        return (count - 1) / count * ((left - left.mean()) ** 2).sum(), count - 1

    of_seeds, of_contexts = [], []
    for run in dict.fromkeys(number.run for number in numbers.values()):
        of = {name: number.values for name, number in numbers.items() if number.run == run}
        if (seeds := min(map(len, of.values()))) > 1:
            of_seeds.append(variance({name: values[:seeds].mean(1) for name, values in of.items()}))
    if (contexts := max(number.values.shape[1] for number in numbers.values())) > 1:
        of = {name: number.values for name, number in numbers.items() if number.values.shape[1] == contexts}
        of_contexts.append(variance({name: values.mean(0) for name, values in of.items()}))
    reaches = [_student(of) for of in (of_seeds, of_contexts) if of]
    return float(np.hypot.reduce(reaches)) if reaches else float("nan")


def _student(variances: Iterable[tuple[float, int]]) -> float:
    """Half of the interval of a sum, from the variances of its parts and their degrees of freedom."""
    if not (total := sum(variance for variance, _ in variances)):
        return 0.0
    freedom = total**2 / sum(variance**2 / below for variance, below in variances)
    return t.ppf((1 + COVERAGE) / 2, freedom) * np.sqrt(total)
