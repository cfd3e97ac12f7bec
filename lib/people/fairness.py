"""Fairness of what can be read from an embedding: outcomes, the sensitive attribute, and references without a model.

Everything here takes a `lib.data.views.Views` of *persons*: two views each, view 0 the person as recorded and view 1 the same
person with the sensitive attribute flipped; ``targets`` (N, 1) hold the attribute, 0 or 1.
"""

from collections.abc import Mapping
from itertools import product

import numpy as np
import torch
from fairlearn.metrics import demographic_parity_difference, equal_opportunity_difference, equalized_odds_difference
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lib.evaluation.evaluate import context_caches, embed, encode

ATTRIBUTE = "attribute"  # the key of what `read` says about the sensitive attribute


def gaps(truth: np.ndarray, decision: np.ndarray, attribute: np.ndarray) -> dict[str, float]:
    """Differences between the two groups, in [0, 1]; 0 is equal treatment by that measure.

    Args:
        truth, decision, attribute: (N,) of 0 and 1.

    Returns:
        ``equalized_odds``: the larger of the differences of true positive and of false positive rates (Hardt et al.
        2016; fairlearn). ``equality_of_opportunity``: that of true positive rates alone. ``demographic_parity``: that
        of the shares of positive decisions, whatever the truth.

    Raises:
        ValueError: a group has no positive or no negative, so that a rate is not defined.
    """
    for value in (0, 1):
        if len(set(truth[attribute == value])) < 2:
            raise ValueError(
                f"The group {value} has {int((attribute == value).sum())} persons of one outcome only, so its error "
                "rates are not defined; take more persons."
            )
    groups = {"sensitive_features": attribute}
    return {
        "equalized_odds": float(equalized_odds_difference(truth, decision, **groups)),
        "equality_of_opportunity": float(equal_opportunity_difference(truth, decision, **groups)),
        "demographic_parity": float(demographic_parity_difference(truth, decision, **groups)),
    }


def score(truth: np.ndarray, probability: np.ndarray, attribute: np.ndarray) -> dict[str, float]:
    """``accuracy`` of the likeliest class; for two classes ``auc`` and the `gaps` of the decision at one half, too.

    Args:
        truth: (N,) classes 0 .. K - 1. probability: (N, K). attribute: (N,) of 0 and 1.
    """
    decision = probability.argmax(1)
    found = {"accuracy": float(accuracy_score(truth, decision))}
    if probability.shape[1] == 2:
        found |= {"auc": float(roc_auc_score(truth, probability[:, 1])), **gaps(truth, decision, attribute)}
    return found


def persons(views, split: str) -> torch.Tensor:
    """Rows (n,) of the persons of a split as recorded (view 0); + 1 is the flipped one."""
    return views.objects(split) * views.views


def _probe(table: np.ndarray, rows, target: np.ndarray, standardized: bool = False):
    """Logistic regression with scikit-learn's default penalty, fitted on some rows of an embedding."""
    steps = [StandardScaler()] * standardized + [LogisticRegression(max_iter=2000)]
    return make_pipeline(*steps).fit(table[rows], target)


def read(table: np.ndarray, views, outcomes: Mapping[str, np.ndarray], test: str = "test") -> dict:
    """What logistic regression, fitted on training persons, reads from an embedding of other persons.

    Args:
        table: (N, E), a row for each view. views: of persons. outcomes: name -> (O,) classes 0 .. K - 1.
        test: the split that is reported.

    Returns:
        ``attribute.recorded``: accuracy for persons as they are, where columns that go with the attribute help;
        ``attribute.flipped``: accuracy where each person is there twice, once with the attribute flipped, in training
        and in test: nothing but the attribute's own value helps, and one half is chance; ``attribute.standardized``:
        the same with each direction of the embedding scaled to variance 1 first, so that what was turned down, but not
        erased, is heard too. ``<outcome>``: `score`, for persons as they are.
    """
    train, held_out = persons(views, "train"), persons(views, test)
    attribute = views.targets[:, 0].numpy().astype(int)
    twice, twice_out = (torch.cat([rows, rows + 1]) for rows in (train, held_out))
    found: dict = {ATTRIBUTE: {}}
    for name, fit, asked, standardized in (
        ("recorded", train, held_out, False), ("flipped", twice, twice_out, False),
        ("standardized", twice, twice_out, True),
    ):  # fmt: skip
        probe = _probe(table, fit, attribute[fit], standardized)
        found[ATTRIBUTE][name] = float(probe.score(table[asked], attribute[asked]))
    for name, classes in outcomes.items():
        probe = _probe(table, train, classes[train // views.views])
        found[name] = score(
            classes[held_out // views.views], probe.predict_proba(table[held_out]), attribute[held_out]
        )
    return found


def evaluate_fairness(model, views, settings, outcomes: Mapping[str, np.ndarray], test: str = "test") -> dict:
    """`read` of the embedding under each kind and length of context: kind -> ``c<length>`` -> what `read` gives.

    Args:
        model: a ContextSSL. views: of persons. settings: the ``evaluate`` section. outcomes, test: as for `read`.
    """
    model.eval()
    device = next(model.parameters()).device
    features = encode(model, views, torch.arange(len(views.targets)), device, batch=8192)
    caches = context_caches(model, views, settings, device)
    found: dict = {kind: {} for kind in settings.context_kinds}
    # No context is one cell, whatever its kind.
    for kind, n in [(settings.context_kinds[0], 0), *product(settings.context_kinds, settings.context_lengths[1:])]:
        table = embed(model, features, None, caches[kind].prefix(n)).cpu().numpy()
        result = read(table, views, outcomes, test)
        for same in settings.context_kinds if n == 0 else (kind,):
            found[same][f"c{n}"] = result
    return found


def references(views, outcomes: Mapping[str, np.ndarray], attribute_columns: slice, seed: int = 0) -> dict:
    """What needs no representation: constants, and gradient boosting on the columns, fitted on training persons.

    Args:
        views: of persons, whose ``images`` are rows of a table. outcomes: as for `read`.
        attribute_columns: the columns of a row that hold the attribute. seed: of the boosting.

    Returns:
        ``majority`` and ``boosting``, each like `read`: the attribute is told from the *other* columns (``recorded``),
        outcomes from all; ``boosting_blind``: outcomes from the other columns alone.
    """
    train, test = persons(views, "train"), persons(views, "test")
    attribute = views.targets[:, 0].numpy().astype(int)
    rows = views.images.numpy()
    blind = np.delete(rows, np.r_[attribute_columns], axis=1)

    def boosted(table: np.ndarray, target: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        booster = HistGradientBoostingClassifier(random_state=seed).fit(table[train], target)
        return score(truth, booster.predict_proba(table[test]), attribute[test])

    def constant(target: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        share = np.bincount(target) / len(target)
        return score(truth, np.tile(share, (len(truth), 1)), attribute[test])

    told = {name: (classes[train // views.views], classes[test // views.views]) for name, classes in outcomes.items()}
    own = attribute[train], attribute[test]
    booster = HistGradientBoostingClassifier(random_state=seed).fit(blind[train], own[0])
    most = np.bincount(own[0]).argmax()
    return {
        "majority": {ATTRIBUTE: {"recorded": float((own[1] == most).mean()), "flipped": 0.5}}
        | {name: constant(*of) for name, of in told.items()},
        "boosting": {ATTRIBUTE: {"recorded": float(booster.score(blind[test], own[1]))}}
        | {name: boosted(rows, *of) for name, of in told.items()},
        "boosting_blind": {name: boosted(blind, *of) for name, of in told.items()},
    }
