"""Figures and tables: one style, byte-stable files, titles that say what the numbers are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: One color for each group and kind of context, everywhere.
_PALETTE = sns.color_palette("colorblind")
COLORS = {"rotation": _PALETTE[0], "color": _PALETTE[1], "none": _PALETTE[7], "simclr": _PALETTE[2]}
RIGHT, WRONG = _PALETTE[2], "0.75"


def style() -> None:
    """The look of every figure; also fixes what would make an SVG differ from run to run."""
    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=0.9)
    plt.rcParams.update({
        "svg.hashsalt": "contextssl", "svg.fonttype": "none", "figure.dpi": 100, "savefig.dpi": 150,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium", "legend.frameon": False,
    })  # fmt: skip


def mean_std(numbers: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds (``nan`` for a single seed)."""
    return float(np.mean(numbers)), float(np.std(numbers, ddof=1)) if len(numbers) > 1 else float("nan")


def save(fig: Figure, stem: str | Path, formats: Sequence[str] = ("png", "svg")) -> None:
    """Write a figure as ``<stem>.png`` and ``<stem>.svg``, the same bytes for the same figure."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix in formats:
        # Neither a date nor a version goes into the file.
        metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
        fig.savefig(stem.with_suffix(f".{suffix}"), bbox_inches="tight", metadata=metadata)


def dataset_title(data: Mapping, profile: str) -> str:
    """What every title says about the data: profile, and that a miniature is not the real thing."""
    name = "3DIEBench" if data["name"] == "3diebench" else "3DIEBench miniature, not 3DIEBench"
    return f"profile {profile}, {name}"


def curve(
    ax: Axes, values: Mapping[str, Sequence[float]], label: str, color, linestyle: str = "-", marker: str = "o"
) -> None:
    """A measure against context length: mean over seeds, band of one sample standard deviation.

    Args:
        values: ``{"c0": [one number for each seed], "c2": ...}``; lengths stand at equal distances.
    """
    lengths = sorted(values, key=lambda c: int(c[1:]))
    mean, std = np.array([mean_std(values[c]) for c in lengths]).T
    at = np.arange(len(lengths))
    ax.plot(at, mean, color=color, linestyle=linestyle, marker=marker, markersize=4, label=label)
    if np.isfinite(std).all():
        ax.fill_between(at, mean - std, mean + std, color=color, alpha=0.2, linewidth=0)
    ax.set_xticks(at, [c[1:] for c in lengths])
    ax.set_xlabel("context length (tokens)")


def published_points(ax: Axes, values: Mapping[str, float], lengths: Sequence[str], color, label: str) -> None:
    """Published numbers as hollow diamonds at the lengths that both have."""
    shown = [(i, values[c]) for i, c in enumerate(lengths) if np.isfinite(values.get(c, np.nan))]
    if shown:
        look = {"linestyle": "none", "marker": "D", "markersize": 6, "markerfacecolor": "none"}
        ax.plot(*zip(*shown), color=color, label=label, **look)


def floor_line(ax: Axes, value: float, label: str = "floor: a constant", linestyle: str = ":") -> None:
    """Horizontal line at the score of the best constant predictor."""
    ax.axhline(value, color="0.4", linestyle=linestyle, linewidth=1.2, label=label, zorder=0)


def pose_error(q: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Angle in degrees between unit quaternions (..., 4): 2 arccos |<q, p>|."""
    return np.degrees(2 * np.arccos(np.clip(np.abs((q * p).sum(-1)), 0, 1)))


def hue_error(h: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Mean over floor and light of the distance of hues (..., 2) on the circle of length 1."""
    d = np.abs(h - g) % 1
    return np.minimum(d, 1 - d).mean(-1)


def neighbor_grid(
    arrays: Mapping[str, np.ndarray], examples: Sequence[int], pose_within: float = 20.0, hue_within: float = 0.1
) -> Figure:
    """Figure 9: the nearest neighbors of h(source, action | C) against context length, in each kind of context.

    A block for each example, one row in it for each context length. A neighbor is framed in green where it is right
    about what the context is about: pose within ``pose_within`` degrees of the target's in the rotation context, mean
    hue within ``hue_within`` in the color context. Both errors stand under it.

    Args:
        arrays: what `lib.evaluate.neighbors` returns.
        examples: which of its examples.
    """
    kinds, lengths, count = arrays["kinds"], arrays["lengths"], arrays["neighbors"].shape[-1]
    # Narrow empty columns keep the contexts apart.
    widths = [1, 1] + sum(([0.3] + [1] * count for _ in kinds), [])
    fig = plt.figure(figsize=(1.1 * sum(widths) + 0.8, 1.3 * len(lengths) * len(examples) + 0.6))
    for block, example in zip(np.atleast_1d(fig.subfigures(len(examples), 1)), examples):
        images, latents = arrays["images"][example], arrays["latents"][example]
        axes = block.subplots(
            len(lengths), len(widths), squeeze=False,
            gridspec_kw={"width_ratios": widths, "wspace": 0.08, "hspace": 0.3, "left": 0.1, "right": 0.99,
                         "top": 0.94, "bottom": 0.03},
        )  # fmt: skip
        for ax in axes.flat:
            ax.set(xticks=[], yticks=[])
            sns.despine(ax=ax, left=True, bottom=True)
        for row, length in enumerate(lengths):
            axes[row, 0].set_ylabel(f"{length} tokens", rotation=0, ha="right", va="center", fontsize="small")
        for column, name in enumerate(("source", "target")):
            axes[0, column].imshow(images[column])
            axes[0, column].set_title(name, fontsize="small")
        for k, kind in enumerate(kinds):
            start = 3 + k * (count + 1)
            axes[0, start].set_title(f"{kind} context, nearest first", fontsize="small", loc="left")
            for row in range(len(lengths)):
                for j, view in enumerate(arrays["neighbors"][example, k, row]):
                    pose = float(pose_error(latents[view, :4], latents[1, :4]))
                    hue = float(hue_error(latents[view, 4:], latents[1, 4:]))
                    right = hue <= hue_within if kind == "color" else pose <= pose_within
                    ax = axes[row, start + j]
                    ax.imshow(images[view])
                    for spine in ax.spines.values():
                        spine.set(visible=True, color=RIGHT if right else WRONG, linewidth=3 if right else 1)
                    ax.set_xlabel(f"{pose:.0f}° · hue {hue:.2f}", fontsize=7, labelpad=2)
        axes[0, 0].set_xlabel(f"{arrays['source'][example]} object", fontsize="small", loc="left")
    return fig


def format_mean_std(numbers: Sequence[float], digits: int = 3) -> str:
    """``0.512 ± 0.010``, or the number alone for a single seed."""
    mean, std = mean_std(numbers)
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if np.isfinite(std) else "")


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table: fractions with three digits, missing cells empty, numbers to the right."""

    def text(cell: object) -> str:
        if pd.isna(cell):
            return ""
        return f"{cell:.3f}" if isinstance(cell, float) else str(cell)

    align = ["right" if pd.api.types.is_numeric_dtype(kind) else "left" for kind in frame.dtypes]
    return frame.astype(object).map(text).to_markdown(index=False, disable_numparse=True, colalign=align)


def write_table(frame: pd.DataFrame, stem: str | Path, title: str, notes: Sequence[str] = ()) -> None:
    """Write a table as ``<stem>.csv`` (the frame as it is) and ``<stem>.md`` (title, table, notes).

    Args:
        frame: cells are text or numbers; a missing one is left empty.
        title: artefact, profile, data, number of seeds.
        notes: sentences below the table: floors, where published numbers come from.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(stem.with_suffix(".csv"), index=False, float_format="%.4f", lineterminator="\n")
    lines = [f"# {title}", "", markdown(frame), "", *(f"- {note}" for note in notes)]
    stem.with_suffix(".md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
