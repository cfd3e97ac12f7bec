"""Figures and tables: one style, byte-stable files, titles that say what the numbers are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: One color for each group and kind of context, everywhere.
_PALETTE = sns.color_palette("colorblind")
COLORS = {"rotation": _PALETTE[0], "color": _PALETTE[1], "none": _PALETTE[7], "simclr": _PALETTE[2]}
RIGHT = _PALETTE[2]


def style() -> None:
    """The look of every figure, whatever settings and fonts a user has; also what makes an SVG the same in each run."""
    plt.rcdefaults()
    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=0.9)
    plt.rcParams.update({
        # The font that matplotlib brings; seaborn would prefer Arial, which only some machines have.
        "font.sans-serif": ["DejaVu Sans"],
        "svg.hashsalt": "contextssl", "svg.fonttype": "none", "figure.dpi": 100, "savefig.dpi": 150,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium", "legend.frameon": False,
    })  # fmt: skip


def show(fig: Figure, stem: str | Path, title: str | None = None, formats: Sequence[str] = ("png", "svg")) -> None:
    """Write a figure, under a title, as ``<stem>.png`` and ``<stem>.svg``, the same bytes each time, and display it."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    if title:
        lines = [part for line in title.splitlines() for part in wrap(line, 110)]
        fig.suptitle("\n".join(lines), fontsize="medium")
    for suffix in formats:
        # Neither a date nor a version goes into the file.
        metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
        fig.savefig(stem.with_suffix(f".{suffix}"), bbox_inches="tight", metadata=metadata)
    plt.show()


def curve(ax: Axes, rows: pd.DataFrame, label: str, color, linestyle: str = "-", marker: str = "o") -> None:
    """A measure against context length: mean over seeds, band of one sample standard deviation.

    Args:
        rows: one number for each seed and length; lengths stand at equal distances.
    """
    rows = rows.sort_values("context_length")
    sns.lineplot(
        rows.assign(context_length=rows["context_length"].astype(str)), x="context_length", y="value", errorbar="sd",
        ax=ax, label=label, legend=False, color=color, linestyle=linestyle, marker=marker, markersize=4,
        markeredgewidth=0, err_kws={"linewidth": 0},
    )  # fmt: skip
    ax.set(xlabel="context length (tokens)", ylabel="")


def published_points(ax: Axes, rows: pd.DataFrame, label: str, color, marker: str = "D") -> None:
    """Published numbers as hollow markers, at those of their lengths that the curves of the axes have."""
    shown = ax.xaxis.get_major_formatter().format_ticks(ax.get_xticks())
    lengths = rows["context_length"].astype(str)
    rows, lengths = rows[lengths.isin(shown)], lengths[lengths.isin(shown)]
    if len(rows):
        look = {"linestyle": "none", "marker": marker, "markersize": 6, "markerfacecolor": "none"}
        ax.plot(lengths, rows["value"], color=color, label=label, **look)


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


def target_errors(latents: np.ndarray) -> dict[str, np.ndarray]:
    """How far each view is from the target, which is view 1.

    Args:
        latents: (..., V, 6), a unit quaternion and two hues for each view.

    Returns:
        ``{"rotation": (..., V) degrees, "color": (..., V) on the circle of length 1}``.
    """
    target = latents[..., 1:2, :]
    return {
        "rotation": pose_error(latents[..., :4], target[..., :4]),
        "color": hue_error(latents[..., 4:], target[..., 4:]),
    }


def _show_view(ax: Axes, image: np.ndarray, errors: Mapping[str, float], asked: str, within: Mapping[str, float]):
    """A view with what it is asked for under it, framed and marked by whether that is right, and the other error."""
    right = errors[asked] <= within[asked]
    # Thickness, dashes and mark say the same as the color.
    look = {"visible": True, "edgecolor": RIGHT if right else "0.5", "linewidth": 4 if right else 1.2}
    ax.imshow(image, interpolation="lanczos")
    for spine in ax.spines.values():
        spine.set(**look, linestyle="-" if right else (0, (4, 3)))
    text = {"rotation": f"{errors['rotation']:.0f}°", "color": f"hue {errors['color']:.2f}"}
    other = next(group for group in text if group != asked)
    under = {"transform": ax.transAxes, "va": "top", "fontsize": 8.5}
    ax.text(0, -0.06, f"{'✓' if right else '✗'} {text[asked]}", ha="left", color=RIGHT if right else "0.2",
            weight="bold" if right else "normal", **under)  # fmt: skip
    ax.text(1, -0.06, text[other], ha="right", color="0.6", **under)


def neighbor_grid(
    images: np.ndarray,
    latents: np.ndarray,
    rows: Mapping[str, Sequence[tuple[str, Sequence[int]]]],
    within: Mapping[str, float],
    headings: Sequence[str] = ("",),
) -> Figure:
    """Source and target of one object, and rows of its nearest neighbors (Figures 1, 6 and 8 to 11).

    A neighbor that is right about what is asked has a thick frame and a check mark, another one a thin dashed frame and
    a cross. Under it stand its errors, first the one that is asked for; under the target, how far the source is.

    Args:
        images: (V, H, W, 3) uint8, the views of the object; 0 is the source, 1 the target.
        latents: (V, 6), see `target_errors`.
        rows: label -> blocks side by side, each what is asked (``rotation`` or ``color``) and view numbers, nearest
            first. At least two rows, all of the same shape.
        within: the largest error that is right, in degrees for ``rotation``, on the circle for ``color``.
        headings: one for each block.
    """
    errors = target_errors(latents)
    counts = [len(found) for _, found in next(iter(rows.values()))]
    # Two columns for source or target and for the labels of the rows; a narrow empty one between blocks.
    widths = [1.4, 1.1] + [w for count in counts for w in (*[1] * count, 0.25)][:-1]
    height = 1.55 * len(rows) + 0.55
    fig, axes = plt.subplots(
        len(rows), len(widths), figsize=(1.25 * sum(widths), height),
        gridspec_kw={"width_ratios": widths, "wspace": 0.1, "hspace": 0.28, "left": 0.01, "right": 0.99,
                     "top": 1 - 0.5 / height, "bottom": 0.25 / height},
    )  # fmt: skip
    plt.setp(axes, xticks=[], yticks=[])
    sns.despine(fig, left=True, bottom=True)
    for ax, view, title in zip(axes[:, 0], (0, 1), ("source", "target")):
        ax.imshow(images[view], interpolation="lanczos")
        ax.set_title(title, weight="bold", fontsize="small", pad=3)
    away = f"from the source:\n{errors['rotation'][0]:.0f}°, hue {errors['color'][0]:.2f}"
    axes[1, 0].set_xlabel(away, fontsize=8.5, labelpad=3)
    for row, (label, blocks) in enumerate(rows.items()):
        line = axes[row, 1:]
        line[0].text(0.95, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize="small")
        at = 1
        for (asked, found), heading in zip(blocks, headings):
            for rank, view in enumerate(found):
                _show_view(line[at + rank], images[view], {g: e[view] for g, e in errors.items()}, asked, within)
                if row == 0:
                    line[at + rank].set_title(f"{rank + 1}-NN", fontsize="small", pad=5)
            if row == 0:
                line[at].text(0, 1.2, heading, transform=line[at].transAxes, weight="bold", fontsize="small")
            at += len(found) + 1
    return fig


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table: fractions with three digits, missing cells empty, numbers to the right."""

    def text(cell: object) -> str:
        return "" if pd.isna(cell) else f"{cell:.3f}" if isinstance(cell, float) else str(cell)

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
