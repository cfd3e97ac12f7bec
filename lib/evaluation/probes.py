"""Probes: what can be read from frozen embeddings. Fitted on train, selected on validation, reported on test.

The embeddings of one checkpoint at all context kinds and lengths are G tables of equal shape, so the gradient-trained
heads of all G are trained together: one batched matrix product for each layer, the same initial weights and batches for
every head, and each head keeps the weights of its own best epoch.

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

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Groups that the paper's probe reads with an MLP (rotation: SIE's and the paper's code; crop: ours), others linearly.
MLP_GROUPS = ("rotation", "crop")

#: Of G MLPs: weights (G, out, in) and biases (G, out, 1).
Layers = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Split:
    """The samples of one split: which embeddings a sample concatenates, and what it must predict.

    rows: (M, R) int64 into the G tables; R = 1 reads one view (individual latents), R = 2 a pair (relative latents).
    target: (M, T) float, or (M,) int64 class labels.
    """

    rows: Tensor
    target: Tensor

    def inputs(self, tables: Tensor) -> Tensor:
        """(G, N, E) tables to (G, M, R * E) inputs of the samples."""
        # index_select copies whole rows: many times faster than tables[:, rows].
        return tables.index_select(1, self.rows.flatten()).view(len(tables), len(self.rows), -1)


def standardize(tables: Tensor, train_rows: Tensor) -> Tensor:
    """Zero mean and unit deviation of every dimension on the training rows; (G, N, E) to the same."""
    train = tables.index_select(1, train_rows.unique())
    return (tables - train.mean(1, keepdim=True)) / train.std(1, keepdim=True).clamp(min=1e-6)


def activations(layers: Layers, x: Tensor) -> list[Tensor]:
    """What each layer of G MLPs with ReLU returns to (G, M, in), transposed: (G, width, M), the last without ReLU."""
    found, h = [], x.mT
    for i, (weight, bias) in enumerate(layers, start=1):
        # A weight times transposed inputs: with six outputs several times faster than inputs times a weight.
        h = torch.baddbmm(bias, weight, h)
        found.append(h if i == len(layers) else h.relu_())
    return found


def predict(layers: Layers, inputs: Tensor, batch: int = 512) -> Tensor:
    """Outputs of G MLPs: (G, M, in) to (G, M, out)."""
    return torch.cat([activations(layers, x)[-1] for x in inputs.split(batch, dim=1)], dim=2).mT


def _gradient(layers: Layers, x: Tensor, target: Tensor, out: Layers) -> None:
    """Writes the gradient of each head's mean squared error, (G, M, in) inputs against (M, T) targets, into ``out``."""
    *hidden, answer = activations(layers, x)
    error = (answer - target.T) * (2 / target.numel())
    for i in range(len(layers) - 1, -1, -1):
        torch.bmm(error, hidden[i - 1].mT if i else x, out=out[i][0])
        torch.sum(error, dim=2, keepdim=True, out=out[i][1])
        if i:
            error = (layers[i][0].mT @ error) * hidden[i - 1].sign()  # ReLU's slope: 0 or 1


def _layers(parameters: Tensor, widths: Sequence[int]) -> Layers:
    """Views of (G, P) parameters, those of a head in a row."""
    layers, start = [], 0
    for fan_in, fan_out in zip(widths, widths[1:]):
        middle, stop = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
        weight = parameters[:, start:middle].unflatten(1, (fan_out, fan_in))
        layers.append((weight, parameters[:, middle:stop, None]))
        start = stop
    return layers


@torch.no_grad()
def fit_heads(
    tables: Tensor,
    train: Split,
    validation: Split,
    widths: Sequence[int],
    selections: Sequence[slice],
    epochs: int,
    settings,
    seed: int,
) -> list[Layers]:
    """Train one head for each of the G tables with Adam on the squared error, and keep its best epoch on validation.

    Args:
        tables: (G, N, E), already normalized or standardized.
        train, validation: samples; their targets are expected standardized.
        widths: hidden widths; none for a linear head.
        selections: columns of the target that choose an epoch together; each gets weights of its own.
        epochs: passes over the training samples.
        settings: the ``evaluate`` section: ``probe_batch``, ``probe_learning_rate``.
        seed: of the initial weights and the order of the samples.

    Returns:
        For each selection the layers at its best epochs.
    """
    generator = torch.Generator().manual_seed(seed)
    widths = [train.rows.shape[1] * tables.shape[2], *widths, train.target.shape[1]]
    # torch.nn.Linear's default initialization, drawn once and given to every head.
    drawn = [
        (torch.rand(size, fan_out, generator=generator) * 2 - 1).T.flatten() * fan_in**-0.5
        for fan_in, fan_out in zip(widths, widths[1:]) for size in (fan_in, 1)
    ]  # fmt: skip
    parameters = torch.cat(drawn).repeat(len(tables), 1).to(tables.device)
    gradient = parameters.grad = torch.zeros_like(parameters)
    layers, slopes = _layers(parameters, widths), _layers(gradient, widths)
    optimizer = torch.optim.Adam([parameters], lr=settings.probe_learning_rate, fused=True)
    # What all heads read of a sample lies together, so that a batch is drawn in few long pieces.
    inputs = tables.new_empty(len(train.rows), len(tables), widths[0])
    for g, table in enumerate(tables.split(1)):
        inputs[:, g] = train.inputs(table)[0]
    held_out = validation.inputs(tables)

    best = torch.full((len(selections), len(tables)), float("inf"), device=tables.device)
    kept = [parameters.clone() for _ in selections]
    for _ in range(epochs):
        for batch in torch.randperm(len(train.rows), generator=generator).to(tables.device).split(settings.probe_batch):
            _gradient(layers, inputs.index_select(0, batch).transpose(0, 1), train.target[batch], out=slopes)
            optimizer.step()
        error = (predict(layers, held_out) - validation.target).square().mean(1)
        for s, columns in enumerate(selections):
            score = error[:, columns].mean(1)
            kept[s] = torch.where((score < best[s])[:, None], parameters, kept[s])
            best[s] = torch.minimum(score, best[s])
    return [_layers(of, widths) for of in kept]


def ridge(
    tables: Tensor,
    train: Split,
    validation: Split,
    test: Split,
    penalties: Sequence[float],
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
    tables: Tensor, train: Split, validation: Split, test: Split, groups: Mapping[str, slice], wanted: Collection[str],
    settings, seed: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Predictions of the wanted probes, named as above, for the test samples.

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
        fitted = fit_heads(tables, *scaled, widths, columns, epochs, settings, seed)
        inputs, out = test.inputs(tables), tables.new_empty(len(tables), len(test.rows), len(mean))
        for layers, c in zip(fitted, columns):
            out[..., c] = predict(layers, inputs)[..., c]
        return out * std + mean

    found = {}
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


def predict_classes(tables: Tensor, train: Split, validation: Split, test: Split, classes: int, settings) -> Tensor:
    """Multinomial logistic regression by L-BFGS; each table chooses its penalty on validation: (G, M) classes.

    Run to convergence, within .1 of a point of top-1: a probe that stops early favors representations whose classes lie
    in loud directions. Inputs are standardized, which changes nothing that a linear probe could express. The objective
    is the mean cross-entropy plus penalty / (2 N) * |W|^2, as scikit-learn has it with C = 1 / penalty.
    """
    tables = standardize(tables, train.rows)
    return torch.stack([
        _classes_of(table, train, validation, test, classes, settings.ridge_penalties) for table in tables.split(1)
    ])  # fmt: skip


@torch.no_grad()
def _classes_of(
    table: Tensor, train: Split, validation: Split, test: Split, classes: int, penalties: Sequence[float]
) -> Tensor:
    """`predict_classes` of one standardized table (1, N, E)."""
    x, v, t = (split.inputs(table)[0] for split in (train, validation, test))
    # In the directions of the inputs' covariance the curvature is nearly diagonal. In units of its inverse root it is
    # nearly the same all around, and a hundred steps of L-BFGS come as near as many hundreds otherwise.
    spectrum, basis = torch.linalg.eigh((x.T @ x).double() / len(x))
    spectrum, basis = spectrum.clamp(min=0).to(x.dtype), basis.to(x.dtype)
    x, v, t = x @ basis, v @ basis, t @ basis
    x_transposed = x.T.contiguous()  # a copy, since the product with it is the faster one
    truth = F.one_hot(train.target, classes).T.to(x.dtype)
    weight, bias = x.new_zeros(classes, x.shape[1]), x.new_zeros(classes, 1)
    best, predicted = -1.0, None
    # From the strongest penalty to the weakest, each from where the one before ended.
    for penalty in sorted(penalties, reverse=True):
        unit = (spectrum / classes + penalty / len(x)).rsqrt()
        free = torch.cat([weight / unit, bias], 1)
        optimizer = torch.optim.LBFGS(
            [free], max_iter=100, history_size=10, tolerance_grad=1e-4, line_search_fn="strong_wolfe"
        )

        def objective(unit=unit, penalty=penalty, free=free) -> Tensor:
            weight, bias = free[:, :-1] * unit, free[:, -1:]
            log_share = torch.log_softmax(torch.addmm(bias, weight, x_transposed), dim=0)
            error = (log_share.exp() - truth) / len(x)
            slope = error @ x + penalty / len(x) * weight
            free.grad = torch.cat([slope * unit, error.sum(1, keepdim=True)], 1)
            return penalty / len(x) / 2 * weight.square().sum() - (log_share * truth).sum() / len(x)

        optimizer.step(objective)
        weight, bias = free[:, :-1] * unit, free[:, -1:].clone()
        score = ((v @ weight.T + bias.T).argmax(1) == validation.target).double().mean().item()
        if score > best:
            best, predicted = score, (t @ weight.T + bias.T).argmax(1)
    return predicted
