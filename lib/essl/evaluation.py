"""What is read of a frozen encoder, on images that it was not trained on: classes, and transformations."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from lib.essl.objective import ESSL
from lib.essl.transformations import SETS, all_transformed, random_view
from lib.method.sampling import Draws

#: Raised when any of this file computes other rows.
VERSION = 1
BATCH = 500


@torch.no_grad()
def features(f: nn.Module, images: np.ndarray) -> Tensor:
    """(N, F) of images (N, H, W, 3) uint8, as they are: neither cropped nor transformed."""
    place = next(f.parameters()).device
    return torch.cat([f(torch.from_numpy(part).to(place).float() / 255).cpu() for part in _parts(images)])


@torch.no_grad()
def recalibrate(f: nn.Module, images: np.ndarray) -> None:
    """Measure the means and variances of batch norm anew, on images (N, H, W, 3) as they are: crops have others."""
    norms = [module for module in f.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
    f.train()
    features(f, images)
    f.eval()
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def _parts(images: np.ndarray) -> list[np.ndarray]:
    return np.array_split(images, -(-len(images) // BATCH))


def knn(
    bank: Tensor, labels: np.ndarray, queries: Tensor, neighbors: Sequence[int], temperature: float
) -> dict[int, np.ndarray]:
    """Classes by weighted vote of the nearest training images (Wu et al. 2018).

    Args:
        bank: (M, F) features and labels (M,) of training images. queries: (N, F).
        neighbors: numbers k of neighbors, by cosine; of a bank of fewer, all. temperature: T of their weights
            exp(cosine / T).

    Returns:
        k -> the class of each query, (N,).
    """
    bank, classes, found = F.normalize(bank, dim=1), torch.from_numpy(labels), {k: [] for k in neighbors}
    for part in F.normalize(queries, dim=1).split(BATCH):
        cosine, nearest = (part @ bank.T).topk(min(max(neighbors), len(bank)), dim=1)
        for k in neighbors:
            weights = (cosine[:, :k] / temperature).exp()
            votes = torch.zeros(len(part), int(labels.max()) + 1).scatter_add_(1, classes[nearest[:, :k]], weights)
            found[k].append(votes.argmax(dim=1))
    return {k: torch.cat(parts).numpy() for k, parts in found.items()}


def linear(of: Mapping[str, Tensor], labels: Mapping[str, np.ndarray], penalties: Sequence[float]) -> dict:
    """Classes by the linear probe: multinomial logistic regression on standardized features of training images.

    Args:
        of: split -> (N, F). labels: split -> (N,). penalties: candidates for the weight of the sum of squared weights,
            beside the mean cross-entropy; the best on validation images counts.

    Returns:
        The class of each image, (N,), by split: validation, test.
    """
    scaler = StandardScaler().fit(of["train"].numpy())
    inputs = {split: scaler.transform(part.numpy()) for split, part in of.items()}
    best, right = None, -1.0
    for penalty in penalties:
        probe = LogisticRegression(C=1 / (2 * penalty * len(labels["train"])), tol=1e-3, max_iter=300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits of a loss do not change a class
            probe.fit(inputs["train"], labels["train"])
        if (accuracy := probe.score(inputs["validation"], labels["validation"])) > right:
            best, right = probe, accuracy
    return {split: best.predict(inputs[split]) for split in ("validation", "test")}


@torch.no_grad()
def told_transformation(model: ESSL, images: np.ndarray, case, spec) -> float:
    """Share of the transformed third views (of one draw) whose transformation p2 tells.

    Batch norm takes means and variances of the batch, as in training: those that were kept are of all three views.
    """
    place, right = next(model.parameters()).device, []
    model.f.train()
    for number, part in enumerate(_parts(images)):
        draws = Draws(0, number)
        third = torch.from_numpy(part).to(place)
        third = random_view(third, case.augmentation, spec.third_size, spec.third_area, draws("third"))
        transformed, g = all_transformed(third, model.sensitive, model.most, draws("g"))
        right.append(model.p2(model.f(transformed)).argmax(dim=1) == g)
    return torch.cat(right).float().mean().item()


def evaluate(model: ESSL, images, case, spec, evaluation) -> pd.DataFrame:
    """Rows of a trained model: split, metric, value, floor (what a constant scores), n (images); accuracies in percent.

    Metrics: ``knn20`` and so on, ``linear``, and with p2 ``transformation``. What is reported is of test images; rows
    of validation images are what settings may be chosen by.

    Args:
        images: `lib.essl.data.Images`. case: `lib.essl.study.Case`. spec, evaluation: the settings ``essl.recipe`` and
            ``essl.evaluate``.
    """
    of = {split: images.images[images.split == split] for split in ("train", "validation", "test")}
    labels = {split: images.labels[images.split == split] for split in of}
    told_g = {split: told_transformation(model, of[split], case, spec) for split in of if model.p2 is not None}
    recalibrate(model.f, of["train"])
    found = {split: features(model.f, part) for split, part in of.items()}
    by_probe, rows = linear(found, labels, evaluation.probe_penalties), []
    for split in ("validation", "test"):
        told = {"linear": by_probe[split]}
        voted = knn(
            found["train"], labels["train"], found[split], evaluation.neighbors, evaluation.neighbor_temperature
        )
        told |= {f"knn{k}": classes for k, classes in voted.items()}
        largest = np.bincount(labels[split]).max() / len(labels[split])
        right = {metric: ((classes == labels[split]).mean(), largest) for metric, classes in told.items()}
        if told_g:
            right["transformation"] = (told_g[split], 1 / len(SETS[model.sensitive]))
        rows += [(split, name, 100 * share, 100 * floor, len(labels[split])) for name, (share, floor) in right.items()]
    return pd.DataFrame(rows, columns=["split", "metric", "value", "floor", "n"])
