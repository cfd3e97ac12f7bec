"""The objective of E-SSL: invariant to some transformations, sensitive to others (Dangovski et al. 2022).

    L = L_SSL(x1, x2) + lambda * CE(p2(f(T_g x3)), g)

x1, x2 and x3 are three random views of the same N images, the third a smaller crop. The first term is that of an
invariant method (`lib.essl.methods`), whose encoder is f. In the second the third view is transformed by every T_g of
a finite set G (`lib.essl.transformations`), and a classifier p2 must tell from the feature which g it was; the
cross-entropy is a mean over |G| and N. So f may not forget what T_g changes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from lib.essl.methods import METHODS
from lib.essl.transformations import SETS, all_transformed


def classifier(widths: Sequence[int]) -> nn.Sequential:
    """p2: linear layers of the given widths, layer norm and ReLU between them."""
    layers = []
    for before, after in zip(widths, widths[1:]):
        layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU()]
    return nn.Sequential(*layers[:-2])


class ESSL(nn.Module):
    """An invariant method and, where there is a set to be sensitive to, the predictor of its transformations.

    Args:
        method: a name of `lib.essl.methods.METHODS`.
        sensitive: a name of `lib.essl.transformations.SETS`, or "": the invariant method alone.
        random_labels: the control. What p2 must tell is drawn at random, so the third view is encoded as in E-SSL, but
            there is nothing to be learned from it.
        spec: the settings ``essl.recipe``, or an entry of ``essl.imagenet``.
    """

    def __init__(self, method: str, sensitive: str, random_labels: bool, spec) -> None:
        super().__init__()
        self.invariant, self.sensitive, self.random_labels = METHODS[method](spec), sensitive, random_labels
        self.p2 = None
        if sensitive:
            self.most, self.weight = spec.copies, spec.sensitivity_weights[method]
            self.p2 = classifier((self.f.width, *spec.classifier, len(SETS[sensitive])))

    @property
    def f(self) -> nn.Module:
        return self.invariant.f

    def forward(self, x1: Tensor, x2: Tensor, x3: Tensor | None, generator: Generator) -> dict[str, Tensor]:
        """The objective of views (N, S, S, 3), of which the third may be smaller and is not read without p2.

        Returns:
            Scalars: ``loss`` (L), ``invariance`` (L_SSL), and with p2 ``sensitivity`` (the cross-entropy, in nats).
        """
        invariance = self.invariant(x1, x2)
        if self.p2 is None:
            return {"loss": invariance, "invariance": invariance}
        transformed, g = all_transformed(x3, self.sensitive, self.most, generator)
        if self.random_labels:
            g = torch.randint(len(SETS[self.sensitive]), g.shape, generator=generator).to(g.device)
        sensitivity = F.cross_entropy(self.p2(self.f(transformed)), g)
        loss = invariance + self.weight * sensitivity
        return {"loss": loss, "invariance": invariance, "sensitivity": sensitivity}
