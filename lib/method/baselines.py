"""The baselines, each as its own paper has it: encoder, heads and objective in one class.

All see two views of the same N objects, as features z1 and z2 (N, F) of a shared encoder, and the action a (N, A) that
takes the first view to the second. ``embed`` is the space that the objective compares (Table 19's embedding), of
``embedding_dim`` numbers, and ``predict``, where there is one, the prediction of the second view's embedding from the
first and the action. ``losses`` takes the weights and the temperature from the sections of its last argument, a run.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lib.method import losses
from lib.method.models import Encoder, mlp
from lib.method.sampling import active_components


class Projector(nn.Sequential):
    """Three linear layers, the first two followed by batch norm and ReLU (SimCLR, VICReg, SIE; appendix B.5)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(
            nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(),
            nn.Linear(hidden, outputs),
        )  # fmt: skip


class SimCLR(nn.Module):
    """Invariance by contrast (Chen et al. 2020): two views of an object are positives whatever changed between them."""

    def __init__(self, spec, size: int) -> None:
        super().__init__()
        self.encoder = Encoder(spec, size)
        self.projector = Projector(spec.feature_dim, spec.projector_dim, spec.projector_out)
        self.embedding_dim = spec.projector_out

    def embed(self, z: Tensor) -> Tensor:
        """(N, F) to (N, E)."""
        return self.projector(z)

    def losses(self, z1: Tensor, z2: Tensor, a: Tensor, run) -> dict[str, Tensor]:
        """NT-Xent; the action is not used."""
        return {"loss": losses.nt_xent(self.embed(z1), self.embed(z2), run.pretrain.temperature)}


class VICReg(SimCLR):
    """Invariance without negatives (Bardes et al. 2022): SimCLR's architecture, another loss."""

    def losses(self, z1: Tensor, z2: Tensor, a: Tensor, run) -> dict[str, Tensor]:
        """Variance, invariance and covariance terms; the action is not used."""
        return losses.vicreg(self.embed(z1), self.embed(z2), run.baselines)


class _Action(nn.Module):
    """The components of an action that belong to the groups trained for, in units of their root mean square."""

    def __init__(self, groups: Sequence[str], columns: Mapping[str, slice], scale: Tensor) -> None:
        super().__init__()
        chosen = active_components(["+".join(groups)], columns, len(scale))[0].nonzero()[:, 0]
        self.register_buffer("chosen", chosen)
        self.register_buffer("scale", scale[chosen].clone())
        self.width = len(chosen)

    def forward(self, a: Tensor) -> Tensor:
        """(N, A) to (N, width)."""
        return a.index_select(-1, self.chosen) / self.scale


class EquiMod(nn.Module):
    """An equivariance module beside an invariant one (Devillers and Lefort 2023), both on the whole feature.

    The predictor is their linear layer on the concatenation of embedding and projected action.

    Args:
        spec: the settings ``model``. size: of a sample, see `lib.method.models.Encoder`. groups: trained for.
        columns: `lib.data.views.GROUPS`. scale: (A,) root mean square of the actions of the training set.
    """

    def __init__(self, spec, size: int, groups: Sequence[str], columns: Mapping[str, slice], scale: Tensor) -> None:
        super().__init__()
        self.encoder = Encoder(spec, size)
        self.invariant = Projector(spec.feature_dim, spec.projector_dim, spec.projector_out)
        self.equivariant = Projector(spec.feature_dim, spec.projector_dim, spec.projector_out)
        self.action = _Action(groups, columns, scale)
        self.read_in = nn.Sequential(
            nn.Linear(self.action.width, spec.projector_out), nn.BatchNorm1d(spec.projector_out)
        )
        self.predictor_layer = nn.Linear(2 * spec.projector_out, spec.projector_out)
        self.embedding_dim = spec.projector_out

    def embed(self, z: Tensor) -> Tensor:
        """(N, F) to (N, E), in the equivariant space."""
        return self.equivariant(z)

    def predict(self, z: Tensor, a: Tensor) -> Tensor:
        """Features (N, F) and actions (N, A) to predicted embeddings (N, E) of the other view."""
        return self.predictor_layer(torch.cat([self.embed(z), self.read_in(self.action(a))], dim=-1))

    def losses(self, z1: Tensor, z2: Tensor, a: Tensor, run) -> dict[str, Tensor]:
        """Invariant and equivariant NT-Xent in equal parts."""
        temperature = run.pretrain.temperature
        invariance = losses.nt_xent(self.invariant(z1), self.invariant(z2), temperature)
        equivariance = losses.nt_xent(self.predict(z1, a), self.embed(z2), temperature)
        return {"loss": invariance + equivariance, "invariance": invariance, "equivariance": equivariance}


class SEN(nn.Module):
    """Symmetric embedding network (Park et al. 2022): a transition model, and no term for invariance.

    InfoNCE in place of its triplet loss, as Garrido et al. (2023) and appendix B.4 have it.  Args as for `EquiMod`.
    """

    def __init__(self, spec, size: int, groups: Sequence[str], columns: Mapping[str, slice], scale: Tensor) -> None:
        super().__init__()
        self.encoder = Encoder(spec, size)
        self.projector = Projector(spec.feature_dim, spec.projector_dim, spec.projector_out)
        self.action = _Action(groups, columns, scale)
        self.transition = mlp(spec.projector_out + self.action.width, spec.projector_dim, spec.projector_out)
        self.embedding_dim = spec.projector_out

    def embed(self, z: Tensor) -> Tensor:
        """(N, F) to (N, E)."""
        return self.projector(z)

    def predict(self, z: Tensor, a: Tensor) -> Tensor:
        """Features (N, F) and actions (N, A) to predicted embeddings (N, E) of the other view."""
        return self.transition(torch.cat([self.embed(z), self.action(a)], dim=-1))

    def losses(self, z1: Tensor, z2: Tensor, a: Tensor, run) -> dict[str, Tensor]:
        """NT-Xent between the predicted and the true embedding."""
        return {"loss": losses.nt_xent(self.predict(z1, a), self.embed(z2), run.pretrain.temperature)}


class SIE(nn.Module):
    """Split invariant-equivariant representations (Garrido et al. 2023).

    The first half of the feature is invariant, the second equivariant, each with a projector of half the width. A
    hypernetwork without bias turns the action into the predictor's matrix, so that the action cannot be ignored.
    Args as for `EquiMod`.
    """

    def __init__(self, spec, size: int, groups: Sequence[str], columns: Mapping[str, slice], scale: Tensor) -> None:
        super().__init__()
        half = self.half = spec.feature_dim // 2
        self.width = self.embedding_dim = spec.projector_out // 2
        self.encoder = Encoder(spec, size)
        self.invariant = Projector(half, spec.projector_dim // 2, self.width)
        self.equivariant = Projector(half, spec.projector_dim // 2, self.width)
        self.action = _Action(groups, columns, scale)
        self.hypernetwork = nn.Linear(self.action.width, self.width**2, bias=False)
        # W(a) of a typical action keeps the embedding's scale; torch's default would enlarge it many times.
        nn.init.normal_(self.hypernetwork.weight, std=(self.width * self.action.width) ** -0.5)

    def embed(self, z: Tensor) -> Tensor:
        """(N, F) to (N, E / 2), the equivariant half's projection."""
        return self.equivariant(z[:, self.half :])

    def predict(self, z: Tensor, a: Tensor) -> Tensor:
        """Features (N, F) and actions (N, A) to predicted embeddings (N, E / 2): W(a) times the embedding."""
        return self._transform(self.embed(z), a)

    def _transform(self, embedding: Tensor, a: Tensor) -> Tensor:
        """W(a) z as the sum of a_k W_k z, which never holds a matrix for each sample: (N, E / 2) to (N, E / 2)."""
        matrices = self.hypernetwork.weight.T.unflatten(-1, (self.width, self.width))
        return (self.action(a)[..., None] * torch.einsum("kij,nj->nki", matrices, embedding)).sum(1)

    def losses(self, z1: Tensor, z2: Tensor, a: Tensor, run) -> dict[str, Tensor]:
        """VICReg's terms on both halves, the equivariant one with the prediction in place of the first view.

        Variance also holds for the predictions, so that the predictor cannot collapse what it is given.
        """
        weights = run.baselines
        invariant1, invariant2 = self.invariant(z1[:, : self.half]), self.invariant(z2[:, : self.half])
        embedding1, embedding2 = self.embed(z1), self.embed(z2)
        predicted = self._transform(embedding1, a)
        invariance, _, _ = losses.vicreg_terms(invariant1, invariant2)
        equivariance = (predicted - embedding2).square().mean()
        _, variance, covariance = losses.vicreg_terms(
            torch.cat([invariant1, embedding1], dim=-1), torch.cat([invariant2, embedding2], dim=-1)
        )
        prediction_variance = losses.variance_hinge(predicted) / 2
        total = (
            weights.invariance_weight * invariance
            + weights.equivariance_weight * equivariance
            + weights.variance_weight * (variance + prediction_variance)
            + weights.covariance_weight * covariance
        )
        return {"loss": total, "invariance": invariance, "equivariance": equivariance}
