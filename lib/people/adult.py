"""UCI Adult (Becker and Kohavi 1996): 48,842 persons of the 1994 census of the United States, and their income class.

The official test part is kept as it is; validation persons are taken out of the official training part.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from lib.data.views import Views, difference

FILE = Path("data/adult/adult.parquet.brotli")
TEST, TOTAL = 16_281, 48_842  # rows of the official test part, which stands first in the file, and of all
GENDERS, INCOMES = ("Female", "Male"), ("<=50K", ">50K")  # 0 and 1
AMOUNTS = ("capital-gain", "capital-loss")  # mostly 0, else up to 99,999 dollars
NUMBERS = ("age", "educational-num", "hours-per-week")
#: Column -> its categories; ``?`` is a missing value and a category like the others.
CATEGORIES = {
    "workclass": (
        "? Federal-gov Local-gov Never-worked Private Self-emp-inc Self-emp-not-inc State-gov Without-pay"
    ).split(),
    "marital-status": (
        "Divorced Married-AF-spouse Married-civ-spouse Married-spouse-absent Never-married Separated Widowed"
    ).split(),
    "occupation": (
        "? Adm-clerical Armed-Forces Craft-repair Exec-managerial Farming-fishing Handlers-cleaners Machine-op-inspct "
        "Other-service Priv-house-serv Prof-specialty Protective-serv Sales Tech-support Transport-moving"
    ).split(),
    "relationship": "Husband Not-in-family Other-relative Own-child Unmarried Wife".split(),
    "race": "Amer-Indian-Eskimo Asian-Pac-Islander Black Other White".split(),
    "gender": list(GENDERS),
    "native-country": (
        "? Cambodia Canada China Columbia Cuba Dominican-Republic Ecuador El-Salvador England France Germany Greece "
        "Guatemala Haiti Holand-Netherlands Honduras Hong Hungary India Iran Ireland Italy Jamaica Japan Laos Mexico "
        "Nicaragua Outlying-US(Guam-USVI-etc) Peru Philippines Poland Portugal Puerto-Rico Scotland South Taiwan "
        "Thailand Trinadad&Tobago United-States Vietnam Yugoslavia"
    ).split(),
    "income": list(INCOMES),
}


def read(path: Path | str = FILE) -> pd.DataFrame:
    """The checked file, as it is: a row for each person, test part first.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no Parquet file, lacks a column, has another number of rows,
            an unknown category or a number that is none; one sentence each.
    """
    path, cure = Path(path), "get the file again with `dvc pull data.dvc`"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {cure}.")
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); {cure}.") from None
    if missing := [column for column in (*CATEGORIES, *NUMBERS, *AMOUNTS) if column not in frame]:
        raise ValueError(f"{path} lacks the column {missing[0]!r}; {cure}.")
    if len(frame) != TOTAL:
        raise ValueError(f"{path} has {len(frame)} rows, but Adult has {TOTAL}; {cure}.")
    for column, known in CATEGORIES.items():
        if unknown := sorted(set(frame[column].astype(str)) - set(known)):
            raise ValueError(
                f"{path}: the column {column!r} has the unknown category {unknown[0]!r}; known are: {', '.join(known)}."
            )
    for column in (*NUMBERS, *AMOUNTS):
        if not pd.api.types.is_integer_dtype(frame[column]) or frame[column].min() < 0:
            raise ValueError(f"{path}: the column {column!r} must hold whole numbers from 0 upward.")
    return frame


def split(validation: float = 0.2, seed: int = 0) -> np.ndarray:
    """Split of each person, str (48842,): the official test part, and a random share of the rest for validation."""
    names = np.full(TOTAL, "train", dtype="<U10")
    names[:TEST] = "test"
    rest = TEST + np.random.default_rng(seed).permutation(TOTAL - TEST)
    names[rest[: round(validation * len(rest))]] = "validation"
    return names


def pipeline() -> ColumnTransformer:
    """Columns of a person to numbers: standardized, amounts by log(1 + x) before, categories one-hot.

    Left out: ``fnlwgt``, a sampling weight; ``education``, which ``educational-num`` says in order; ``income``.
    Categories of fewer than 20 training persons share one column.
    """
    kinds = [column for column in CATEGORIES if column not in ("gender", "income")]
    rare = OneHotEncoder(min_frequency=20, handle_unknown="infrequent_if_exist", sparse_output=False)
    log = FunctionTransformer(np.log1p, feature_names_out="one-to-one")
    return ColumnTransformer([
        ("gender", OneHotEncoder(categories=[list(GENDERS)], sparse_output=False), ["gender"]),
        ("numbers", StandardScaler(), list(NUMBERS)),
        ("amounts", make_pipeline(log, StandardScaler()), list(AMOUNTS)),
        ("kinds", rare, kinds),
    ], verbose_feature_names_out=False)  # fmt: skip


def flip(frame: pd.DataFrame) -> pd.DataFrame:
    """The same persons with the other gender; every other column is as it was, ``relationship`` (Wife) too."""
    return frame.assign(gender=frame["gender"].map({GENDERS[0]: GENDERS[1], GENDERS[1]: GENDERS[0]}))


def views(frame: pd.DataFrame, names: np.ndarray) -> tuple[Views, list[str]]:
    """Two views of each person, as recorded and with the gender flipped, and the names of the columns of a row.

    Args:
        frame: of `read`. names: `split`, (O,).

    Returns:
        ``images`` are the preprocessed rows, float32 (2 O, D), the pipeline fitted on training persons alone;
        ``targets`` the gender, float32 (2 O, 1), 0 Female or 1 Male, so that an action is 1 from Female to Male and -1
        back; ``labels`` the income class.
    """
    transform = pipeline().fit(frame[names == "train"])
    rows = np.stack([transform.transform(person) for person in (frame, flip(frame))], axis=1)
    gender = (frame["gender"] == GENDERS[1]).to_numpy(np.float32)
    targets = torch.from_numpy(np.stack([gender, 1 - gender], axis=1).reshape(-1, 1))
    return Views(
        images=torch.from_numpy(rows.reshape(-1, rows.shape[-1]).astype(np.float32)),
        targets=targets,
        latents=targets,
        labels=torch.from_numpy((frame["income"] == INCOMES[1]).to_numpy(np.int64)),
        classes=INCOMES,
        split=names,
        source=np.full(len(frame), "real"),
        mesh=np.arange(len(frame)).astype(str),
        views=2,
        groups={"gender": slice(0, 1)},
        action=difference,
    ), list(transform.get_feature_names_out())
