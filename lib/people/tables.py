"""What the notebooks on persons share: their rows on disk, a table and a figure."""

import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lib.people.fairness import GAPS
from lib.report import plotting, results

#: Method and variant of a reference's rows -> its name in tables.
REFERENCES = {
    ("constant", "columns=all"): "a constant (majority)",
    ("boosting", "columns=all"): "gradient boosting, all columns",
    ("boosting", "columns=others"): "gradient boosting, without gender",
    ("bayes", "columns=all"): "the best possible (Bayes), all columns",
    ("bayes", "columns=others"): "the best possible (Bayes), without gender",
}
ENVIRONMENTS = ("equivariant", "invariant")
COLORS = dict(zip(ENVIRONMENTS, (sns.color_palette("colorblind")[i] for i in (3, 0))))


def save(rows: pd.DataFrame, run, folder: Path | str = "build/evaluations") -> pd.DataFrame:
    """Write rows.csv and runs.json of a run in its study's folder, as notebook 04 does, and read the rows back.

    Returns:
        The rows of `lib.report.results.read`, with a column ``source``: ours, or the name of a reference.
    """
    out = Path(folder) / run.study
    out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(out / "rows.csv", index=False)
    (out / "runs.json").write_text(json.dumps([run.model_dump(mode="json")], indent=1) + "\n", encoding="utf-8")
    rows = results.read(*run.sections, folder=folder, each_context=True).rows
    return rows.assign(source=[REFERENCES.get(of, "ours") for of in zip(rows["method"], rows["variant"])])


def reference(rows: pd.DataFrame, name: str, metric: str) -> float | None:
    """The value of a reference in a metric; None if it has none."""
    found = results.select(rows, source=name, metric=metric)["value"]
    return float(found.iloc[0]) if len(found) else None


def mean(rows: pd.DataFrame, environment: str, metric: str) -> tuple[float, float]:
    """Our mean over seeds without a context and at the longest one."""
    curve = results.by_length(results.select(rows, source="ours", environment=environment, metric=metric)).mean()
    return float(curve.iloc[0]), float(curve.iloc[-1])


def ends(rows: pd.DataFrame, environment: str, metric: str) -> str:
    """``0.985 → 0.605``, see `mean`."""
    return " → ".join(f"{value:.3f}" for value in mean(rows, environment, metric))


def table(rows: pd.DataFrame, paper: pd.DataFrame, metrics: Mapping[str, str]) -> pd.DataFrame:
    """Ours and the published numbers line by line, and the references below; metric -> heading gives the columns."""
    paper = paper[paper["context_length"].isin(rows["context_length"])]
    both = pd.concat([rows, paper.assign(source="published")])
    lines = {"environment": "environment", "context_length": "context", "source": "source"}
    found = results.table(results.select(both, metric=list(metrics)), lines, columns="metric", digits=3, floor=False)
    return found[[*lines.values(), *metrics]].rename(columns=metrics)


def figure(
    rows: pd.DataFrame, paper: pd.DataFrame, panels: Mapping[str, str], lines: Mapping[str, str], *, columns: int,
    data: str,
) -> Figure:  # fmt: skip
    """A panel for each metric: both environments against context length, published numbers, references as lines.

    Args:
        rows: of `save`. paper: published numbers. panels: metric -> heading. lines: name of a reference -> line style.
        columns: panels in a row. data: what the published numbers are of.
    """
    count = -(-len(panels) // columns)
    fig, axes = plt.subplots(count, columns, figsize=(3.4 * columns + 1, 3.3 * count), layout="constrained")
    handles: dict = {}
    for ax, (metric, heading) in zip(axes.flat, panels.items()):
        for environment, color in COLORS.items():
            ours, theirs = (results.select(of, environment=environment, metric=metric) for of in (rows, paper))
            plotting.curve(ax, ours, f"{environment} environment", color)
            plotting.published_points(ax, theirs, f"published ({data}), {environment}", color)
        for name, style in lines.items():
            if (value := reference(rows, name, metric)) is not None:
                plotting.floor_line(ax, value, name, style)
        gap = metric.startswith(GAPS)
        ax.set(title=heading, ylabel="difference (0 is equal)" if gap else "AUC" if "auc" in metric else "accuracy")
        ax.set_ylim(bottom=-0.01 if gap else None)
        ax.margins(x=0.15)
        handles |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels())}
    fig.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize="small")
    return fig
