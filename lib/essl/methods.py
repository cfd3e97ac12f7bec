"""Five ways to be invariant: each is an encoder f, a projector p1 and the loss L_SSL of two views of the same N images.

SimCLR contrasts (Chen et al. 2020), BYOL predicts a slow copy of itself (Grill et al. 2020), Barlow Twins decorrelates
(Zbontar et al. 2021), VICReg keeps variance (Bardes et al. 2022), SimSiam stops the gradient (Chen and He 2021).
"""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.method import losses


def small_cnn() -> nn.Sequential:
    """Six 3 x 3 convolutions and an average over what is left of the image, so that any size of view fits."""
    layers, channels = [], 3
    for width, stride in ((16, 2), (32, 2), (32, 1), (64, 2), (64, 1), (128, 1)):
        layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Encoder(nn.Module):
    """f: images (N, S, S, 3) in [0, 1] to features (N, F).

    Args:
        name: ``small-cnn`` (F = 128), ``resnet18-cifar`` (512; a 3 x 3 stem of stride 1, no pooling after it) or
            ``resnet50`` (2,048).
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name == "small-cnn":
            self.net, self.width = small_cnn(), 128
        else:
            import torchvision  # takes seconds, and is needed here alone

            self.net = getattr(torchvision.models, name.removesuffix("-cifar"))()
            self.width = self.net.fc.in_features
            self.net.fc = nn.Identity()
            if name == "resnet18-cifar":
                self.net.conv1, self.net.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        # The permuted view keeps channels last in memory, which convolutions on a CPU like best.
        return self.net((images.permute(0, 3, 1, 2) - 0.5) / 0.25)


def projector(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given widths, each with batch norm, ReLU between them; the last norm has no parameters.

    So it is in the code of E-SSL and of SimSiam, and Barlow Twins has this last norm in its loss. In the papers of
    SimCLR, BYOL and VICReg a projector ends in its linear layer: SimCLR and BYOL depart from them here, `VICReg` drops
    the norm.
    """
    layers = []
    for before, after in zip(widths, widths[1:]):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers[:-2], nn.BatchNorm1d(widths[-1], affine=False))


def predictor(width: int, hidden: int) -> nn.Sequential:
    """q of BYOL and SimSiam: from the projection of one view that of the other."""
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
    )


class Method(nn.Module):
    """What the five share.

    Args:
        spec: the settings ``essl.recipe``, or an entry of ``essl.imagenet``.
    """

    #: Raised when a training computes other weights.
    version = 1

    def __init__(self, spec) -> None:
        super().__init__()
        self.spec, self.f = spec, Encoder(spec.encoder)
        self.p1 = projector((self.f.width, *spec.projector))

    def project(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Projections (N, E) of two views, encoded as one batch."""
        return self.p1(self.f(torch.cat([x1, x2]))).chunk(2)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """L_SSL of views (N, S, S, 3): a scalar."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """What follows an update of the parameters; `progress` is the share of the training that is done."""


class SimCLR(Method):
    """Contrast: a view must find the other view of its image among those of all N, both ways.

    As E-SSL's release has it: negatives are of the other view alone, N - 1 of them; SimCLR itself has 2N - 2.
    """

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        z1, z2 = self.project(x1, x2)
        return losses.info_nce(z1[None], z2[None], self.spec.temperature)


def squared_distance(p: Tensor, z: Tensor) -> Tensor:
    """Mean over N of |p - z|² with p and z (N, E) normalized, 2 - 2 cos: from 0 to 4 (BYOL's equation 2)."""
    return 2 - 2 * F.cosine_similarity(p, z, dim=1).mean()


class BYOL(Method):
    """A view predicts what a slowly moving average of the network, the target, makes of the other view, both ways."""

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.target = copy.deepcopy(nn.Sequential(self.f, self.p1)).requires_grad_(False)
        self.q = predictor(spec.projector[-1], spec.predictor)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        q1, q2 = (self.q(z) for z in self.project(x1, x2))
        with torch.no_grad():
            target1, target2 = self.target(torch.cat([x1, x2])).chunk(2)
        return squared_distance(q1, target2) + squared_distance(q2, target1)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the target toward the network, by less and less: its momentum rises to 1 on a cosine."""
        momentum = 1 - (1 - self.spec.target_momentum) * (math.cos(math.pi * progress) + 1) / 2
        online = [*self.f.parameters(), *self.p1.parameters()]
        for slow, fast in zip(self.target.parameters(), online, strict=True):
            slow.lerp_(fast, 1 - momentum)


def barlow_twins(z1: Tensor, z2: Tensor, redundancy_weight: float) -> Tensor:
    """sum_i (1 - C_ii)² + weight * sum_{i != j} C_ij², C the (E, E) correlations of two views' dimensions (N, E).

    Zbontar et al. 2021, equations 1 and 2. A dimension that is constant has correlation 0.
    """
    z1, z2 = ((z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + 1e-6).sqrt() for z in (z1, z2))
    squares, diagonal = (correlation := z1.T @ z2 / len(z1)).square(), correlation.diagonal()
    return (1 - diagonal).square().sum() + redundancy_weight * (squares.sum() - diagonal.square().sum())


class BarlowTwins(Method):
    """Each dimension of one view correlates with itself in the other view, and with no other dimension."""

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return barlow_twins(*self.project(x1, x2), self.spec.redundancy_weight)


class VICReg(Method):
    """Views are alike, while each dimension varies and no two dimensions covary.

    The paper's weights 25, 25 and 1, on terms as its released code has them: the invariance is a mean over dimensions
    and the variance one over the views, where the paper's equations have sums.
    """

    version = 2

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.p1 = self.p1[:-1]  # after a norm each dimension would vary as much as it should, whatever the encoder does

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        invariance, variance, covariance = losses.vicreg_terms(*self.project(x1, x2))
        return 25 * invariance + 25 * variance + covariance


class SimSiam(Method):
    """A view predicts the projection of the other view, through which no gradient goes, both ways."""

    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.q = predictor(spec.projector[-1], spec.predictor)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """-1/2 cos(q(z1), stop(z2)) - 1/2 cos(q(z2), stop(z1)), means over N: from -1 to 1 (its equation 4)."""
        z1, z2 = self.project(x1, x2)
        forward = F.cosine_similarity(self.q(z1), z2.detach(), dim=1)
        backward = F.cosine_similarity(self.q(z2), z1.detach(), dim=1)
        return -(forward + backward).mean() / 2


METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "byol": BYOL,
    "barlow-twins": BarlowTwins,
    "vicreg": VICReg,
    "simsiam": SimSiam,
}
