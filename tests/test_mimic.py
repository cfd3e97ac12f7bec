"""Hospital records: the schema, the reader's errors, the split by patient, and the known effect of gender."""

import gzip
import os

import numpy as np
import pandas as pd
import pytest
import torch

from lib.people import mimic


@pytest.fixture(scope="module")
def tables():
    return mimic.synthetic(seed=3, patients=1500)


@pytest.fixture(scope="module")
def records(tables):
    return mimic.build_records(tables, seed=3)


def write(tables, folder, lower=False):
    for i, (name, frame) in enumerate(tables.items()):
        frame = frame.rename(columns=str.lower) if lower else frame
        frame.to_csv(folder / f"{name}.csv{'.gz' if i % 2 else ''}", index=False)


def test_synthetic_tables_have_the_schema_and_are_pinned(tables):
    assert {name: tuple(frame.columns) for name, frame in tables.items()} == mimic.COLUMNS
    again, other = mimic.synthetic(seed=3, patients=1500), mimic.synthetic(seed=4, patients=1500)
    assert all(frame.equals(again[name]) for name, frame in tables.items())
    assert not tables["ADMISSIONS"].equals(other["ADMISSIONS"])


@pytest.mark.parametrize("lower", [False, True], ids=["upper", "lower"])
def test_round_trip_through_files_gives_the_same_records(tables, records, tmp_path, lower):
    write(tables, tmp_path, lower)
    read = mimic.build_records(mimic.read_tables(tmp_path), seed=3)
    assert (read.columns, read.treatments, read.left_out) == (records.columns, records.treatments, records.left_out)
    for name in ("features", "gender", "stay", "treatment", "subject", "split"):
        np.testing.assert_array_equal(getattr(read, name), getattr(records, name))


def test_records_by_hand():
    """Three patients: an old woman of two stays, a man, a child; the rules of the docstring one by one."""
    rows = {
        "PATIENTS": [("1", "F", "1850-01-01"), ("2", "M", "2100-01-01"), ("3", "M", "2140-01-01")],
        "ADMISSIONS": [
            (p, h, "2150-01-01 00:00:00", f"2150-01-{day} 00:00:00", "URGENT", "Private", None, "BLACK/CAPE VERDEAN")
            for p, h, day in (("1", "10", "08"), ("1", "11", "09"), ("2", "12", "02"), ("3", "13", "02"))
        ],
        "ICUSTAYS": [(h, "MICU", "2150-01-01") for h in ("10", "11", "12", "13")],
        "DIAGNOSES_ICD": [("10", "2", "0389"), ("10", "1", "V3000"), ("11", "1", "E8780"), ("12", "1", "41401"),
                          ("12", "2", None), ("13", "1", "7981")],
        "PRESCRIPTIONS": [("10", "MAIN", "Aspirin"), ("10", "MAIN", "aspirin "), ("10", "MAIN", "Heparin"),
                          ("11", "BASE", "D5W"), ("11", "MAIN", "Heparin"), ("12", "MAIN", "Heparin"),
                          ("13", "MAIN", "Heparin")],
    }  # fmt: skip
    tables = {name: pd.DataFrame(r, columns=mimic.COLUMNS[name], dtype=object) for name, r in rows.items()}
    parts = {"1": "train", "2": "validation", "3": "test"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mimic, "split_of", lambda subjects, seed: np.array([parts[s] for s in subjects]))
        with pytest.raises(ValueError, match="No admission is left for the part test: {'an age below 18': 1"):
            mimic.build_records(tables, seed=0)
        patch.setattr(mimic, "SHARES", {"train": 0.6, "validation": 0.4})
        found = mimic.build_records(tables, seed=0)
    frame = pd.DataFrame(found.features, columns=found.columns)
    assert found.stay.tolist() == [7, 8, 1] and found.long_stay.tolist() == [0, 1, 0]
    assert [found.treatments[t] for t in found.treatment] == ["aspirin", "heparin", "heparin"]
    assert frame["gender"].tolist() == [-1, -1, 1]
    assert frame["primary: supplementary"].tolist() == [1, 0, 0] and frame["any: infectious"].tolist() == [1, 0, 0]
    assert frame["primary: external"].tolist() == [0, 1, 0] and frame["primary: circulatory"].tolist() == [0, 0, 1]
    assert frame["ethnicity: BLACK"].all() and frame["marital_status: UNKNOWN (DEFAULT)"].all()
    assert frame["age"].tolist()[:2] == [0, 0]  # 300 years are 90 for both of her stays, the training mean


@pytest.mark.parametrize(
    ("table", "column", "value", "sentence"),
    [
        ("PATIENTS", "GENDER", "X", 'PATIENTS has the value "X" in GENDER .*; known are: F, M.'),
        ("ADMISSIONS", "INSURANCE", None, "ADMISSIONS has an empty cell in INSURANCE"),
        ("ADMISSIONS", "DISCHTIME", "soon", "ADMISSIONS has a DISCHTIME that is no time"),
        ("ADMISSIONS", "SUBJECT_ID", "7", "the SUBJECT_ID 7, which PATIENTS lacks"),
        ("DIAGNOSES_ICD", "ICD9_CODE", "Q12", 'the ICD9_CODE "Q12", which is no ICD-9 code'),
    ],
)
def test_what_is_unknown_is_one_sentence(tables, table, column, value, sentence):
    frame = tables[table].copy()
    frame.loc[0, column] = value
    with pytest.raises(ValueError, match=sentence) as error:
        mimic.build_records(tables | {table: frame}, seed=0)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def few():
    return mimic.synthetic(seed=3, patients=120)


@pytest.fixture(scope="module")
def whole(few):
    return mimic.build_records(few, seed=3)


@pytest.mark.parametrize(
    ("table", "column", "value", "reason"),
    [
        ("ADMISSIONS", "HADM_ID", None, "no HADM_ID"),
        ("ADMISSIONS", "SUBJECT_ID", None, "no SUBJECT_ID"),
        ("PATIENTS", "GENDER", None, "no GENDER"),
        ("PATIENTS", "DOB", None, "no DOB"),
        ("ADMISSIONS", "ADMITTIME", None, "no ADMITTIME"),
        ("ADMISSIONS", "DISCHTIME", None, "no DISCHTIME"),
        ("PATIENTS", "DOB", "2999-01-01", "a birth after the admission"),
        ("PATIENTS", "DOB", "2000-01-01", "an age that cannot be"),
        ("PATIENTS", "DOB", "0001-01-01", "an age that cannot be"),
        ("ADMISSIONS", "DISCHTIME", "2149-01-01 00:00:00", "a stay that ends before it begins"),
        ("ADMISSIONS", "DISCHTIME", "2999-01-01 00:00:00", "a stay of more than a year"),
        ("DIAGNOSES_ICD", "SEQ_NUM", None, "a diagnosis without a whole SEQ_NUM"),
        ("DIAGNOSES_ICD", "SEQ_NUM", "-1", "a diagnosis without a whole SEQ_NUM"),
        ("DIAGNOSES_ICD", "SEQ_NUM", "2", "a SEQ_NUM that is there twice"),
        ("DIAGNOSES_ICD", "ICD9_CODE", None, "no primary diagnosis"),
        ("ICUSTAYS", "INTIME", None, "an ICU stay without INTIME"),
        ("ICUSTAYS", "INTIME", "2149-01-01 00:00:00", "an ICU stay at another time"),
        ("ICUSTAYS", "INTIME", "2999-01-01 00:00:00", "an ICU stay at another time"),
    ],
)
def test_missing_and_impossible_values_leave_out_one_admission(few, whole, table, column, value, reason):
    """The first patient's only admission; all others are as they were."""
    assert few["ADMISSIONS"]["SUBJECT_ID"].tolist().count("10000") == 1 and not any(whole.left_out.values())
    frame = few[table].copy()
    frame.loc[0, column] = value
    found = mimic.build_records(few | {table: frame}, seed=3)
    assert {name: count for name, count in found.left_out.items() if count} == {reason: 1}
    np.testing.assert_array_equal(found.stay, whole.stay[1:])
    np.testing.assert_array_equal(found.long_stay, whole.long_stay[1:])


def test_rows_without_what_they_need_are_counted(few):
    changed = {table: frame.copy() for table, frame in few.items()}
    for table, columns in mimic.REQUIRED.items():
        for column in columns:
            changed[table].loc[len(changed[table])] = changed[table].iloc[0]
            changed[table].loc[len(changed[table]) - 1, column] = None
    found = mimic.build_records(changed, seed=3)
    assert set(found.ignored.values()) == {1} and len(found.ignored) == 6
    assert found.ignored["rows of PRESCRIPTIONS without DRUG"] == 1 and not any(found.left_out.values())


@pytest.mark.parametrize(
    ("table", "column", "change", "sentence"),
    [
        ("DIAGNOSES_ICD", "ICD9_CODE", lambda c: c.str.lstrip("0"),
         r"None of the .* numeric ICD9_CODEs of DIAGNOSES_ICD begins with 0, .* dropped the leading zeros .* copy it"),
        ("DIAGNOSES_ICD", "ICD9_CODE", lambda c: c.str.zfill(5), "have five digits, .* filled them up with zeros"),
        ("DIAGNOSES_ICD", "ICD9_CODE", lambda c: c + ".0", r'"[0-9]+\.0", .*: another program took it'),
        ("DIAGNOSES_ICD", "ICD9_CODE", lambda c: "4.1401E+04", r'"4.1401E\+04", .*: another program'),
        ("DIAGNOSES_ICD", "ICD9_CODE", lambda c: "1e5", '"1e5", .*: another program took it'),
        ("DIAGNOSES_ICD", "ICD9_CODE", lambda c: "38", '"38", .*: another program took it'),
        ("DIAGNOSES_ICD", "ICD9_CODE", lambda c: "'" + c, """"'[0-9]+", which is no ICD-9 code"""),
        ("DIAGNOSES_ICD", "HADM_ID", lambda c: c + ".0", r'DIAGNOSES_ICD has the HADM_ID "100000\.0", which is no'),
        ("ADMISSIONS", "SUBJECT_ID", lambda c: c + ".0", r'ADMISSIONS has the SUBJECT_ID "10000\.0", which is no'),
        ("ADMISSIONS", "ADMITTIME", lambda c: "01/31/2150 10:00", 'no time such as .*, "01/31/2150 10:00"'),
        ("ADMISSIONS", "ADMITTIME", lambda c: "2150", 'no time such as .*, "2150"'),
    ],
)  # fmt: skip
def test_files_that_another_program_changed_are_refused(few, table, column, change, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        mimic.build_records(few | {table: few[table].assign(**{column: change(few[table][column])})}, seed=3)
    assert "\n" not in str(error.value)


def test_two_files_of_a_table_must_be_the_same(few, whole, tmp_path):
    write(few, tmp_path)
    plain = tmp_path / "DIAGNOSES_ICD.csv"
    few["DIAGNOSES_ICD"].to_csv(plain, index=False)
    np.testing.assert_array_equal(mimic.build_records(mimic.read_tables(tmp_path), seed=3).features, whole.features)
    few["DIAGNOSES_ICD"].iloc[: len(few["DIAGNOSES_ICD"]) // 2].to_csv(plain, index=False)
    both = r"ICD.csv \([0-9]+ rows\) and .*ICD.csv.gz \([0-9]+ rows\) are the same table but differ; keep the whole one"
    with pytest.raises(ValueError, match=both):
        mimic.read_tables(tmp_path)
    few["DIAGNOSES_ICD"].replace({"ICD9_CODE": {"0389": "389"}}).to_csv(plain, index=False)
    with pytest.raises(ValueError, match=both):
        mimic.read_tables(tmp_path)


@pytest.mark.parametrize("name", ["DIAGNOSES_ICD.csv.gz", "PRESCRIPTIONS.csv"])
def test_cut_files_are_one_sentence(few, tmp_path, name):
    """In the middle of the bytes, or of the last cell, which then still reads as one."""
    write(few, tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{name} cannot be used: .*; copy it again.$") as error:
        mimic.read_tables(tmp_path)
    assert "\n" not in str(error.value)
    few[name.split(".")[0]].to_csv(tmp_path / name, index=False)
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "rb") as file:
        text = file.read()
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wb") as file:
        file.write(text[:-2])
    with pytest.raises(ValueError, match=f"{name} cannot be used: it was cut, its last line has no end"):
        mimic.read_tables(tmp_path)


@pytest.mark.parametrize(
    ("table", "share", "sentence"),
    [
        ("DIAGNOSES_ICD", 0.5, r"DIAGNOSES_ICD covers .* admissions \([45][0-9]%\) and should cover at least 90%"),
        ("ICUSTAYS", 0.8, r"ICUSTAYS covers .* \(80%\) and should"),
        ("PRESCRIPTIONS", 0.7, r"PRESCRIPTIONS covers .* \(7[01]%\) and should cover at least 75%"),
        ("ADMISSIONS", 0.6, r"ADMISSIONS has .* admissions of ICUSTAYS \(60%\) and should have at least 90%"),
        ("PATIENTS", 0.6, r"ADMISSIONS has the SUBJECT_ID [0-9]+, which PATIENTS lacks \([0-9]+ of [0-9]+ rows\)"),
    ],
)
def test_tables_that_cover_too_few_admissions_are_refused(few, table, share, sentence):
    with pytest.raises(ValueError, match=sentence):
        mimic.build_records(few | {table: few[table].iloc[: round(share * len(few[table]))]}, seed=3)


def test_missing_files_and_columns_are_one_sentence(tables, tmp_path):
    with pytest.raises(FileNotFoundError, match='The MIMIC-III folder ".*absent" is missing; set mimic.root'):
        mimic.read_tables(tmp_path / "absent")
    write(tables | {"ADMISSIONS": tables["ADMISSIONS"].drop(columns="INSURANCE")}, tmp_path)
    with pytest.raises(ValueError, match=r"ADMISSIONS.csv.gz cannot be used: the column INSURANCE is missing"):
        mimic.read_tables(tmp_path)
    (tmp_path / "ADMISSIONS.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"ADMISSIONS.csv.gz cannot be used: .*; copy it again."):
        mimic.read_tables(tmp_path)
    (tmp_path / "PATIENTS.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"PATIENTS.csv \(or .csv.gz\) is missing"):
        mimic.read_tables(tmp_path)


def test_patients_never_cross_splits(records):
    parts = [set(records.subject[records.split == part]) for part in mimic.SHARES]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(set(records.subject))
    assert len(records.subject) > len(set(records.subject))
    np.testing.assert_allclose([len(p) / 1500 for p in parts], list(mimic.SHARES.values()), atol=0.001)


def test_flipping_changes_the_gender_alone(records):
    views = mimic.to_views(records, "synthetic")
    recorded, flipped = views.images.unflatten(0, (-1, 2)).unbind(1)
    torch.testing.assert_close(flipped[:, 0], -recorded[:, 0])
    torch.testing.assert_close(flipped[:, 1:], recorded[:, 1:])
    genders = views.targets.unflatten(0, (-1, 2))[..., 0]
    assert genders[:, 0].tolist() == records.gender.tolist() and (genders.sum(1) == 1).all()
    assert set(views.action(genders[:, :1], genders[:, 1:]).flatten().tolist()) == {-1.0, 1.0}
    assert views.images.dtype == torch.float32 and recorded[:, 0].abs().eq(1).all()


def test_treatment_depends_on_gender_given_the_diagnosis(records):
    """Shares in the records are those of the model, which differ by gender."""
    model = mimic.treatment_table()
    np.testing.assert_allclose(model.sum(-1), 1)
    diagnosis = records.features[:, records.columns.index("primary: circulatory")] > 0
    letters = [records.treatments.index(f"drug {chr(97 + i)}") for i in range(mimic.TREATMENTS)]
    for gender in (0, 1):
        of_group = records.treatment[diagnosis & (records.gender == gender)]
        share = np.bincount(of_group, minlength=mimic.TREATMENTS)[letters] / len(of_group)
        np.testing.assert_allclose(share, model[0, gender], atol=4 * np.sqrt(0.25 / len(of_group)))
    assert np.abs(model[0, 0] - model[0, 1]).max() > 0.3


def test_best_possible_rules_use_the_gender_where_it_matters():
    found = mimic.bayes(seed=0, admissions=50_000)
    told, untold = found["all"], found["others"]
    assert told["treatment_accuracy"] > untold["treatment_accuracy"] + 0.1
    assert told["los_accuracy"] > untold["los_accuracy"]
    assert told["equalized_odds"] > untold["equalized_odds"] > 0.03
    assert 0.5 < untold["gender_accuracy"] < 0.65


@pytest.mark.skipif("MIMIC_DEMO" not in os.environ, reason="MIMIC_DEMO names no folder of the open MIMIC-III demo")
def test_open_demo_is_read():
    """100 patients of the real schema: a check of the reader, not a result."""
    found = mimic.build_records(mimic.read_tables(os.environ["MIMIC_DEMO"]), seed=0)
    assert len(found.subject) + sum(found.left_out.values()) == 129
    assert len(set(found.subject)) > 80 and np.isfinite(found.features).all()
    # Patients beyond 89 years have a birth date 300 years back; their age is capped.
    assert np.abs(found.features).max() < 10
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not set(found.subject[found.split == first]) & set(found.subject[found.split == second])
