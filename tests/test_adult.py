"""UCI Adult and fairness: loader errors, the flip, what the pipeline is fitted on, metrics at values known by hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from lib.evaluation.evaluate import COLUMNS
from lib.method.methods import build
from lib.people import adult, fairness, tables, verdicts
from lib.report import published, results

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def frame():
    return adult.read(ROOT / adult.FILE)


@pytest.fixture(scope="module")
def few(frame):
    """4,000 persons and their splits, in the file's order."""
    keep = np.r_[0:1000, 20_000:23_000]
    return frame.iloc[keep].reset_index(drop=True), adult.split()[keep]


# ---- the file


def test_official_split_and_counts(frame):
    split, rich = adult.split(), frame["income"] == ">50K"
    assert (split[: adult.TEST] == "test").all() and (split[adult.TEST :] != "test").all()
    assert (rich[split == "test"].sum(), rich[split != "test"].sum()) == (3846, 7841)
    assert (split == "validation").sum() == round(0.2 * (adult.TOTAL - adult.TEST))
    assert (split == adult.split()).all() and (split != adult.split(seed=1)).any()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.drop(columns="race"), "lacks the column 'race'"),
        (lambda f: f.iloc[:-1], "has 48841 rows, but Adult has 48842"),
        (lambda f: f.assign(race=f["race"].where(f.index > 0, "Martian")), "'race' has the unknown category 'Martian'"),
        (lambda f: f.assign(age=f["age"].astype(str)), "'age' must hold whole numbers"),
    ],
)
def test_wrong_file_is_one_sentence(frame, tmp_path, spoil, message):
    path = tmp_path / "adult.parquet"
    spoil(frame).to_parquet(path)
    with pytest.raises(ValueError, match=message) as caught:
        adult.read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_missing_or_broken_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc pull"):
        adult.read(tmp_path / "no.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        adult.read(broken)


# ---- persons as views


def test_flip_changes_gender_alone(few):
    views, columns = adult.views(*few)
    rows = views.images.unflatten(0, (-1, 2))
    changed = (rows[:, 0] != rows[:, 1]).any(0).nonzero().flatten().tolist()
    assert [columns[c] for c in changed] == ["gender_Female", "gender_Male"] and changed == [0, 1]
    gender = views.targets.view(-1, 2)
    assert torch.equal(gender[:, 1], 1 - gender[:, 0])
    assert torch.equal(rows[:, 0, 1], gender[:, 0]), "gender 1 is Male"
    assert set(views.action(gender[:, :1], gender[:, 1:]).flatten().tolist()) == {-1.0, 1.0}


def test_pipeline_is_fitted_on_training_persons_alone(few):
    frame, split = few
    before, names = adult.views(frame, split)
    changed = frame.copy()
    changed.loc[split != "train", "age"] = 90
    changed.loc[split != "train", "native-country"] = "Cambodia"
    after, same = adult.views(changed, split)
    assert names == same
    train = fairness.persons(before, "train")
    assert torch.equal(before.images[train], after.images[train])
    assert before.images[train][:, names.index("age")].mean().abs() < 1e-5


# ---- fairness, by hand

TRUTH = np.array([1, 1, 1, 1, 0, 0, 0, 0] + [1, 1, 0, 0, 0, 0, 0, 0])
GROUP = np.repeat([0, 1], 8)


@pytest.mark.parametrize(
    ("decision", "odds", "opportunity", "predictive", "parity"),
    [
        (TRUTH, 0, 0, 0, 0.25),  # perfect: base rates 1/2 and 1/4 differ
        (np.zeros(16, int), 0, 0, 0, 0),  # constant
        (1 - GROUP, 1, 1, 1, 1),  # by group alone
        (np.array([1, 1, 0, 0, 0, 0, 0, 0] + [1, 0, 0, 0, 0, 0, 0, 0]), 0, 0, 0, 0.125),  # half of those who deserve it
        (np.array([1, 1, 1, 1, 0, 0, 0, 0] + [1, 1, 1, 1, 1, 0, 0, 0]), 0.5, 0, 0.5, 0.125),  # 3/6 false yeses
    ],
)
def test_gaps_by_hand(decision, odds, opportunity, predictive, parity):
    expected = dict(zip(fairness.GAPS, (odds, opportunity, predictive, parity)))
    assert fairness.gaps(TRUTH, decision, GROUP) == pytest.approx(expected)


def test_gaps_refuse_a_group_of_one_outcome():
    with pytest.raises(ValueError, match="The group 1 has 8 persons of one outcome only"):
        fairness.gaps(np.where(GROUP == 1, 0, TRUTH), TRUTH, GROUP)


def made_up(count=600):
    """Persons whose table has a column that goes with the attribute, and whose outcome does, too."""
    rng = np.random.default_rng(0)
    attribute = rng.integers(0, 2, count)
    proxy = np.where(rng.random(count) < 0.8, attribute, 1 - attribute)
    outcome = np.where(rng.random(count) < 0.7, proxy, rng.integers(0, 2, count))
    twice = np.stack([attribute, 1 - attribute], 1).reshape(-1)
    rows = np.stack([twice, np.repeat(proxy, 2)], 1).astype(np.float32)
    split = np.array(["train", "validation", "test"])[np.arange(count) % 3]
    return SimpleNamespace(
        images=torch.from_numpy(rows), targets=torch.from_numpy(twice[:, None].astype(np.float32)), views=2,
        groups={"gender": slice(0, 1)},
        objects=lambda name: torch.from_numpy(np.flatnonzero(split == name)),
    ), {"outcome": outcome}  # fmt: skip


def test_read_tells_the_attribute_from_its_proxies():
    views, outcomes = made_up()
    rows = views.images.numpy()
    whole, without = (fairness.read(table, views, outcomes) for table in (rows, rows[:, 1:]))
    assert all(whole[f"gender_{measure}"] == 1 for measure in ("accuracy", "flipped", "standardized"))
    assert without["gender_accuracy"] == pytest.approx(0.8, abs=0.08), "the proxy helps for persons as they are"
    assert without["gender_flipped"] == 0.5, "flipped persons have the proxy of the other attribute"
    assert without["outcome_auc"] > 0.7


#: VERSION of the evaluation, and what it reads of the persons made up here.
PIN = (3, {
    "gender_accuracy": 0.85, "gender_flipped": 0.5, "gender_standardized": 0.5, "outcome_accuracy": 0.83,
    "outcome_auc": 0.83, "equalized_odds": 0.514, "equality_of_opportunity": 0.48, "predictive_equality": 0.514,
    "demographic_parity": 0.7, "equality_of_opportunity_at_base_rate": 0.471,
    "predictive_equality_at_base_rate": 0.504,
})  # fmt: skip


def test_the_numbers_of_a_version_never_move():
    """Rows of an older evaluation must not come out of the store for those of another one."""
    views, outcomes = made_up()
    found = {name: round(v, 3) for name, v in fairness.read(views.images.numpy()[:, 1:], views, outcomes).items()}
    assert found == pytest.approx(PIN[1], abs=0.002), (
        f"the numbers of fairness moved: raise VERSION and update this pin: PIN = ({fairness.VERSION}, {found})"
    )
    assert PIN[0] == fairness.VERSION, "VERSION was raised: update this pin"


def test_gaps_are_matched_as_a_weakened_score_would_have_them():
    """The formula of `fairness.matched` is what happens when persons are judged by the scores of others."""
    rng, count = np.random.default_rng(0), 30_000
    group, truth = rng.integers(0, 2, (2, count))
    score = truth * (1.2 - 0.6 * group) + 0.3 * group + rng.normal(size=count)
    weakened = np.where(rng.random(count) < 0.5, score, rng.permutation(score))
    rows = pd.DataFrame([
        {"run": name, "metric": metric, "value": value, "floor": 0.0}
        for name, of in (("score", score), ("weakened", weakened), ("constant", np.zeros(count)))
        for metric, value in fairness.score("los", truth, np.stack([-of, of], 1), group).items()
    ])  # fmt: skip
    found = fairness.matched(rows, "los").pivot(index="metric", columns="run", values="value")
    assert list(found.columns) == ["score", "weakened"] and len(found) == 2, "a constant has no AUC to match"
    assert found["score"].to_numpy() == pytest.approx(found["weakened"].to_numpy(), abs=0.02)
    assert (found["weakened"] > 0.05).all()


def test_references_know_what_they_may():
    views, outcomes = made_up()
    constant = fairness.constant(views, outcomes)
    assert constant["outcome_auc"] == 0.5 and constant["equalized_odds"] == constant["demographic_parity"] == 0
    assert set(constant) == set(fairness.read(views.images.numpy(), views, outcomes))
    found = fairness.boosting(views, outcomes, slice(0, 1))
    assert found["others"]["gender_accuracy"] == pytest.approx(0.8, abs=0.08)
    assert set(found["others"]) - set(found["all"]) == {"gender_accuracy"}, "with its own column it is told at once"


def test_an_evaluation_is_rows_that_stand_beside_the_published(few, tmp_path):
    """At length 0 both environments have the same numbers; references are rows of the run; tables find them all."""
    views, _ = adult.views(*few)
    outcomes = {"income": views.labels.numpy()}
    run = tiny.run(
        groups=("gender", "none"), encoder="mlp", context_kinds=("gender", "none"), context_lengths=(0, 6)
    ).model_copy(update={"study": "adult", "sections": ("adult",), "dataset": "adult"})
    torch.manual_seed(0)
    rows = fairness.evaluate_fairness(build(run, views).eval(), views, run, 0, outcomes=outcomes)
    floors = fairness.constant(views, outcomes)
    assert tuple(rows.columns) == COLUMNS and (rows["floor"] == rows["metric"].map(floors)).all()
    of = {key: part.set_index("metric")["value"] for key, part in rows.groupby(["environment", "context_length"])}
    assert of["equivariant", 0].equals(of["invariant", 0]) and not of["equivariant", 6].equals(of["invariant", 6])
    drawn = rows.groupby("context_length")["context_seed"]
    assert drawn.nunique().to_dict() == {0: 0, 6: 2}, "a context of no token has no draw"
    auc = rows[rows["metric"].eq("income_auc") & rows["context_length"].eq(6)]
    assert auc.groupby("environment")["value"].nunique().eq(2).all(), "draws differ"

    references = fairness.reference_rows(run, {"constant": {"all": floors}})
    rows = tables.save(pd.concat([rows, references]), run, tmp_path)
    paper = pd.DataFrame([{"environment": "equivariant", "context_length": 0, "metric": "income_auc", "value": 0.9}])
    shown = tables.table(results.over_contexts(rows), paper, {"income_auc": "income AUC", "gender_flipped": "flipped"})
    assert shown["source"].tolist() == ["ours", "published", "ours", "ours", "ours", "a constant (majority)"]
    assert shown["income AUC"].tolist()[1::4] == ["0.900", "0.500"] and shown["flipped"].tolist()[1::4] == ["", "0.500"]


def made_up_rows(flipped, gap, seeds=3):
    """Ours of some seeds, from no context to the longest, and boosting's, which has a gap of .15 at the same AUC."""
    ours = [
        {"run": "adult", "seed": seed, "context_seed": draw, "source": "ours", "environment": environment,
         "context_length": length, "metric": metric, "value": value + 0.001 * seed, "floor": floor}
        for seed in range(seeds) for draw in (0, 1) for length in (0, 126) if length or not draw
        for environment, metric, value, floor in (
            ("equivariant", "gender_accuracy", 0.997, 0.667), ("invariant", "income_auc", 0.8, 0.5),
            ("equivariant", "income_auc", 0.82 if length else 0.8, 0.5),
            ("invariant", "gender_flipped", flipped if length else 0.9, 0.5),
            ("invariant", "equalized_odds", gap if length else 0.2, 0.0),
            ("invariant", "equality_of_opportunity_matched", gap if length else 0.2, None),
        )
    ]  # fmt: skip
    boosting = {"run": "adult", "seed": 0, "source": verdicts.BLIND, "metric": "equality_of_opportunity_matched"}
    return pd.DataFrame([*ours, boosting | {"value": 0.15}]).astype({"context_length": "Int64"})


@pytest.mark.parametrize(("flipped", "gap", "word"), [(0.52, 0.1, "holds"), (0.68, 0.3, "does not")])
def test_claims_of_a_notebook_are_decided_of_rows(monkeypatch, flipped, gap, word):
    monkeypatch.chdir(ROOT)
    paper = results.select(published.load(), artefact="table-17")
    found = verdicts.decide("31_adult", made_up_rows(flipped, gap), paper, stand_in=False).set_index("id")
    told = {name.removeprefix("adult-"): verdict for name, verdict in found["verdict"].items()}
    assert told["equivariant-income-is-read-better"] == told["equivariant-outcome-stays-readable"] == "holds"
    for name in ("equalized-odds-improve", "gender-column-is-forgotten-flipped", "true-positive-gap-shrinks",
                 "no-larger-true-positive-gap-than-boosting"):  # fmt: skip
        assert told[f"invariant-{name}"] == word
    improve = found.loc["adult-invariant-equalized-odds-improve"]
    assert improve["because"] == f"0.201 → {gap + 0.001:.3f}, in {3 if word == 'holds' else 0} of 3 seeds"
    assert improve[["paper", "the paper shows it"]].tolist() == ["Section 4.5, Table 17", "yes"]
    assert told["invariant-gender-fades"] == "not testable", "nobody computed it"
    ceiling = found.loc["adult-equivariant-gender-is-read-better"]
    assert ceiling["verdict"] == "not testable" and ceiling["because"] == "0.998 → 0.998, starts at its ceiling"
