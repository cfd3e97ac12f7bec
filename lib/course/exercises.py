"""The check of an exercise.

An exercise of a notebook is four cells, one behind the other; tests/test_exercises.py finds and runs all of them:

1. its text, whose heading names it, its difficulty from ★ to ★★★, minutes, and what it computes;
2. a starter, tagged ``exercise``: code that runs and is not yet right;
3. its check, tagged ``check``: assertions in ``with check("06.1"):``, each with a hint as its message;
4. its solution, tagged ``solution``: Markdown, the code folded in ``<details>``, which every reader of notebooks knows.

Where the notebook reads what other stages made, its exercises need no more than its imports, its parameters, ``paper/``
and the tables of ``results/``: they can be done in a fresh clone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

RIGHT, NOT_YET = "right", "not yet"


@contextmanager
def check(exercise: str) -> Iterator[None]:
    """Say "right" if what is within holds, else "not yet" and why; a notebook runs on in both cases.

    Args:
        exercise: its name, such as ``06.1``: the number of the notebook and that of the exercise.
    """
    try:
        yield
    except Exception as error:
        hint = f"{error}" if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        print(f"Exercise {exercise}: {NOT_YET}. {hint}")
    else:
        print(f"Exercise {exercise}: {RIGHT}.")
