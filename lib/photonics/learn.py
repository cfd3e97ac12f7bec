"""Learning the density of states from an image: networks, pretraining, fine-tuning, and kernel ridge regression.

E-SimCLR is pretrained with L = L_SimCLR(x1, x2) + lambda CE(p2(f(T_g x3)), g), as all of E-SSL
(`lib.essl.objective`); here x1, x2 and x3 are random views by the invariances of the family (`symmetries`), and the T_g
its four predicted transformations. Images are of a crystal, (N, n, n), targets its density of states, (N, 400).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from lib.method.losses import info_nce
from lib.method.sampling import Draws
from lib.photonics.crystals import EPSILON, contrast
from lib.photonics.dos import EMPTY, errors
from lib.photonics.symmetries import INVARIANT, PREDICTED, any_symmetry, one_of


def network_input(permittivity: np.ndarray, scale: str) -> Tensor:
    """What networks see of a permittivity (N, n, n), float32.

    Args:
        scale: ``published``: (eps - 1) / 19. ``relative``: log(eps / <eps>); a label depends on no more, since it is
            given at frequencies in units of the mean permittivity.
    """
    if scale == "published":
        low, high = EPSILON
        found = (permittivity - low) / (high - low)
    else:
        found = np.log(permittivity / permittivity.mean((-2, -1), keepdims=True))
    return torch.from_numpy(found.astype(np.float32))


class Encoder(nn.Module):
    """f: images (N, n, n) to features (N, F) by convolutions, each followed by a maximum over squares, and layers.

    Args:
        spec: the settings ``photonics.network``.
    """

    def __init__(self, spec) -> None:
        super().__init__()
        layers, before = [], 1
        for channels, kernel, stride, pool in zip(spec.channels, spec.kernels, spec.strides, spec.pools):
            padded = {"padding": kernel // 2, "padding_mode": spec.padding}
            layers += [nn.Conv2d(before, channels, kernel, stride, bias=False, **padded), nn.BatchNorm2d(channels)]
            layers += [nn.MaxPool2d(pool), nn.ReLU()]
            before = channels
        self.convolutions = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.layers, self.width = perceptron((before, *spec.features)).append(nn.ReLU()), spec.features[-1]
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.convolutions(images[..., None].permute(0, 3, 1, 2)))


def perceptron(widths: Sequence[int], norm: bool = False) -> nn.Sequential:
    """Linear layers of the given widths, ReLU between them, with batch norm before it where `norm`."""
    layers = []
    for before, after in zip(widths, widths[1:]):
        layers += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers[: -2 if norm else -1])


def _seeded(build: Callable, *streams) -> nn.Module:
    """A module whose first weights are a function of the streams; torch's own randomness stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Draws(*streams)("weights").initial_seed())
        return build()


def new_encoder(spec, seed: int) -> Encoder:
    """As a training of the seed begins. Args: spec: the settings ``photonics.network``."""
    return _seeded(lambda: Encoder(spec), seed, 0)


def pretrain(
    method: str, family: str, images: Tensor, spec, seed: int, report: Callable[[int], None] = lambda done: None
) -> tuple[Encoder, nn.Module, list[dict]]:
    """An encoder that has seen no label.

    Args:
        method: ``simclr``; ``e-simclr``; or ``simclr-all``, which is invariant to what E-SimCLR predicts, too.
        images: of `network_input`. spec: the settings ``photonics``. report: is told the steps done.

    Returns:
        f, p2 (trained by E-SimCLR alone), and about 20 rows of step, contrast (nats), and predicted (nats) of E-SimCLR.
    """
    of = spec.pretrain
    f, p1, p2 = (
        new_encoder(spec.network, seed),
        _seeded(lambda: perceptron((spec.network.features[-1], *of.projector), norm=True), seed, 1),
        _seeded(lambda: perceptron((spec.network.features[-1], *of.classifier, 4), norm=True), seed, 2),
    )
    parameters = [*f.parameters(), *p1.parameters(), *(p2.parameters() if method == "e-simclr" else ())]
    kinds = {"adam": torch.optim.Adam, "sgd": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)}
    optimizer = kinds[of.optimizer](parameters, of.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, of.steps)
    history, every = [], max(1, of.steps // 20)
    for step in range(of.steps):
        draws = Draws(seed, step)
        batch = images[torch.randint(len(images), (of.batch,), generator=draws("crystals"))]
        views = [INVARIANT[family](batch, draws(f"view {i}")) for i in range(3 if method == "e-simclr" else 2)]
        if method == "simclr-all":
            views = [one_of(PREDICTED[family](view), draws(f"moved {i}")) for i, view in enumerate(views)]
        shown = torch.cat([*views[:2], *(PREDICTED[family](views[2]) if method == "e-simclr" else ())])
        features = f(shown)
        z1, z2 = p1(features[: 2 * of.batch]).chunk(2)
        told = {"contrast": info_nce(z1[None], z2[None], of.temperature)}
        if method == "e-simclr":
            g = torch.arange(4).repeat_interleave(of.batch)
            told["predicted"] = F.cross_entropy(p2(features[2 * of.batch :]), g)
        optimizer.zero_grad()
        (told["contrast"] + of.sensitivity_weight * told.get("predicted", 0)).backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % every == 0:
            history.append({"step": step + 1, **{name: value.item() for name, value in told.items()}})
            report(step + 1)
    return f.eval(), p2.eval(), history


@torch.no_grad()
def pretext_accuracy(f: Encoder, p2: nn.Module, family: str, images: Tensor) -> float:
    """How many of the four transformations of each crystal p2 tells, in percent; a guess tells 25."""
    told = p2(f(PREDICTED[family](images).flatten(0, 1))).argmax(1)
    return 100 * (told == torch.arange(4).repeat_interleave(len(images))).double().mean().item()


class Labeled(NamedTuple):
    """Crystals with their labels: permittivity (N, n, n) and density of states (N, 400)."""

    permittivity: np.ndarray
    density: np.ndarray


class Found(NamedTuple):
    """Errors in percent of each test crystal, (N,): as validation selects, in the end, and the least mean of all."""

    selected: np.ndarray
    last: np.ndarray
    least: np.ndarray


def fine_tune(
    f: Encoder | None, augmented: bool, splits: Sequence[Labeled], spec, seed: int,
    report: Callable[[int], None] = lambda done: None,
) -> Found:  # fmt: skip
    """Train all weights on labels, evaluated 20 times on the way.

    Args:
        f: pretrained; None for a new one. augmented: by all symmetries of the label.
        splits: training, validation, test. spec: the settings ``photonics``. report: is told the steps done.
    """
    of, network = spec.finetune, spec.network
    head = _seeded(lambda: perceptron((network.features[-1], *network.head, len(EMPTY))), seed, 3)
    model = nn.Sequential(f or new_encoder(network, seed), head)
    images = [network_input(part.permittivity, network.input) for part in splits]
    beyond = torch.from_numpy((splits[0].density - EMPTY).astype(np.float32))
    mean, deviation = beyond.mean(0), beyond.std()
    targets = (beyond - mean) / deviation

    @torch.no_grad()
    def evaluated(part: int) -> np.ndarray:
        model.eval()
        found = torch.cat([model(batch) for batch in images[part].split(500)]) * deviation + mean
        model.train()
        return errors(found.double().numpy() + EMPTY, splits[part].density)

    optimizer = torch.optim.Adam(model.parameters(), of.learning_rate, weight_decay=of.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, of.steps)
    size, seen = min(of.batch, len(targets)), []
    model.train()
    for step in range(of.steps):
        draws = Draws(seed, step)
        chosen = torch.randperm(len(targets), generator=draws("labels"))[:size]
        batch = images[0][chosen]
        batch = any_symmetry(batch, draws("symmetry")) if augmented else batch
        loss = F.mse_loss(model(batch), targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, of.steps // 20) == 0:
            seen.append((evaluated(1).mean(), evaluated(2)))
            report(step + 1)
    return _selected(seen)


def _selected(seen: Sequence[tuple[float, np.ndarray]]) -> Found:
    """Of candidates, each with its mean error in validation and its errors of test crystals."""
    return Found(min(seen, key=lambda of: of[0])[1], seen[-1][1], min((test for _, test in seen), key=np.mean))


# ---- Without a network


def materials(permittivity: np.ndarray) -> np.ndarray:
    """Of crystals (N, n, n) what a label depends on but for the shape: log of the contrast, fill of the higher eps."""
    high = permittivity.max((1, 2), keepdims=True)
    return np.stack([np.log(contrast(permittivity)), (permittivity == high).mean((1, 2))], 1)


def spectrum(permittivity: np.ndarray, most: int) -> np.ndarray:
    """Moduli of the Fourier coefficients of eps / <eps> with |n| <= most, sorted among those that symmetries exchange.

    Translations do not change them, flips and quarter turns exchange up to eight; of +n and -n, alike, one counts.
    """
    relative = permittivity / permittivity.mean((1, 2), keepdims=True)
    moduli = np.abs(np.fft.fft2(relative)) / permittivity[0].size
    orders = [(p, q) for p in range(most + 1) for q in range(p, most + 1) if q]
    alike = [np.stack([moduli[:, p, q], moduli[:, q, p], moduli[:, p, -q], moduli[:, q, -p]], 1) for p, q in orders]
    return np.concatenate([np.sort(of) for of in alike], 1)


@torch.no_grad()
def frozen(f: Encoder, permittivity: np.ndarray, spec) -> np.ndarray:
    """Features (N, F) of an encoder as it is. Args: spec: the settings ``photonics.network``."""
    images = network_input(permittivity, spec.input)
    return torch.cat([f.eval()(batch) for batch in images.split(500)]).double().numpy()


def kernel_ridge(choices: Sequence[Callable], splits: Sequence[Labeled], spec) -> Found:
    """Ridge regression with a Gaussian kernel of standardized features.

    Args:
        choices: functions from permittivity (N, n, n) to features (N, D). splits: training, validation, test.
        spec: the settings ``photonics.ridge``; validation selects features, length scale and penalty.
    """
    center, seen = splits[0].density.mean(0), []
    for choice in choices:
        found = [choice(part.permittivity) for part in splits]
        train, *rest = ((of - found[0].mean(0)) / (found[0].std(0) + 1e-6) for of in found)
        for scale in spec.length_scales:
            # Length scales are in units of a typical distance, which grows as the root of the dimension.
            kernel, *others = (np.exp(-cdist(of, train, "sqeuclidean") / (2 * scale**2 * train.shape[1])) for of in
                               (train, *rest))  # fmt: skip
            for penalty in spec.penalties:
                regularized = kernel + penalty * np.eye(len(train))
                weights = scipy.linalg.solve(regularized, splits[0].density - center, assume_a="pos")
                tests = [errors(of @ weights + center, part.density) for of, part in zip(others, splits[1:])]
                seen.append((tests[0].mean(), tests[1]))
    found = _selected(seen)
    return found._replace(last=found.selected)  # candidates have no order
