"""Probes: what can be read from frozen embeddings. Fitted on train, selected on validation, reported on test.

The embeddings of one checkpoint at all context kinds and lengths are G tables of equal shape, so the heads of all G
are trained together: one batched matrix product for each layer, the same initial weights and batches for every head,
and each head keeps the weights of its own best epoch.

Four probes, the weakest first:

======  =============================  ============================================================================
paper   rotation: MLP, color: linear   Adam on the squared error; embeddings L2-normalized, not standardized (release)
linear  both linear                    the paper's color head for both groups
ridge   both linear                    in closed form, penalty chosen on validation; hears whispers, see below
strong  both MLP                       Adam; embeddings standardized, so directions of little variance are heard too
======  =============================  ============================================================================

A head trained by gradient steps on unit vectors learns a direction at a speed that grows with its variance, so what
lies in directions of hardly any variance stays unread; `ridge` with a small penalty and `strong` read it. The first two
measure what an embedding says aloud, the last two what is left in it at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Groups that the paper's probe reads with an MLP (rotation: SIE's and the paper's code; crop: ours), others linearly.
MLP_GROUPS = ("rotation", "crop")

Layers = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Split:
    """The samples of one split: which embeddings a sample concatenates, and what it must predict.

    rows: (M, R) int64 into the G tables; R = 1 reads one view (individual latents), R = 2 a pair (relative latents).
    target: (M, T) float, or (M,) int64 class labels.
    """

    rows: Tensor
    target: Tensor

    def inputs(self, tables: Tensor, batch: Tensor | slice = slice(None)) -> Tensor:
        """(G, N, E) tables to (G, M, R * E) inputs of the samples in ``batch``."""
        return tables[:, self.rows[batch]].flatten(2)


def standardize(tables: Tensor, train_rows: Tensor) -> Tensor:
    """Zero mean and unit deviation of every dimension on the training rows; (G, N, E) to the same."""
    train = tables[:, train_rows.unique()]
    return (tables - train.mean(1, keepdim=True)) / train.std(1, keepdim=True).clamp(min=1e-6)


def forward(layers: Layers, x: Tensor) -> Tensor:
    """G MLPs with ReLU at once: (G, M, in) to (G, M, out)."""
    for i, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias, F.relu(x) if i else x, weight)
    return x


def _initial(widths: Sequence[int], copies: int, generator: torch.Generator, device: torch.device) -> Layers:
    """torch.nn.Linear's default initialization, drawn once and given to every head."""
    layers = []
    for fan_in, fan_out in zip(widths, widths[1:]):
        bound = fan_in**-0.5
        for shape in ((1, fan_in, fan_out), (1, 1, fan_out)):
            draw = (torch.rand(shape, generator=generator) * 2 - 1) * bound
            layers.append(draw.expand(copies, -1, -1).clone().to(device).requires_grad_())
    return list(zip(layers[::2], layers[1::2]))


def fit_heads(
    tables: Tensor, train: Split, validation: Split, widths: Sequence[int], outputs: int, selections: Sequence[slice],
    epochs: int, settings, seed: int,
) -> list[Layers]:
    """Train one head for each of the G tables with Adam and keep, for each, its best epoch on validation.

    Args:
        tables: (G, N, E), already normalized or standardized.
        train, validation: samples; float targets are expected standardized, integer ones are classes.
        widths: hidden widths; none for a linear head.
        outputs: T, or the number of classes.
        selections: columns of the target that choose an epoch together; each gets weights of its own.
        epochs: passes over the training samples.
        settings: the ``evaluate`` section: ``probe_batch``, ``probe_learning_rate``.
        seed: of the initial weights and the order of the samples.

    Returns:
        For each selection the layers (weight (G, in, out), bias (G, 1, out)) at its best epochs.
    """
    generator = torch.Generator().manual_seed(seed)
    count, inputs = len(tables), train.rows.shape[1] * tables.shape[2]
    layers = _initial([inputs, *widths, outputs], count, generator, tables.device)
    flat = [t for layer in layers for t in layer]
    optimizer = torch.optim.Adam(flat, lr=settings.probe_learning_rate, fused=True)
    classify = not train.target.is_floating_point()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        """Loss of every head, sample and output: (G, M, T), T = 1 for classes."""
        out = forward(layers, x)
        if classify:
            return F.cross_entropy(out.flatten(0, 1), y.repeat(count), reduction="none").view(count, -1, 1)
        return (out - y).square()

    validation_inputs = validation.inputs(tables)
    best = torch.full((len(selections), count), float("inf"), device=tables.device)
    kept = [[t.detach().clone() for t in flat] for _ in selections]
    for _ in range(epochs):
        for batch in torch.randperm(len(train.rows), generator=generator).to(tables.device).split(settings.probe_batch):
            # A sum over heads, a mean within each: heads do not influence one another.
            objective = loss(train.inputs(tables, batch), train.target[batch]).mean((1, 2)).sum()
            optimizer.zero_grad(set_to_none=True)
            objective.backward()
            optimizer.step()
        with torch.no_grad():
            error = loss(validation_inputs, validation.target).mean(1)
            for s, columns in enumerate(selections):
                score = error[:, columns].mean(1)
                better = (score < best[s])[:, None, None]
                best[s] = torch.minimum(score, best[s])
                kept[s] = [torch.where(better, new, old) for new, old in zip(flat, kept[s])]
    return [[(w.detach(), b.detach()) for w, b in zip(k[::2], k[1::2])] for k in kept]


def ridge(
    tables: Tensor, train: Split, validation: Split, test: Split, penalties: Sequence[float],
    selections: Sequence[slice],
) -> Tensor:
    """Ridge regression in closed form; each table and each selection of columns chooses its penalty on validation.

    Minimizes the summed squared error plus penalty * |W|^2 with an unpenalized intercept. One table at a time: a
    Gram matrix is small, its inputs are not.

    Returns:
        (G, M, T) predictions for ``test``.
    """
    predictions = []
    for table in tables.split(1):
        x, y = train.inputs(table)[0], train.target
        x_mean, y_mean = x.mean(0), y.mean(0)
        x = x - x_mean
        # One eigendecomposition serves all penalties. Double precision: collapsed embeddings are nearly singular.
        spectrum, basis = torch.linalg.eigh((x.T @ x).double())
        moment = basis.T @ (x.T @ (y - y_mean)).double()
        weights = torch.stack(
            [basis @ (moment / (spectrum.clamp(min=0) + penalty)[:, None]) for penalty in penalties]
        ).to(x.dtype)
        v, t = validation.inputs(table)[0] - x_mean, test.inputs(table)[0] - x_mean
        error = (v @ weights + y_mean - validation.target).square().mean(1)
        out = torch.empty(len(t), y.shape[1], dtype=x.dtype, device=x.device)
        for columns in selections:
            out[:, columns] = t @ weights[error[:, columns].mean(1).argmin()][:, columns] + y_mean[columns]
        predictions.append(out)
    return torch.stack(predictions)


def predict_latents(
    tables: Tensor, train: Split, validation: Split, test: Split, groups: Mapping[str, slice], settings, seed: int
) -> dict[str, Tensor]:
    """Predictions of the probes that ``settings.probes`` names, for the test samples.

    Targets are standardized by the training statistics inside the loss, so that all components count alike, and the
    predictions are returned in the original units.

    Args:
        tables: (G, N, E) L2-normalized embeddings.
        train, validation, test: samples with (M, A) targets. groups: their columns.
        settings: the ``evaluate`` section. seed: of the heads.

    Returns:
        For each probe (G, M, A).
    """
    columns = list(groups.values())
    mean, std = train.target.mean(0), train.target.std(0).clamp(min=1e-6)
    scaled = [Split(s.rows, (s.target - mean) / std) for s in (train, validation)]

    def heads(tables: Tensor, widths: Sequence[int], epochs: int) -> Tensor:
        fitted = fit_heads(tables, *scaled, widths, len(mean), columns, epochs, settings, seed)
        inputs, out = test.inputs(tables), tables.new_empty(len(tables), len(test.rows), len(mean))
        for layers, c in zip(fitted, columns):
            out[..., c] = forward(layers, inputs)[..., c]
        return out * std + mean

    found, wanted = {}, settings.probes
    # A linear head sees inputs of norm 1 and takes small steps: it needs, and can afford, more epochs.
    linear = heads(tables, (), settings.probe_linear_epochs) if {"paper", "linear"} & set(wanted) else None
    if "paper" in wanted:
        found["paper"] = linear.clone()
        if curved := [columns for group, columns in groups.items() if group in MLP_GROUPS]:
            mlp = heads(tables, settings.probe_widths, settings.probe_epochs)
            for c in curved:
                found["paper"][..., c] = mlp[..., c]
    if "linear" in wanted:
        found["linear"] = linear
    if "ridge" in wanted:
        found["ridge"] = ridge(tables, train, validation, test, settings.ridge_penalties, columns)
    if "strong" in wanted:
        found["strong"] = heads(standardize(tables, train.rows), settings.probe_widths, settings.probe_epochs)
    return found


def predict_classes(
    tables: Tensor, train: Split, validation: Split, test: Split, classes: int, settings
) -> Tensor:
    """Multinomial logistic regression by L-BFGS; each table chooses its penalty on validation: (G, M) classes.

    Run (nearly) to convergence: a probe that stops early favors representations whose classes lie in loud directions.
    Inputs are standardized, which changes nothing that a linear probe could express. The objective is the mean
    cross-entropy plus penalty / (2 N) * |W|^2, as scikit-learn has it with C = 1 / penalty, for all tables at once.
    """
    tables = standardize(tables, train.rows)
    x, y, count = train.inputs(tables), train.target.repeat(len(tables)), len(train.target)
    weight = x.new_zeros(len(tables), x.shape[-1], classes, requires_grad=True)
    bias = x.new_zeros(len(tables), 1, classes, requires_grad=True)
    best = x.new_full((len(tables),), -1.0)
    predicted = torch.zeros(len(tables), len(test.target), dtype=torch.int64, device=x.device)
    # From the strongest penalty to the weakest, each from where the one before ended.
    for penalty in sorted(settings.ridge_penalties, reverse=True):
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

        def objective(penalty=penalty, optimizer=optimizer) -> Tensor:
            optimizer.zero_grad()
            logits = torch.baddbmm(bias, x, weight).flatten(0, 1)
            loss = (F.cross_entropy(logits, y, reduction="sum") + penalty / 2 * weight.square().sum()) / count
            loss.backward()
            return loss

        optimizer.step(objective)
        layers = [(weight.detach(), bias.detach())]
        right = forward(layers, validation.inputs(tables)).argmax(-1) == validation.target
        score = right.float().mean(-1)
        better = score > best
        best = torch.maximum(score, best)
        predicted[better] = forward(layers, test.inputs(tables)).argmax(-1)[better]
    return predicted
