"""MIMIC-III: hospital admissions as rows of a table, whose gender a second view flips (section 4.5, Table 3).

The paper says: patient demographics, medications and hospital length of stay; x is a record, y the same record "by
flipping the value of gender"; it reports length-of-stay (LOS) and treatment accuracy. It leaves the rest open. Ours:

sample      one hospital admission (HADM_ID): length of stay, diagnoses and prescriptions are recorded per admission,
            while an ICU stay is a part of one.
left out    patients below 18 at admission (newborns are a population of their own), stays that end before they begin
            (organ donors), admissions without a diagnosis, without an ICU stay or without any of the treatments below.
            Deaths in hospital stay in: their stays are as long as they were. What is missing or cannot be (an empty
            date, an age of 150 years, a stay of two) leaves its admission out, too; each reason has its count.
refused     what says that a whole file is damaged: two files of one table that differ, a table that was cut, codes,
            keys or dates that another program changed as it saved the file again.
features    gender (-1 woman, +1 man); age in years, at most 90 (MIMIC moves older ages to 300), and the number of
            diagnoses, both standardized on training rows; 0/1: type of admission, insurance, marital status, ethnicity
            in five groups, first care unit, chapter of the primary ICD-9 code (lowest SEQ_NUM), chapters of all codes.
            Diagnoses are coded at discharge, so this is a description of a stay, not a forecast.
LOS class   DISCHTIME - ADMITTIME of more than 7 days, or not: fairness measures need a favorable side, and about half
            of the stays of MIMIC-III are longer.
treatment   one of the 10 drugs (DRUG_TYPE MAIN, names in lower case) with the most training admissions: the one with
            the most lines in this admission, of equals the rarer one. One class, for which Table 3 has one accuracy.
split       by patient (SUBJECT_ID), in the order of a seeded hash: 60 % train, 15 % validation, 25 % test.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from scipy.stats import norm

from lib.data.views import Views, difference
from lib.people.fairness import score

#: Tables of MIMIC-III v1.4 and the columns that are read of each.
COLUMNS = {
    "PATIENTS": ("SUBJECT_ID", "GENDER", "DOB"),
    "ADMISSIONS": ("SUBJECT_ID", "HADM_ID", "ADMITTIME", "DISCHTIME", "ADMISSION_TYPE", "INSURANCE", "MARITAL_STATUS",
                   "ETHNICITY"),
    "ICUSTAYS": ("HADM_ID", "FIRST_CAREUNIT", "INTIME"),
    "DIAGNOSES_ICD": ("HADM_ID", "SEQ_NUM", "ICD9_CODE"),
    "PRESCRIPTIONS": ("HADM_ID", "DRUG_TYPE", "DRUG"),
}  # fmt: skip
#: What a row is of no use without: such rows are counted and left out.
REQUIRED = {
    "PATIENTS": ("SUBJECT_ID",),
    "ICUSTAYS": ("HADM_ID",),
    "DIAGNOSES_ICD": ("HADM_ID", "ICD9_CODE"),
    "PRESCRIPTIONS": ("HADM_ID", "DRUG"),
}
#: Share of all admissions that a table covers at least, else it was cut. The open demo has 100, 100 and 95 %; newborns,
#: of whom the demo has none, seldom have prescriptions.
COVERED = {"ICUSTAYS": 0.9, "DIAGNOSES_ICD": 0.9, "PRESCRIPTIONS": 0.75}
#: Below so many admissions, or codes, a share says nothing.
FEW_ADMISSIONS, FEW_CODES = 20, 300
AGAIN = "copy it again from MIMIC-III v1.4"
SAVED_AGAIN = "another program took it for a number and changed it as it saved the file again"
#: Closed vocabularies of v1.4. Newborns are known, but left out with all below 18.
CATEGORIES = {
    "GENDER": ("F", "M"),
    "ADMISSION_TYPE": ("ELECTIVE", "EMERGENCY", "NEWBORN", "URGENT"),
    "INSURANCE": ("Government", "Medicaid", "Medicare", "Private", "Self Pay"),
    "MARITAL_STATUS": ("DIVORCED", "LIFE PARTNER", "MARRIED", "SEPARATED", "SINGLE", "UNKNOWN (DEFAULT)", "WIDOWED"),
    "FIRST_CAREUNIT": ("CCU", "CSRU", "MICU", "NICU", "SICU", "TSICU"),
    "DRUG_TYPE": ("ADDITIVE", "BASE", "MAIN"),
}
#: Ethnicity is free text of many values; what none of these begins is OTHER.
ETHNICITIES = ("ASIAN", "BLACK", "HISPANIC", "WHITE")
#: Chapters of ICD-9-CM: name and last three-digit code.
CHAPTERS = {
    "infectious": 139, "neoplasms": 239, "endocrine": 279, "blood": 289, "mental": 319, "nervous": 389,
    "circulatory": 459, "respiratory": 519, "digestive": 579, "genitourinary": 629, "pregnancy": 679, "skin": 709,
    "musculoskeletal": 739, "congenital": 759, "perinatal": 779, "symptoms": 799, "injury": 999,
}  # fmt: skip
CHAPTER_NAMES = (*CHAPTERS, "external", "supplementary")
LOS_DAYS = 7
CLASSES = (f"at most {LOS_DAYS} days", f"more than {LOS_DAYS} days")
TREATMENTS = 10
SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}
SECONDS_PER_DAY = 86400


@dataclass(frozen=True)
class Records:
    """N hospital admissions."""

    features: np.ndarray  # float32 (N, D); column 0 is the gender, -1 or 1
    columns: tuple[str, ...]  # D names
    gender: np.ndarray  # int64 (N,): 0 woman, 1 man
    stay: np.ndarray  # float64 (N,), days in hospital
    treatment: np.ndarray  # int64 (N,), index into treatments
    treatments: tuple[str, ...]
    subject: np.ndarray  # str (N,): SUBJECT_ID
    split: np.ndarray  # str (N,): train, validation, test
    left_out: Mapping[str, int]  # reason -> admissions, in the order in which the reasons are looked at
    ignored: Mapping[str, int]  # reason -> rows of the other tables

    @property
    def long_stay(self) -> np.ndarray:
        """int64 (N,), index into CLASSES."""
        return (self.stay > LOS_DAYS).astype(np.int64)


def read_tables(root: Path | str) -> dict[str, pd.DataFrame]:
    """The tables of COLUMNS from <root>/<TABLE>.csv or .csv.gz, all cells text or missing.

    Column names may be in upper case (v1.4) or in lower case (the open demo).

    Raises FileNotFoundError or ValueError, one sentence with the file's name, where a file or a column is missing, a
    file cannot be read or was cut, or the two files of a table differ.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f'The MIMIC-III folder "{root}" is missing; set mimic.root to where its CSV files are (credentialed: '
            "physionet.org/content/mimiciii/1.4)."
        )
    return {table: _read(root, table) for table in COLUMNS}


def _read(root: Path, table: str) -> pd.DataFrame:
    found = [path for path in (root / f"{table}.csv", root / f"{table}.csv.gz") if path.is_file()]
    if not found:
        raise FileNotFoundError(f"{root / table}.csv (or .csv.gz) is missing; copy it from MIMIC-III v1.4.")
    frames = [_read_file(path, COLUMNS[table]) for path in found]
    if not frames[0].equals(frames[-1]):
        both = " and ".join(f"{path} ({len(frame):,} rows)" for path, frame in zip(found, frames))
        raise ValueError(f"{both} are the same table but differ; keep the whole one and delete the other.")
    for path in found:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            if not deque(file, maxlen=1)[0].endswith((b"\n", b"\r")):
                raise ValueError(f"{path} cannot be used: it was cut, its last line has no end; copy it again.")
    return frames[0]


def _read_file(path: Path, wanted: tuple[str, ...]) -> pd.DataFrame:
    try:
        names = {name.upper(): name for name in pd.read_csv(path, nrows=0).columns}
        if missing := [name for name in wanted if name not in names]:
            raise ValueError(f"the column {missing[0]} is missing, of MIMIC-III v1.4")
        frame = pd.read_csv(path, dtype=str, usecols=[names[name] for name in wanted])
    except (OSError, EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be used: {' '.join(str(error).split())}; copy it again.") from error
    return frame.rename(columns=str.upper)[list(wanted)]


def _check_categories(frame: pd.DataFrame, table: str, columns: tuple[str, ...]) -> None:
    for column in columns:
        unknown = frame.loc[~frame[column].isin(CATEGORIES[column]), column]
        if len(unknown):
            value = "an empty cell" if pd.isna(unknown.iloc[0]) else f'the value "{unknown.iloc[0]}"'
            raise ValueError(
                f"{table} has {value} in {column} ({len(unknown)} of {len(frame)} rows); known are: "
                f"{', '.join(CATEGORIES[column])}."
            )


def _check_keys(tables: Mapping[str, pd.DataFrame]) -> None:
    """Refuse keys that are no whole numbers, that are there twice, or that the other table lacks."""
    for table, frame in tables.items():
        for column in frame.columns.intersection(["SUBJECT_ID", "HADM_ID"]):
            if len(wrong := frame.loc[~frame[column].str.fullmatch("[0-9]+"), column]):
                raise ValueError(
                    f'{table} has the {column} "{wrong.iloc[0]}", which is no whole number: {SAVED_AGAIN}; {AGAIN}.'
                )
    patients, admissions = tables["PATIENTS"], tables["ADMISSIONS"]
    if len(unknown := admissions.loc[~admissions["SUBJECT_ID"].isin(patients["SUBJECT_ID"]), "SUBJECT_ID"]):
        raise ValueError(
            f"ADMISSIONS has the SUBJECT_ID {unknown.iloc[0]}, which PATIENTS lacks ({len(unknown):,} of "
            f"{len(admissions):,} rows); copy both again from MIMIC-III v1.4."
        )
    for table, key, frame in (("PATIENTS", "SUBJECT_ID", patients), ("ADMISSIONS", "HADM_ID", admissions)):
        if frame[key].duplicated().any():
            raise ValueError(f"{table} has the {key} {frame.loc[frame[key].duplicated(), key].iloc[0]} twice; {AGAIN}.")


def _check_coverage(tables: Mapping[str, pd.DataFrame]) -> None:
    """Refuse a table that was cut: it covers too few admissions, or ADMISSIONS lacks too many of the table's."""
    admissions = set(tables["ADMISSIONS"]["HADM_ID"])
    for table, share in COVERED.items():
        named = set(tables[table]["HADM_ID"])
        both = len(named & admissions)
        if len(admissions) >= FEW_ADMISSIONS and both < share * len(admissions):
            raise ValueError(
                f"{table} covers {both:,} of {len(admissions):,} admissions ({both / len(admissions):.0%}) and should "
                f"cover at least {share:.0%}, so a part of it is missing; {AGAIN}."
            )
        if len(named) >= FEW_ADMISSIONS and both < share * len(named):
            raise ValueError(
                f"ADMISSIONS has {both:,} of {len(named):,} admissions of {table} ({both / len(named):.0%}) and should "
                f"have at least {share:.0%}, so a part of it is missing; {AGAIN}."
            )


def _times(frame: pd.DataFrame, table: str, column: str) -> pd.Series:
    """Seconds since 1970; NaN where the cell is empty. Raises ValueError for a cell that is no time."""
    written = frame[column].str.fullmatch(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?", na=False)
    times = pd.to_datetime(frame[column].where(written), format="ISO8601", errors="coerce")
    if len(wrong := frame.loc[times.isna() & frame[column].notna(), column]):
        raise ValueError(
            f'{table} has a {column} that is no time such as 2150-12-31 23:59:00, "{wrong.iloc[0]}" ({len(wrong):,} '
            f"of {len(frame):,} rows); {AGAIN}."
        )
    return (times.astype("datetime64[s]") - pd.Timestamp("1970-01-01").as_unit("s")).dt.total_seconds()


def chapters(codes: pd.Series) -> np.ndarray:
    """Index into CHAPTER_NAMES of ICD-9 codes as MIMIC writes them (text without a dot, leading zeros kept).

    Raises ValueError for a code that is none, and for codes that a program has taken for numbers: 0389 (septicemia) is
    then 389 (hearing loss), which looks like a code. That no code of many begins with 0 shows it; of the open demo's,
    4 % do. Codes that were filled up to five digits (04019 for 4019) show in that none is shorter.
    """
    numeric = codes[codes.str.fullmatch("[0-9]{3,5}")]
    if len(wrong := codes[~codes.str.fullmatch("[0-9]{3,5}|[EV][0-9]{1,4}")]):
        a_number = wrong.iloc[0][:1].isdigit()
        raise ValueError(
            f'DIAGNOSES_ICD has the ICD9_CODE "{wrong.iloc[0]}", which is no ICD-9 code as MIMIC-III writes it'
            f"{': ' + SAVED_AGAIN if a_number else ''} ({len(wrong):,} of {len(codes):,} rows); {AGAIN}."
        )
    if len(numeric) >= FEW_CODES and not numeric.str.startswith("0").any():
        raise ValueError(
            f"None of the {len(numeric):,} numeric ICD9_CODEs of DIAGNOSES_ICD begins with 0, though some must: "
            "another program took them for numbers and dropped the leading zeros as it saved the file again (0389, "
            f"septicemia, is then 389, hearing loss); {AGAIN} and open it as text only."
        )
    if len(numeric) >= FEW_CODES and (numeric.str.len() == 5).all():
        raise ValueError(
            f"All {len(numeric):,} numeric ICD9_CODEs of DIAGNOSES_ICD have five digits, though most must have "
            f"three or four: another program filled them up with zeros (4019, hypertension, is then 04019); {AGAIN}."
        )
    found = np.searchsorted(list(CHAPTERS.values()), pd.to_numeric(codes.str.slice(0, 3), errors="coerce").fillna(0))
    found = np.where(codes.str.startswith("E"), CHAPTER_NAMES.index("external"), found)
    return np.where(codes.str.startswith("V"), CHAPTER_NAMES.index("supplementary"), found)


def split_of(subjects: np.ndarray, seed: int) -> np.ndarray:
    """Part of each SUBJECT_ID (N,): a hash of seed and id puts the patients in order, the shares cut it."""
    unique, inverse = np.unique(np.asarray(subjects, dtype=str), return_inverse=True)
    order = sorted(range(len(unique)), key=lambda i: hashlib.sha256(f"{seed}:{unique[i]}".encode()).digest())
    part = np.empty(len(unique), dtype="<U10")
    bounds = np.round(np.cumsum([0, *SHARES.values()]) * len(unique)).astype(int)
    for name, start, stop in zip(SHARES, bounds, bounds[1:]):
        part[order[start:stop]] = name
    return part[inverse]


def build_records(tables: Mapping[str, pd.DataFrame], seed: int) -> Records:
    """One row for each admission, by the choices in the module's docstring; the same for real and synthetic tables.

    Args:
        tables: as `read_tables` and `synthetic` give them. seed: of the split.

    Raises:
        ValueError: an unknown category, a key, a time or a code that is none, a table of which a part is missing, or
            no admission is left.
    """
    tables, ignored, left_out = dict(tables), {}, {}
    for table, columns in REQUIRED.items():
        for column in columns:
            kept = tables[table].dropna(subset=column)
            ignored[f"rows of {table} without {column}"] = len(tables[table]) - len(kept)
            tables[table] = kept
    rows = tables["ADMISSIONS"]

    def leave_out(reason: str, kept: pd.Series | np.ndarray) -> None:
        nonlocal rows
        left_out[reason], rows = int((~np.asarray(kept)).sum()), rows[np.asarray(kept)]

    leave_out("no HADM_ID", rows["HADM_ID"].notna())
    leave_out("no SUBJECT_ID", rows["SUBJECT_ID"].notna())
    tables["ADMISSIONS"] = rows = rows.fillna({"MARITAL_STATUS": "UNKNOWN (DEFAULT)"})
    patients, stays, prescriptions = tables["PATIENTS"], tables["ICUSTAYS"], tables["PRESCRIPTIONS"]
    _check_categories(patients.dropna(subset="GENDER"), "PATIENTS", ("GENDER",))
    _check_categories(rows, "ADMISSIONS", ("ADMISSION_TYPE", "INSURANCE", "MARITAL_STATUS"))
    _check_categories(stays, "ICUSTAYS", ("FIRST_CAREUNIT",))
    _check_categories(prescriptions, "PRESCRIPTIONS", ("DRUG_TYPE",))
    _check_keys(tables)
    _check_coverage(tables)

    rows = rows.merge(patients, on="SUBJECT_ID", how="left").set_index("HADM_ID")
    rows["SPLIT"] = split_of(rows["SUBJECT_ID"], seed)
    admitted, discharged = (_times(rows, "ADMISSIONS", column) for column in ("ADMITTIME", "DISCHTIME"))
    age = (admitted - _times(rows, "PATIENTS", "DOB")) / SECONDS_PER_DAY / 365.2425
    rows["AGE"], rows["STAY"] = age.clip(upper=90), (discharged - admitted) / SECONDS_PER_DAY
    begin = _times(stays, "ICUSTAYS", "INTIME")
    stays = stays.assign(INTIME=begin)
    # The open demo has ICU stays that begin hours before the admission, so a day is allowed.
    early = begin < stays["HADM_ID"].map(admitted) - SECONDS_PER_DAY
    late = begin > stays["HADM_ID"].map(discharged) + SECONDS_PER_DAY
    diagnoses = tables["DIAGNOSES_ICD"]
    number = pd.to_numeric(diagnoses["SEQ_NUM"], errors="coerce")
    diagnoses = diagnoses.assign(CHAPTER=chapters(diagnoses["ICD9_CODE"].str.strip()), SEQ_NUM=number)
    no_number = ~((number >= 1) & (number % 1 == 0))
    twice = diagnoses.duplicated(["HADM_ID", "SEQ_NUM"])
    drugs = prescriptions[prescriptions["DRUG_TYPE"] == "MAIN"]
    drugs = drugs.assign(DRUG=drugs["DRUG"].str.strip().str.lower())

    for column in ("GENDER", "DOB", "ADMITTIME", "DISCHTIME"):
        leave_out(f"no {column}", rows[column].notna())
    leave_out("a birth after the admission", age[rows.index] >= 0)
    # Ages above 89 are moved to 300 at the first admission, and MIMIC-III spans 11 years.
    leave_out("an age that cannot be", (age <= 120)[rows.index] | age.between(299, 320)[rows.index])
    leave_out("an age below 18", rows["AGE"] >= 18)
    leave_out("a stay that ends before it begins", rows["STAY"] > 0)
    leave_out("a stay of more than a year", rows["STAY"] <= 365)
    leave_out("no diagnosis", rows.index.isin(diagnoses["HADM_ID"]))
    leave_out("a diagnosis without a whole SEQ_NUM", ~rows.index.isin(diagnoses.loc[no_number, "HADM_ID"]))
    leave_out("a SEQ_NUM that is there twice", ~rows.index.isin(diagnoses.loc[twice, "HADM_ID"]))
    leave_out("no primary diagnosis", rows.index.isin(diagnoses.loc[number == 1, "HADM_ID"]))
    leave_out("no ICU stay", rows.index.isin(stays["HADM_ID"]))
    leave_out("an ICU stay without INTIME", ~rows.index.isin(stays.loc[begin.isna(), "HADM_ID"]))
    leave_out("an ICU stay at another time", ~rows.index.isin(stays.loc[early | late, "HADM_ID"]))
    treatments, treated = _main_treatment(drugs, rows)
    leave_out(f"none of the {len(treatments)} treatments", rows.index.isin(treated.index))
    for part in SHARES:
        if not (rows["SPLIT"] == part).any():
            reasons = {reason: count for reason, count in left_out.items() if count}
            raise ValueError(f"No admission is left for the part {part}: {reasons} were left out; give more records.")

    features = _features(rows, stays, diagnoses)
    return Records(
        features=features.to_numpy(np.float32),
        columns=tuple(features.columns),
        gender=(rows["GENDER"] == "M").to_numpy(np.int64),
        stay=rows["STAY"].to_numpy(np.float64),
        treatment=treated[rows.index].to_numpy(np.int64),
        treatments=treatments,
        subject=rows["SUBJECT_ID"].to_numpy(str),
        split=rows["SPLIT"].to_numpy(str),
        left_out=left_out,
        ignored=ignored,
    )


def _main_treatment(drugs: pd.DataFrame, rows: pd.DataFrame) -> tuple[tuple[str, ...], pd.Series]:
    """The frequent drugs of training, most frequent first, and for admissions with any of them the index of one.

    A frequent drug that is the main one of no training admission (a flush, say) is no class.
    """
    lines = drugs[drugs["HADM_ID"].isin(rows.index)].groupby(["HADM_ID", "DRUG"]).size().rename("LINES").reset_index()
    in_training = lines["HADM_ID"].map(rows["SPLIT"]) == "train"
    counts = lines[in_training].groupby("DRUG").size().reset_index(name="ADMISSIONS")
    frequent = counts.sort_values(["ADMISSIONS", "DRUG"], ascending=[False, True])["DRUG"].tolist()[:TREATMENTS]

    def choose() -> pd.Series:
        index = lines["DRUG"].map({name: index for index, name in enumerate(frequent)})
        # Last after sorting: most lines, and of equals the one that comes later among the frequent ones, the rarer.
        known = lines.assign(INDEX=index).dropna(subset="INDEX").sort_values(["HADM_ID", "LINES", "INDEX"])
        return known.groupby("HADM_ID")["INDEX"].last().astype(int)

    chosen = choose()
    main = set(chosen[chosen.index.map(rows["SPLIT"]) == "train"])
    frequent = [name for index, name in enumerate(frequent) if index in main]
    return tuple(frequent), choose()


def _features(rows: pd.DataFrame, stays: pd.DataFrame, diagnoses: pd.DataFrame) -> pd.DataFrame:
    """(N, D), named columns, indexed by HADM_ID as ``rows``."""
    diagnoses = diagnoses[diagnoses["HADM_ID"].isin(rows.index)]
    primary = diagnoses.sort_values("SEQ_NUM", kind="stable").groupby("HADM_ID")["CHAPTER"].first()[rows.index]
    counts = diagnoses.groupby("HADM_ID").size()[rows.index]
    any_of = np.zeros((len(rows), len(CHAPTER_NAMES)))
    any_of[rows.index.get_indexer(diagnoses["HADM_ID"]), diagnoses["CHAPTER"]] = 1
    unit = stays.sort_values("INTIME", kind="stable").groupby("HADM_ID")["FIRST_CAREUNIT"].first()[rows.index]
    ethnicity = rows["ETHNICITY"].fillna("").str.extract(f"^({'|'.join(ETHNICITIES)})")[0].fillna("OTHER")

    train = rows["SPLIT"] == "train"
    columns = {"gender": np.where(rows["GENDER"] == "M", 1.0, -1.0)}
    for name, values in (("age", rows["AGE"]), ("number of diagnoses", counts)):
        columns[name] = (values - values[train].mean()) / max(values[train].std(ddof=0), 1e-6)
    known = CATEGORIES | {"ETHNICITY": (*ETHNICITIES, "OTHER")}
    for name, values in (
        *((name, rows[name]) for name in ("ADMISSION_TYPE", "INSURANCE", "MARITAL_STATUS")),
        ("ETHNICITY", ethnicity), ("FIRST_CAREUNIT", unit),
    ):  # fmt: skip
        columns |= {f"{name.lower()}: {value}": values == value for value in known[name]}
    columns |= {f"primary: {name}": primary == index for index, name in enumerate(CHAPTER_NAMES)}
    columns |= {f"any: {name}": any_of[:, index] for index, name in enumerate(CHAPTER_NAMES)}
    return pd.DataFrame({name: np.asarray(values, np.float64) for name, values in columns.items()}, index=rows.index)


def to_views(records: Records, source: str) -> Views:
    """Two views of each admission: view 0 is the record, view 1 the same with the gender flipped.

    ``images`` are the features, float32 (2 N, D); ``targets`` (2 N, 1) the gender, 0 woman and 1 man; an action is the
    difference of two targets; a label is the class of the length of stay; ``mesh`` is the patient.
    """
    flipped = records.features.copy()
    flipped[:, 0] *= -1
    gender = torch.from_numpy(np.stack([records.gender, 1 - records.gender], 1)).float().reshape(-1, 1)
    return Views(
        images=torch.from_numpy(np.stack([records.features, flipped], 1).reshape(-1, flipped.shape[1])),
        targets=gender,
        latents=gender,
        labels=torch.from_numpy(records.long_stay),
        classes=CLASSES,
        split=records.split,
        source=np.full(len(flipped), source),
        mesh=records.subject,
        views=2,
        groups={"gender": slice(0, 1)},
        action=difference,
    )


# ---- The synthetic hospital -------------------------------------------------------------------------------------

#: Primary diagnosis: example ICD-9 code (of that chapter), share among women, share among men, and its effect on the
#: logarithm of the stay. Shares are brought to a sum of 1.
DIAGNOSES = {
    "circulatory": ("41401", 0.20, 0.32, -0.10),
    "respiratory": ("51881", 0.14, 0.13, 0.25),
    "infectious": ("0389", 0.12, 0.11, 0.35),
    "digestive": ("5789", 0.12, 0.12, -0.15),
    "injury": ("8208", 0.11, 0.13, 0.05),
    "genitourinary": ("5990", 0.14, 0.07, -0.20),
    "neoplasms": ("1985", 0.09, 0.07, 0.10),
    "endocrine": ("25013", 0.08, 0.05, -0.30),
}
MEN = 0.55
#: Logits of the main treatment: of the two drugs that a diagnosis has, and of the women's drug (the first half of all)
#: for a woman and the men's drug for a man; minus that for the other gender's; 0 otherwise.
TREATED, TREATED_GENDER = 2.0, 0.6
#: Logarithm of the stay in units of `LOS_DAYS` days: effects of ten years of age above 62, of each diagnosis above 6,
#: of an emergency, of being a woman; and what chance adds.
STAY_AGE, STAY_DIAGNOSIS, STAY_EMERGENCY, STAY_WOMAN, STAY_NOISE = 0.10, 0.12, 0.30, 0.15, 0.40
EMERGENCY = 0.70
#: Shares of what depends on nothing.
CIRCUMSTANCES = {
    "INSURANCE": {"Medicare": 0.50, "Private": 0.35, "Medicaid": 0.10, "Government": 0.03, "Self Pay": 0.02},
    "MARITAL_STATUS": {"MARRIED": 0.50, "SINGLE": 0.28, "WIDOWED": 0.15, "DIVORCED": 0.07},
    "ETHNICITY": {"WHITE": 0.72, "BLACK/AFRICAN AMERICAN": 0.12, "HISPANIC OR LATINO": 0.05, "ASIAN": 0.03,
                  "UNKNOWN/NOT SPECIFIED": 0.08},
    "FIRST_CAREUNIT": {"MICU": 0.45, "CSRU": 0.17, "SICU": 0.15, "CCU": 0.13, "TSICU": 0.10},
}  # fmt: skip


@dataclass(frozen=True)
class Hospital:
    """Draws from the synthetic model, and its probabilities given everything that a record tells."""

    gender: np.ndarray  # (N,): 0 woman, 1 man
    primary: np.ndarray  # (N,), index into DIAGNOSES
    diagnoses: np.ndarray  # (N,), their number
    emergency: np.ndarray  # (N,) bool
    treatment: np.ndarray  # (N,), index of a drug
    stay: np.ndarray  # (N,), days
    p_man: np.ndarray  # (N,): P(man | all but the gender)
    p_long: np.ndarray  # (N, 2): P(stay > LOS_DAYS | all but the gender, gender)
    p_treatment: np.ndarray  # (N, 2, 10): P(treatment | all but the gender, gender)


def treatment_table() -> np.ndarray:
    """(diagnoses, 2, 10): chance of each drug by primary diagnosis and gender (0 woman, 1 man)."""
    half, logit = TREATMENTS // 2, np.zeros((len(DIAGNOSES), 2, TREATMENTS))
    logit[:, 0] += np.repeat([TREATED_GENDER, -TREATED_GENDER], half)
    logit[:, 1] -= np.repeat([TREATED_GENDER, -TREATED_GENDER], half)
    for d in range(len(DIAGNOSES)):
        logit[d, :, [d % half, half + d % half]] += TREATED
    return softmax(logit, axis=-1)


def people(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Genders (N,), 0 woman and 1 man, and ages (N,) in years, independent of one another."""
    return (rng.random(count) < MEN).astype(int), np.clip(rng.normal(62, 16, count), 18.5, 86)


def simulate(rng: np.random.Generator, gender: np.ndarray, age: np.ndarray) -> Hospital:
    """Admissions of people of the given genders (N,) and ages (N,), by the synthetic model.

    diagnosis ~ gender; treatment ~ diagnosis, gender; log stay ~ severity (age, diagnoses, emergency), gender. All else
    in a record is independent of the gender, so it is seen through the gender's column and the diagnosis alone.
    """
    count = len(gender)
    _, women, men, effect = (np.array(column) for column in zip(*DIAGNOSES.values()))
    shares = np.stack([women / women.sum(), men / men.sum()])
    primary = _choose(rng, shares[gender])
    diagnoses = 2 + rng.poisson(4, count)
    emergency = rng.random(count) < EMERGENCY

    severity = STAY_AGE * (age - 62) / 10 + STAY_DIAGNOSIS * (diagnoses - 6) + effect[primary]
    mean = (severity + STAY_EMERGENCY * (emergency - EMERGENCY))[:, None] + STAY_WOMAN * np.array([1, 0])
    table, own = treatment_table(), np.arange(count)
    posterior = np.array([1 - MEN, MEN])[:, None] * shares
    return Hospital(
        gender=gender, primary=primary, diagnoses=diagnoses, emergency=emergency,
        treatment=_choose(rng, table[primary, gender]),
        stay=LOS_DAYS * np.exp(mean[own, gender] + STAY_NOISE * rng.normal(size=count)),
        p_man=(posterior[1] / posterior.sum(0))[primary],
        p_long=norm.cdf(mean / STAY_NOISE),
        p_treatment=table[primary],
    )  # fmt: skip


def _choose(rng: np.random.Generator, p: np.ndarray) -> np.ndarray:
    """One index for each row of probabilities (N, K)."""
    return (rng.random(len(p))[:, None] > p.cumsum(1)[:, :-1]).sum(1)


def synthetic(seed: int, patients: int) -> dict[str, pd.DataFrame]:
    """SYNTHETIC tables in MIMIC-III's schema (the columns that are read), as `read_tables` would give them.

    No row is or comes from a person; drugs have letters for names, so that nobody takes an effect for a medical one.
    Patients have one to three admissions, about a year apart. The same arguments give the same tables.
    """
    rng = np.random.default_rng([seed, patients])
    visits = 1 + _choose(rng, np.tile([0.75, 0.19, 0.06], (patients, 1)))
    of_patient = np.repeat(np.arange(patients), visits)
    gender, age = people(rng, patients)
    count, visit = len(of_patient), np.arange(visits.sum()) - np.repeat(np.cumsum(visits) - visits, visits)
    h = simulate(rng, gender[of_patient], age[of_patient] + visit)
    subject, hadm = (of_patient + 10_000).astype(str), (np.arange(count) + 100_000).astype(str)
    year, day = 365.2425 * SECONDS_PER_DAY, SECONDS_PER_DAY
    met = np.datetime64("2150-01-01T00:00:00") + rng.integers(0, 300 * day, patients).astype("timedelta64[s]")
    born = met - (age * year).astype("timedelta64[s]")
    admitted = met[of_patient] + (visit * year).astype("timedelta64[s]")
    discharged = admitted + (h.stay * day).astype("timedelta64[s]")

    def text(times: np.ndarray) -> np.ndarray:
        return np.char.replace(np.datetime_as_string(times, unit="s"), "T", " ")

    def any_of(shares: Mapping[str, float], size: int) -> np.ndarray:
        return rng.choice(list(shares), size, p=list(shares.values()))

    planned = any_of({"ELECTIVE": 0.8, "URGENT": 0.2}, count)
    circumstances = {column: any_of(shares, count) for column, shares in CIRCUMSTANCES.items()}
    codes = np.array([code for code, *_ in DIAGNOSES.values()])
    of_diagnosis = np.repeat(np.arange(count), h.diagnoses)
    sequence = np.arange(len(of_diagnosis)) - np.repeat(np.cumsum(h.diagnoses) - h.diagnoses, h.diagnoses)
    code = np.where(sequence == 0, codes[h.primary[of_diagnosis]], rng.choice(codes, len(of_diagnosis)))
    # The main treatment has three lines, three others have one, and there is a solution to dissolve it in.
    drugs = np.array([f"Drug {chr(65 + i)}" for i in range(TREATMENTS)])
    others = (h.treatment[:, None] + 1 + rng.random((count, TREATMENTS - 1)).argsort(1)[:, :3]) % TREATMENTS
    lines = np.concatenate([np.repeat(h.treatment[:, None], 3, 1), others], 1)
    names = np.concatenate([drugs[lines], np.full((count, 1), "Solution")], 1)
    tables = {
        "PATIENTS": (np.arange(10_000, 10_000 + patients).astype(str), np.array(["F", "M"])[gender], text(born)),
        "ADMISSIONS": (
            subject, hadm, text(admitted), text(discharged), np.where(h.emergency, "EMERGENCY", planned),
            circumstances["INSURANCE"], circumstances["MARITAL_STATUS"], circumstances["ETHNICITY"],
        ),
        "ICUSTAYS": (hadm, circumstances["FIRST_CAREUNIT"], text(admitted)),
        "DIAGNOSES_ICD": (hadm[of_diagnosis], (sequence + 1).astype(str), code),
        "PRESCRIPTIONS": (
            np.repeat(hadm, names.shape[1]), np.tile(["MAIN"] * 6 + ["BASE"], count), names.reshape(-1)
        ),
    }  # fmt: skip
    return {name: pd.DataFrame(dict(zip(COLUMNS[name], columns)), dtype=str) for name, columns in tables.items()}


def bayes(seed: int, admissions: int = 200_000) -> dict[str, dict]:
    """The best that anyone could do on the synthetic hospital, from its own probabilities, by simulation.

    Returns:
        ``all`` (told the whole record) and ``others`` (all but the gender), each metric -> value as
        `lib.people.fairness.read` has them. Persons are as recorded; in ``gender_flipped``, each is there with both
        genders, so that without its own column nothing tells the gender.
    """
    rng = np.random.default_rng([seed, admissions, 1])
    h = simulate(rng, *people(rng, admissions))
    own, weight = np.arange(admissions), np.stack([1 - h.p_man, h.p_man], 1)
    told = h.p_long[own, h.gender], h.p_treatment[own, h.gender]
    untold = (weight * h.p_long).sum(1), (weight[..., None] * h.p_treatment).sum(1)
    found = {}
    for columns, (p_long, p_treatment) in (("all", told), ("others", untold)):
        long = score("los", (h.stay > LOS_DAYS).astype(int), np.stack([1 - p_long, p_long], 1), h.gender)
        found[columns] = long | score("treatment", h.treatment, p_treatment, h.gender)
    found["all"] |= {"gender_accuracy": 1.0, "gender_flipped": 1.0}
    found["others"] |= {"gender_accuracy": float(((h.p_man > 0.5) == h.gender).mean()), "gender_flipped": 0.5}
    return found
