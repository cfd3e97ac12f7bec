"""Fairness of what can be read from an embedding: outcomes, the sensitive attribute, and references without a model.

Everything here takes `lib.data.views.Views` of *persons*: two views each, view 0 the person as recorded and view 1 the
same person with the sensitive attribute flipped; ``targets`` (N, 1) hold the attribute, 0 or 1, which is the views' one
group and gives it its name. Metrics have the names of paper/published.csv where the paper has them: `read` says which.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import product

import numpy as np
import pandas as pd
import torch
from fairlearn.metrics import (
    demographic_parity_difference,
    equal_opportunity_difference,
    equalized_odds_difference,
    false_positive_rate_difference,
)
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from lib.evaluation.embeddings import context_caches, embed, encode
from lib.evaluation.evaluate import COLUMNS

#: Raise it whenever the same model and persons give other numbers: finished evaluations are kept under it.
VERSION = 3
#: Differences between the groups: 0 is equal.
GAPS = ("equalized_odds", "equality_of_opportunity", "predictive_equality", "demographic_parity")
#: Those of them that compare error rates, one each; told at the base rate, too, so that thresholds do not decide.
RATES = ("equality_of_opportunity", "predictive_equality")


def gaps(truth: np.ndarray, decision: np.ndarray, attribute: np.ndarray) -> dict[str, float]:
    """Differences between the two groups, in [0, 1]; 0 is equal treatment by that measure.

    Args:
        truth, decision, attribute: (N,) of 0 and 1.

    Returns:
        ``equalized_odds``: the larger of the differences of true positive and of false positive rates (Hardt et al.
        2016; fairlearn). ``equality_of_opportunity``: that of true positive rates alone. ``predictive_equality``: that
        of false positive rates alone (Chouldechova 2017). ``demographic_parity``: that of the shares of positive
        decisions, whatever the truth.

    Raises:
        ValueError: a group has no positive or no negative, so that a rate is not defined.
    """
    for value in (0, 1):
        if len(set(truth[attribute == value])) < 2:
            raise ValueError(
                f"The group {value} has {int((attribute == value).sum())} persons of one outcome only, so its error "
                "rates are not defined; take more persons."
            )
    measures = (
        equalized_odds_difference, equal_opportunity_difference, false_positive_rate_difference,
        demographic_parity_difference,
    )  # fmt: skip
    return {name: float(of(truth, decision, sensitive_features=attribute)) for name, of in zip(GAPS, measures)}


def score(name: str, truth: np.ndarray, probability: np.ndarray, attribute: np.ndarray) -> dict[str, float]:
    """``<name>_accuracy`` of the likeliest class; for two classes ``<name>_auc`` and `gaps` at one half, too.

    ``<gap>_at_base_rate`` is one of `RATES` where as many persons get a yes as deserve one, those with the highest
    probability: at one half a weak classifier says yes to few, and few yeses make small gaps.

    Args:
        name: of the outcome. truth: (N,) classes 0 .. K - 1. probability: (N, K). attribute: (N,) of 0 and 1.
    """
    decision = probability.argmax(1)
    found = {f"{name}_accuracy": float(accuracy_score(truth, decision))}
    if probability.shape[1] == 2:
        found[f"{name}_auc"] = float(roc_auc_score(truth, probability[:, 1]))
        found |= gaps(truth, decision, attribute)
        found |= _gaps_at_base_rate(truth, probability[:, 1], attribute)
    return found


def _gaps_at_base_rate(truth: np.ndarray, score: np.ndarray, attribute: np.ndarray) -> dict[str, float]:
    """Yes to the highest scores, as often as it is deserved; the yeses left for equal scores are shared among them."""
    threshold = np.sort(score)[-truth.sum()]
    above, equal = score > threshold, score == threshold
    yes = above + equal * (truth.sum() - above.sum()) / equal.sum()
    rates = pd.Series(yes).groupby([truth, attribute]).mean().unstack()
    return {f"{gap}_at_base_rate": float(abs(rates.at[t, 1] - rates.at[t, 0])) for t, gap in zip((1, 0), RATES)}


def matched(rows: pd.DataFrame, outcome: str) -> pd.DataFrame:
    """`RATES` at the base rate and at one AUC for all, as rows of the metrics ``<gap>_matched``.

    Whoever judges a person, with chance 1 - w, by the score of another person drawn at random says yes as often as
    before, while AUC - 1/2 and both gaps shrink to the share w (notebook 31 derives it). So each row's classifier is
    weakened to the lowest AUC of all rows. A constant, whose AUC is one half, has no such row.

    Args:
        rows: evaluations and references with `score` of the outcome. outcome: name of one with two classes.
    """
    same = rows.columns.difference(["metric", "value", "floor"], sort=False).tolist()
    auc = rows.loc[(rows["metric"] == f"{outcome}_auc") & (rows["value"] > 0.5), [*same, "value"]]
    share = (auc["value"].min() - 0.5) / (auc["value"] - 0.5)
    at_base_rate = rows[rows["metric"].isin([f"{gap}_at_base_rate" for gap in RATES])]
    found = at_base_rate.merge(auc[same].assign(share=share), on=same)
    metric = found["metric"].str.replace("_at_base_rate", "_matched")
    return found.assign(metric=metric, value=found["value"] * found["share"], floor=np.nan)[rows.columns]


def persons(views, split: str) -> torch.Tensor:
    """Rows (n,) of the persons of a split as recorded (view 0); + 1 is the flipped one."""
    return views.objects(split) * views.views


def _probe(table: np.ndarray, rows, target: np.ndarray, standardized: bool = False):
    """Logistic regression with scikit-learn's default penalty, fitted on some rows of an embedding.

    By Newton's method for two classes: few columns and many rows, so that a step costs little and five of them do. With
    K classes a step costs K^2 times as much.
    """
    solver = "newton-cholesky" if len(np.unique(target)) == 2 else "lbfgs"
    steps = [StandardScaler()] * standardized + [LogisticRegression(solver=solver, max_iter=2000)]
    return make_pipeline(*steps).fit(table[rows], target)


def read(table: np.ndarray, views, outcomes: Mapping[str, np.ndarray], test: str = "test") -> dict[str, float]:
    """What logistic regression, fitted on training persons, reads from an embedding of other persons.

    Args:
        table: (N, E), a row for each view. views: of persons. outcomes: name -> (O,) classes 0 .. K - 1.
        test: the split that is reported.

    Returns:
        ``<attribute>_accuracy``: for persons as they are, where columns that go with the attribute help.
        ``<attribute>_flipped``: accuracy where each person is there twice, once with the attribute flipped, in training
        and in test: nothing but the attribute's own value helps, and one half is chance. ``<attribute>_standardized``:
        the same with each direction of the embedding scaled to variance 1 first, so that what was turned down, but not
        erased, is heard too. For each outcome `score`, for persons as they are.
    """
    table = np.asarray(table, np.float64)
    train, held_out = persons(views, "train"), persons(views, test)
    (name,), attribute = views.groups, views.targets[:, 0].numpy().astype(int)
    twice, twice_out = (torch.cat([rows, rows + 1]) for rows in (train, held_out))
    found = {}
    for measure, fit, asked, standardized in (
        ("accuracy", train, held_out, False), ("flipped", twice, twice_out, False),
        ("standardized", twice, twice_out, True),
    ):  # fmt: skip
        probe = _probe(table, fit, attribute[fit], standardized)
        found[f"{name}_{measure}"] = float(probe.score(table[asked], attribute[asked]))
    for outcome, classes in outcomes.items():
        probe = _probe(table, train, classes[train // views.views])
        truth = classes[held_out // views.views]
        found |= score(outcome, truth, probe.predict_proba(table[held_out]), attribute[held_out])
    return found


def evaluate_fairness(
    model, views, run, seed: int, report: Callable[[float], None] | None = None, *,
    outcomes: Mapping[str, np.ndarray], test: str = "test",
) -> pd.DataFrame:  # fmt: skip
    """`read` of the embedding under each kind, length and draw of the context, as rows with columns of an evaluation.

    ``environment`` is *invariant* where no action is told and *equivariant* else, as in paper/published.csv; ``floor``
    is a constant's score. At length 0 there is nothing to draw, and both environments have the same values.

    Args:
        model: a ContextSSL. views: of persons. run: its ``evaluate`` has the contexts and their seeds. report: gets the
            share done.
        outcomes, test: as for `read`.
    """
    spec, device, floors = run.evaluate, next(model.parameters()).device, constant(views, outcomes, test)
    features = encode(model, views, torch.arange(len(views.targets)), device, batch=8192)
    caches = {draw: context_caches(model, views, spec, device, draw) for draw in spec.context_seeds}
    rows: list[dict] = []
    # No context is one cell, whatever its kind and draw.
    cells = [(None, spec.context_kinds[0], 0)]
    cells += product(spec.context_seeds, spec.context_kinds, [length for length in spec.context_lengths if length])
    for done, (draw, kind, length) in enumerate(cells, 1):
        cache = caches[spec.context_seeds[0] if draw is None else draw][kind].prefix(length)
        found = read(embed(model, features, None, cache).cpu().numpy(), views, outcomes, test)
        for same in spec.context_kinds if length == 0 else (kind,):
            environment = "invariant" if same == "none" else "equivariant"
            rows += [
                {"run": run.name, "method": run.label, "seed": seed, "context_seed": draw, "space": "embedding",
                 "environment": environment, "context_length": length, "objects": "all", "metric": metric,
                 "value": value, "floor": floors[metric]}
                for metric, value in found.items()
            ]  # fmt: skip
        if report:
            report(done / len(cells))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"context_seed": "Int64"})


def dependencies(outcomes: Mapping[str, np.ndarray], test: str = "test") -> dict:
    """What `evaluate_fairness` depends on beside model, views and run; for `lib.pipeline.study.evaluate`."""
    digests = {name: sha256(np.asarray(classes, np.int64).tobytes()).hexdigest() for name, classes in outcomes.items()}
    return {"evaluation": "fairness", "version": VERSION, "outcomes": digests, "split": test}


def constant(views, outcomes: Mapping[str, np.ndarray], test: str = "test") -> dict[str, float]:
    """What the best constant earns in each metric of `read`: it names the most frequent class of training."""
    train, held_out = persons(views, "train"), persons(views, test)
    (name,), attribute = views.groups, views.targets[:, 0].numpy().astype(int)
    most = np.bincount(attribute[train]).argmax()
    found = {f"{name}_accuracy": float((attribute[held_out] == most).mean())}
    found |= {f"{name}_flipped": 0.5, f"{name}_standardized": 0.5}
    for outcome, classes in outcomes.items():
        share, truth = np.bincount(classes[train // views.views]) / len(train), classes[held_out // views.views]
        found |= score(outcome, truth, np.tile(share, (len(truth), 1)), attribute[held_out])
    return found


def boosting(views, outcomes: Mapping[str, np.ndarray], attribute_columns: slice, seed: int = 0) -> dict[str, dict]:
    """Gradient boosting on the columns of a table, which needs no representation, fitted on training persons.

    Args:
        views: of persons, whose ``images`` are rows of a table. outcomes: as for `read`.
        attribute_columns: the columns of a row that hold the attribute. seed: of the boosting.

    Returns:
        ``all`` and ``others``, the columns that it sees: metric -> value. The attribute is told from the others alone.
    """
    train, test = persons(views, "train"), persons(views, "test")
    (name,), attribute = views.groups, views.targets[:, 0].numpy().astype(int)
    rows = views.images.numpy()
    tables = {"all": rows, "others": np.delete(rows, np.r_[attribute_columns], axis=1)}
    found: dict[str, dict] = {columns: {} for columns in tables}
    with threadpool_limits(1):  # several threads add in an order of their own
        for columns, table in tables.items():
            for outcome, classes in outcomes.items():
                booster = HistGradientBoostingClassifier(random_state=seed)
                booster.fit(table[train], classes[train // views.views])
                probability, truth = booster.predict_proba(table[test]), classes[test // views.views]
                found[columns] |= score(outcome, truth, probability, attribute[test])
        booster = HistGradientBoostingClassifier(random_state=seed).fit(tables["others"][train], attribute[train])
        found["others"][f"{name}_accuracy"] = float(booster.score(tables["others"][test], attribute[test]))
    return found


def reference_rows(run, references: Mapping[str, Mapping[str, Mapping[str, float]]]) -> pd.DataFrame:
    """References as rows of a run: ``method`` names the reference, ``variant`` which columns it is told.

    Args:
        references: name -> ``all`` or ``others`` -> metric -> value, as `boosting` gives them.
    """
    return pd.DataFrame([
        {"run": run.name, "method": name, "seed": 0, "space": "columns", "objects": "all",
         "variant": f"columns={columns}", "metric": metric, "value": value}
        for name, of_columns in references.items()
        for columns, scores in of_columns.items() for metric, value in scores.items()
    ], columns=COLUMNS).astype({"context_length": "Int64", "context_seed": "Int64"})  # fmt: skip
