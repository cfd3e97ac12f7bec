"""The speed-run: settings of the headline tried on validation objects (results/trials.csv), against a fixed target.

A line of the log is one training (``python -m lib try``); R² are of the individual latents of single images, per
component, by the paper's probe, as means over contexts of the same length.
"""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

LOG = Path("results/trials.csv")


class Goal(NamedTuple):
    """A number of the log, or its ratio to another one, that must reach a bound."""

    of: str
    over: str | None
    at_least: bool
    bound: float

    def value(self, log: pd.DataFrame) -> pd.Series:
        return log[self.of] / log[self.over] if self.over else log[self.of]

    def met(self, log: pd.DataFrame) -> pd.Series:
        # A number that a line lacks meets nothing.
        return self.value(log) >= self.bound if self.at_least else self.value(log) <= self.bound


#: The target of the headline.
TARGET = {
    "rotation without context": Goal("paper.0.rotation", None, True, 0.7),
    "color left in the rotation context": Goal("paper.rotation.126.color", "paper.0.color", False, 0.1),
    "rotation left in the color context": Goal("paper.color.126.rotation", "paper.0.rotation", False, 0.1),
    "foreign anchors that find a partner": Goal("anchor=foreign,mask=0.10", None, False, 0.05),
}


def met(log: pd.DataFrame) -> pd.Series:
    """Whether each line meets all of `TARGET`."""
    return pd.concat([goal.met(log) for goal in TARGET.values()], axis=1).all(axis=1)


def settings(log: pd.DataFrame, run: str) -> pd.DataFrame:
    """The settings tried for a run, in the log's order: what was changed, steps, processor, n trainings, medians of the
    target's numbers over them, how many trainings met all of it, and the median seconds of those, the time to target.
    """
    log = log[log["run"] == run].fillna({"note": "", "changes": ""})
    log = log.assign(met=met(log), **{name: goal.value(log) for name, goal in TARGET.items()})
    log["time to target"] = log["seconds"].where(log["met"])
    tried = log.groupby(["name", "note", "changes", "steps", "processor"], sort=False)
    medians = tried[[*TARGET, "time to target"]].median()
    return tried.agg(n=("met", "size"), met=("met", "sum")).join(medians).reset_index()
