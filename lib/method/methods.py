"""What each method is: the model, one training step from a batch to a loss, and the settings that a training reads.

A step is a function of the model, its run, the views' groups and actions, a `lib.method.sampling.Batch`, the step's
`lib.method.sampling.Draws` and ``progress``, the share of the training that is done. It returns a dict of scalars,
``loss`` among them. `METHODS`, at the end, is the whole list.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lib.data.views import Views
from lib.method import losses, sampling
from lib.method.baselines import SEN, SIE, EquiMod, SimCLR, VICReg
from lib.method.masking import mask_probability, random_context_mask
from lib.method.models import ContextSSL, sphere
from lib.method.sampling import Batch, Draws, Pairs, active_components, interleave, restrict


def contextssl_step(
    model: ContextSSL, run, views: Views, batch: Batch, draws: Draws, progress: float
) -> dict[str, Tensor]:
    """ContextSSL (section 3.2): ``loss`` (weighted sum), ``info_nce``, and with a weight ``auxiliary`` and ``label``.

    Negatives live within a context, so several devices need to exchange gradients only. The
    group ``none`` aligns pairs without telling the action.
    """
    context, spec = run.context, run.pretrain
    contexts, tokens, layers = spec.contexts_per_step, run.model.block_size, run.model.layers
    pairs, z_x, z_y = _encoded_pairs(model, run, batch, draws)
    groups = sampling.sample_groups(contexts, run.groups, context.group_per, draws("groups"))
    latents_x, latents_y = _gather(batch.targets.flatten(0, 1), pairs.x, pairs.y)
    a = restrict(views.action(latents_x, latents_y), groups, views.groups)

    p = mask_probability(context, progress)
    generator, different = draws("masks"), layers if context.mask_per_layer else 1
    masks = [
        random_context_mask(contexts, tokens, p, context.mask_unit, generator).to(a.device) for _ in range(different)
    ] * (layers // different)
    h = model.predictor(interleave(z_x, z_y), interleave(a, torch.zeros_like(a)), masks)
    h_x, h_y = h[:, 0::2], h[:, 1::2]

    if context.negatives == "context":
        parts = {"info_nce": losses.info_nce(h_x, h_y, spec.temperature)}
    else:
        parts = {"info_nce": losses.info_nce_batch(h_x, h_y, spec.temperature, pairs)}
    total = spec.info_nce_weight * parts["info_nce"]
    if model.auxiliary is not None:
        # Standardized latents of y, whichever token must tell them: a constant predictor has error 1.
        target = (latents_y - model.target_mean) / model.target_std
        active = active_components(groups, views.groups, a.shape[-1]).to(a)
        asked = {"x": [h_x], "y": [h_y], "both": [h_x, h_y]}[context.auxiliary_tokens]
        errors = [losses.auxiliary_loss(model.auxiliary(h_t), target, active) for h_t in asked]
        parts["auxiliary"] = sum(errors) / len(errors)
        total = total + spec.auxiliary_weight * parts["auxiliary"]
    parts = {"loss": total, **parts}
    # At y-tokens alone: an x-token's own action would give the group away without any context.
    shifted = torch.tensor([group == "rotation" for group in groups]).repeat_interleave(tokens // 2)
    return _with_labels(parts, model, run, h_y.flatten(0, 1), _labels_of_y(batch, pairs), shifted)


def plus_step(
    objective: Callable, model: ContextSSL, run, views: Views, batch: Batch, draws: Draws, progress: float
) -> dict[str, Tensor]:
    """SimCLR+ and VICReg+: the method's loss, but our transformer where its projector was (appendix B.4).

    Contexts hold pairs without actions. The mask probability chooses between the paper's two settings: at 1 a token
    sees itself alone (c = 0), at 0 its whole past. ``objective`` is the loss of (B, K, E) x-tokens and y-tokens.
    """
    contexts, tokens, context = run.pretrain.contexts_per_step, run.model.block_size, run.context
    pairs, z_x, z_y = _encoded_pairs(model, run, batch, draws)
    features = interleave(z_x, z_y)
    mask = random_context_mask(contexts, tokens, context.mask_probability, context.mask_unit, draws("masks"))
    silence = features.new_zeros(*features.shape[:2], model.predictor.action_dim)
    h = model.predictor(features, silence, [mask.to(features.device)] * run.model.layers)
    h_x, h_y = h[:, 0::2], h[:, 1::2]
    # No action says which group the context is about; the labels know it all the same.
    shifted = (torch.arange(contexts) % 2 == 0).repeat_interleave(tokens // 2)
    parts = {"loss": objective(h_x, h_y, run)}
    return _with_labels(parts, model, run, h_y.flatten(0, 1), _labels_of_y(batch, pairs), shifted)


def simclr_plus(h_x: Tensor, h_y: Tensor, run) -> Tensor:
    """NT-Xent within each context, mean over contexts."""
    return sum(losses.nt_xent(x, y, run.pretrain.temperature) for x, y in zip(h_x, h_y)) / len(h_x)


def vicreg_plus(h_x: Tensor, h_y: Tensor, run) -> Tensor:
    """VICReg's terms over all tokens of the step."""
    return losses.vicreg(h_x.flatten(0, 1), h_y.flatten(0, 1), run.baselines)["loss"]


def pair_step(model: nn.Module, run, views: Views, batch: Batch, draws: Draws, progress: float) -> dict[str, Tensor]:
    """Baselines that compare two views of each object, 2k and 2k + 1: what the ``losses`` of their class return."""
    z1, z2 = model.encoder(batch.images.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
    latents1, latents2 = batch.targets.flatten(0, 1).unflatten(0, (-1, 2)).unbind(1)
    parts = model.losses(z1, z2, views.action(latents1, latents2), run)
    labels = batch.labels.repeat_interleave(batch.targets.shape[1] // 2)
    shifted = torch.rand(len(labels), generator=draws("labels")) < 0.5
    return _with_labels(parts, model, run, model.embed(z2) if run.pretrain.label_weight else z2, labels, shifted)


def _with_labels(
    parts: dict[str, Tensor], model: nn.Module, run, embeddings: Tensor, labels: Tensor, shifted: Tensor
) -> dict[str, Tensor]:
    """The parts of a loss, and with a weight the cross-entropy of context-dependent labels, ``label`` (section 4.6).

    The label is the class, in a rotation context shifted by ``label_shift`` (10 in the paper).

    Args:
        model: with a ``classifier``. embeddings: (M, E), not normalized. labels: (M,) classes.
        shifted: (M,) bool, true in a rotation context.
    """
    spec = run.pretrain
    if not spec.label_weight:
        return parts
    truth = labels + spec.label_shift * shifted.to(labels)
    label = nn.functional.cross_entropy(model.classifier(sphere(embeddings)), truth)
    return parts | {"loss": parts["loss"] + spec.label_weight * label, "label": label}


def _encoded_pairs(model: ContextSSL, run, batch: Batch, draws: Draws) -> tuple[Pairs, Tensor, Tensor]:
    """The pairs of a step's contexts and the features (B, K, F) of their x and y; each view is encoded once."""
    contexts, count, m = run.pretrain.contexts_per_step, run.model.block_size // 2, run.context.pairs_per_object
    pairs = sampling.sample_pairs(contexts, count, *batch.images.shape[:2], m, draws("pairs"))
    return pairs, *_gather(model.encoder(batch.images.flatten(0, 1)), pairs.x, pairs.y)


def _gather(rows: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of (N, C) at the (B, K) positions x and y: two (B, K, C).

    By index_select, whose backward adds in a fixed order on the CPU; that of ``rows[x]`` does not with several threads.
    """
    return tuple(rows.index_select(0, at.flatten().to(rows.device)).unflatten(0, at.shape) for at in (x, y))


def _labels_of_y(batch: Batch, pairs: Pairs) -> Tensor:
    """(B * K,) classes of the y-tokens."""
    return batch.labels[pairs.y.flatten().to(batch.labels.device) // batch.targets.shape[1]]


def target_statistics(views: Views) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation of the latents, and root mean square of the actions, each (A,), of training views.

    Actions are those of neighboring views of an object, a sample large enough and the same at every call. They are not
    centered, since zero is the action that does nothing (or the one that is not told); their deviation would be a wrong
    unit: a quaternion's w is near 1 for small rotations, and deviates by little.
    """
    targets = views.targets.unflatten(0, (-1, views.views))[views.objects("train")]
    actions = views.action(targets[:, :-1], targets[:, 1:]).flatten(0, 1)
    return targets.flatten(0, 1).mean(0), targets.flatten(0, 1).std(0), actions.square().mean(0).sqrt()


def contextssl_model(run, views: Views) -> ContextSSL:
    """Encoder, context transformer, and with a weight the auxiliary predictor."""
    return ContextSSL(run.model, views.images.shape[1], *target_statistics(views), run.pretrain.auxiliary_weight > 0)


def plus_model(run, views: Views) -> ContextSSL:
    """Encoder and context transformer."""
    return ContextSSL(run.model, views.images.shape[1], *target_statistics(views), auxiliary=False)


def invariant_model(kind: type[nn.Module], run, views: Views) -> nn.Module:
    """A baseline that is told no action."""
    return kind(run.model, views.images.shape[1])


def equivariant_model(kind: type[nn.Module], run, views: Views) -> nn.Module:
    """A baseline that is told the action, restricted to the run's groups."""
    return kind(run.model, views.images.shape[1], run.groups, views.groups, target_statistics(views)[-1])


@dataclass(frozen=True)
class Method:
    """What a method is.

    version: raised whenever the losses move, so that no stored training of another version is taken for one of this;
        tests/test_methods.py says when. reads: the sections of a run on which a training depends.
    build: run, views -> an untrained model, with ``encoder``, ``embedding_dim`` and either ``predictor``, a context
        transformer, or ``embed`` and ``losses``; one that predicts from an action has ``predict``, too.
    step: see the head of this module.
    """

    version: int
    reads: tuple[str, ...]
    build: Callable[..., nn.Module]
    step: Callable[..., dict[str, Tensor]]


_PAIR, _CONTEXT = ("model", "pretrain"), ("model", "context", "pretrain")

#: Name, as in params.yaml -> what it is.
METHODS = {
    "contextssl": Method(3, _CONTEXT, contextssl_model, contextssl_step),
    "simclr": Method(3, _PAIR, partial(invariant_model, SimCLR), pair_step),
    "vicreg": Method(3, (*_PAIR, "baselines"), partial(invariant_model, VICReg), pair_step),
    "simclr-plus": Method(3, _CONTEXT, plus_model, partial(plus_step, simclr_plus)),
    "vicreg-plus": Method(3, (*_CONTEXT, "baselines"), plus_model, partial(plus_step, vicreg_plus)),
    "equimod": Method(3, _PAIR, partial(equivariant_model, EquiMod), pair_step),
    "sen": Method(3, _PAIR, partial(equivariant_model, SEN), pair_step),
    "sie": Method(3, (*_PAIR, "baselines"), partial(equivariant_model, SIE), pair_step),
}


def build(run, views: Views) -> nn.Module:
    """An untrained model of the run's method, for the groups, classes and actions of `views`.

    With a label weight it has a ``classifier``: from an embedding to the classes and the shifted ones behind them.
    """
    model = METHODS[run.method].build(run, views)
    if run.pretrain.label_weight:
        model.classifier = nn.Linear(model.embedding_dim, len(views.classes) + run.pretrain.label_shift)
    return model


class Step(nn.Module):
    """The training step of a run's method around its model: a module, so that data parallelism can wrap it."""

    def __init__(self, model: nn.Module, run, views: Views) -> None:
        super().__init__()
        self.model, self.run, self.views = model, run, views

    def forward(self, batch: Batch, draws: Draws, progress: float) -> dict[str, Tensor]:
        """The parts of the loss, see the head of this module."""
        return METHODS[self.run.method].step(self.model, self.run, self.views, batch, draws, progress)
