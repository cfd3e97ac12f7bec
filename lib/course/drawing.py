"""Drawings of the toy world of notebook 06: its views, and how they pass through ContextSSL."""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Patch, Rectangle
from torch import Tensor

INK, SOFT, SEEN, DROPPED, FORBIDDEN, LOSS = "0.15", "0.55", "tab:blue", "0.8", "tab:red", "tab:green"
ARROW = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}


def view(ax: Axes, x: float, y: float, radius: float, latents: Tensor, shape: Tensor) -> None:
    """A view as a body of its object's shape, turned by its angle and filled with its hue.

    Args:
        x, y, radius: where and how large. latents: (3,) sin and cos of the angle, hue in +-sqrt(3). shape: (2,).
    """
    sine, cosine, hue = latents.tolist()
    wide, high = (radius * (1 + 0.3 * math.tanh(s)) for s in shape.tolist())
    color = hsv_to_rgb((0.4 + 0.8 * hue / math.sqrt(12), 0.75, 0.9))
    ax.add_patch(Ellipse((x, y), 2 * wide, 1.3 * high, angle=math.degrees(math.atan2(sine, cosine)), fc=color, ec=INK))
    ax.plot([x, x + wide * cosine], [y, y + wide * sine], color=INK, lw=2, solid_capstyle="round")


def pairs(latents: Tensor, shapes: Tensor, told: list[str]) -> Figure:
    """Pairs of views side by side; above each the action between them, in the words of its context.

    Args:
        latents: (n, 2, 3). shapes: (n, 2). told: what to write above each of the n pairs.
    """
    fig, ax = plt.subplots(figsize=(8, 1.9))
    for i, (of_pair, shape, text) in enumerate(zip(latents, shapes, told)):
        view(ax, 4 * i, 0, 0.62, of_pair[0], shape)
        view(ax, 4 * i + 2.2, 0, 0.62, of_pair[1], shape)
        ax.add_patch(FancyArrowPatch((4 * i + 0.85, 0), (4 * i + 1.4, 0), color=INK, **ARROW))
        ax.text(4 * i, -1.15, f"$x_{i + 1}$", ha="center")
        ax.text(4 * i + 2.2, -1.15, f"$y_{i + 1}$", ha="center")
        ax.text(4 * i + 1.1, 1.0, text, ha="center", fontsize=9)
    ax.set(xlim=(-1, 4 * len(latents) - 0.8), ylim=(-1.4, 1.4), aspect="equal")
    ax.axis("off")
    return fig


def transformer(latents: Tensor, shapes: Tensor, mask: Tensor) -> Figure:
    """ContextSSL on three pairs (the paper's Figure 2, drawn anew), beside the mask of its six tokens.

    Args:
        latents: (3, 2, 3). shapes: (3, 2). mask: (6, 6), see `lib.method.masking.random_context_mask`.
    """
    fig, (ax, matrix) = plt.subplots(1, 2, figsize=(8, 5.4), width_ratios=[2.1, 1], layout="constrained")
    places = [1.0, 3.0, 5.4, 7.4, 9.8, 11.8]
    for i, (of_pair, shape) in enumerate(zip(latents, shapes)):
        for place, one in zip(places[2 * i : 2 * i + 2], of_pair):
            view(ax, place, 0.2, 0.5, one, shape)
    tokens = [name for i in (1, 2, 3) for name in (f"x_{i}", f"y_{i}")]
    _box(ax, 0.2, 1.3, 12.4, 0.8, "encoder $f$, the same for every view")
    for t, (place, token) in enumerate(zip(places, tokens)):
        ax.text(place, -0.85, f"${token}$", ha="center")
        for low, high in ((0.75, 1.3), (2.1, 2.6), (3.8, 4.5), (8.1, 8.6)):
            ax.add_patch(FancyArrowPatch((place, low), (place, high), color=SOFT, **ARROW))
        action = f"$a_{t // 2 + 1}$" if t % 2 == 0 else "$0$"
        ax.add_patch(Rectangle((place - 0.75, 2.6), 1.5, 1.2, fc="white", ec=INK))
        ax.plot([place + 0.2, place + 0.2], [2.6, 3.8], color=INK, lw=0.8)
        ax.text(place - 0.28, 3.2, f"$z_{{{token}}}$", ha="center", va="center", fontsize=9)
        ax.text(place + 0.48, 3.2, action, ha="center", va="center", fontsize=10, color=INK if t % 2 == 0 else SOFT)
        ax.add_patch(Rectangle((place - 0.75, 8.6), 1.5, 0.8, fc="#e8eef6", ec=INK))
        ax.text(place, 8.98, f"$h_{{{token}}}$", ha="center", va="center", fontsize=10)
    _box(ax, 0.2, 4.5, 12.4, 3.6, "")
    ax.text(0.4, 7.62, "transformer $h$", fontsize=9)
    for query in (4, 5):
        for key in range(query + 1):
            own = query == 5 and key == 4
            color = FORBIDDEN if own else SEEN if mask[query, key] else DROPPED
            ax.plot([places[key], places[query]], [4.7, 7.9], color=color, ls="-" if mask[query, key] else ":", lw=1.4)
    ax.text((places[4] + places[5]) / 2, 6.3, "×", color=FORBIDDEN, ha="center", va="center", fontsize=17)

    _join(ax, places[4], places[5], 9.6, "attract", LOSS)
    for place in (places[1], places[3]):
        ax.add_patch(FancyArrowPatch((places[4] - 0.3, 9.5), (place, 9.5), connectionstyle="arc3,rad=0.22",
                                     arrowstyle="<|-|>", mutation_scale=8, color=SOFT, ls="--"))  # fmt: skip
    ax.text(5.1, 10.75, "InfoNCE: repel", ha="center", fontsize=9, color=SOFT)
    _box(ax, 8.7, 11.15, 3.9, 0.8, "auxiliary predictor $q$")
    for place in places[4:]:
        ax.add_patch(FancyArrowPatch((place, 9.4), (place, 11.15), color=SOFT, **ARROW))
    ax.text(10.65, 12.75, "the angle of $y_3$, no word\nof its hue", ha="center", va="center", fontsize=9)
    ax.add_patch(FancyArrowPatch((10.65, 11.95), (10.65, 12.25), color=SOFT, **ARROW))
    ax.set(xlim=(0, 12.8), ylim=(-1.2, 13.4))
    ax.axis("off")

    future = ~torch.ones(6, 6, dtype=torch.bool).tril()
    names = [f"$({token}, a_{token[-1]})$" if token[0] == "x" else f"${token}$" for token in tokens]
    for query in range(6):
        for key in range(6):
            own = query % 2 == 1 and key == query - 1
            color = "white" if future[query, key] else FORBIDDEN if own else SEEN if mask[query, key] else DROPPED
            matrix.add_patch(Rectangle((key, query), 1, 1, fc=color, ec="0.9", alpha=0.8))
    matrix.set(xlim=(0, 6), ylim=(6, 0), aspect="equal", xlabel="sees", ylabel="token")
    matrix.set_xticks([k + 0.5 for k in range(6)], names, rotation=60)
    matrix.set_yticks([k + 0.5 for k in range(6)], names)
    matrix.tick_params(length=0)
    keys = {"seen": SEEN, "hidden at random": DROPPED, "never: its own $(x, a)$": FORBIDDEN}
    handles = [Patch(fc=color, alpha=0.8, label=label) for label, color in keys.items()]
    matrix.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.4, -0.42), fontsize=9)
    return fig


def _box(ax: Axes, x: float, y: float, width: float, height: float, text: str) -> None:
    ax.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.25", fc="0.95", ec=INK))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def _join(ax: Axes, left: float, right: float, y: float, text: str, color) -> None:
    ax.add_patch(FancyArrowPatch((left, y), (right, y), connectionstyle="arc3,rad=-0.5", arrowstyle="<|-|>",
                                 mutation_scale=9, color=color, lw=1.6))  # fmt: skip
    ax.text((left + right) / 2, y + 0.75, text, ha="center", fontsize=9, color=color)
