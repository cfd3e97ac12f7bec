"""One training step of each method: from the views of some objects to a loss."""

import torch
from torch import Tensor, nn

from lib.method import losses
from lib.method.baselines import SEN, SIE, EquiMod, SimCLR, VICReg
from lib.data.views import Views
from lib.method.masking import random_context_mask
from lib.method.models import ContextSSL, sphere
from lib.pipeline.settings import Params
from lib.method.sampling import Pairs, active_components, interleave, sample_groups, sample_pairs

#: Methods whose projector is replaced by the context transformer (appendix B.4).
PLUS = ("simclr-plus", "vicreg-plus")
_PAIRWISE = {"simclr": SimCLR, "vicreg": VICReg, "equimod": EquiMod, "sen": SEN, "sie": SIE}


def target_statistics(views: Views) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of the latents, and standard deviation of the actions, each (A,), of training views.

    The action's are those of neighboring views of an object, a sample large enough and the same at every call.
    """
    targets = views.targets.unflatten(0, (-1, views.views))[views.objects("train")]
    actions = views.action(targets[:, :-1], targets[:, 1:]).flatten(0, 1)
    return targets.flatten(0, 1).mean(0), targets.flatten(0, 1).std(0), actions.std(0)


def build(params: Params, method: str, groups: tuple[str, ...], views: Views) -> nn.Module:
    """An untrained model of a method, for the groups, classes and actions of `views`.

    With a label weight it has a ``classifier``: from an embedding to the classes and the shifted ones behind them.
    """
    spec, size = params.model, views.images.shape[1]
    mean, std, action_std = target_statistics(views)
    if method in ("simclr", "vicreg"):
        model, width = _PAIRWISE[method](spec, size), spec.projector_out
    elif method in _PAIRWISE:
        model = _PAIRWISE[method](spec, size, groups, views.groups, action_std)
        width = spec.projector_out // 2 if method == "sie" else spec.projector_out
    else:
        auxiliary = method == "contextssl" and params.pretrain.auxiliary_weight > 0
        model, width = ContextSSL(spec, size, mean, std, action_std, auxiliary), spec.output_dim
    if params.pretrain.label_weight:
        model.classifier = nn.Linear(width, len(views.classes) + params.pretrain.label_shift)
    return model


def build_step(model: nn.Module, params: Params, method: str, groups: tuple[str, ...], views: Views) -> nn.Module:
    """The training step of a method, around its model; a module, so that data parallelism can wrap it.

    Its ``forward(images, targets, labels, generator, progress)`` returns a dict of scalars, ``loss`` among them:

    images: (O, V, H, W, 3) uint8. targets: (O, V, A) latents. labels: (O,) int64. generator: on the CPU, the source of
    every draw. progress: share of the training that is done.
    """
    if method in _PAIRWISE:
        return PairStep(model, params, views)
    return PlusStep(model, params, method) if method in PLUS else ContextSSLStep(model, params, groups, views)


def label_loss(model: nn.Module, embeddings: Tensor, labels: Tensor, shifted: Tensor, shift: int) -> Tensor:
    """Cross-entropy of context-dependent labels (section 4.6): the class, plus ``shift`` in a rotation context.

    Args:
        model: with a ``classifier``. embeddings: (M, E), not normalized. labels: (M,) classes.
        shifted: (M,) bool, true in a rotation context. shift: 10 in the paper.
    """
    return nn.functional.cross_entropy(model.classifier(sphere(embeddings)), labels + shift * shifted)


class ContextSSLStep(nn.Module):
    """ContextSSL. Negatives live within a context, so several devices need to exchange gradients only.

    The mask probability moves with progress from its first to its last value: late contexts are then nearly whole, as
    they are when the trained model is asked. The group ``none`` aligns pairs without telling the action.
    """

    def __init__(self, model: ContextSSL, params: Params, groups: tuple[str, ...], views: Views) -> None:
        super().__init__()
        self.model, self.params, self.groups = model, params, groups
        self.columns, self.action = views.groups, views.action

    def forward(
        self, images: Tensor, targets: Tensor, labels: Tensor, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """``loss`` (weighted sum), ``info_nce``, and where they have a weight ``auxiliary`` and ``label``."""
        context, spec, model = self.params.context, self.params.pretrain, self.model
        contexts, tokens = spec.contexts_per_step, self.params.model.block_size
        device = targets.device
        pairs, z_x, z_y = _encoded_pairs(model, images, self.params, generator)
        groups = sample_groups(contexts, self.groups, context.group_per, generator)
        active = active_components(groups, self.columns, targets.shape[-1]).to(device)

        latents_x, latents_y = _gather(targets.flatten(0, 1), pairs.x, pairs.y)
        a = self.action(latents_x, latents_y) * active[:, None]

        p = context.mask_probability + progress * (context.mask_probability_end - context.mask_probability)
        layers = self.params.model.layers
        draws = layers if context.mask_per_layer else 1
        masks = [
            random_context_mask(contexts, tokens, p, context.mask_unit, generator).to(device) for _ in range(draws)
        ]
        h = model.predictor(interleave(z_x, z_y), interleave(a, torch.zeros_like(a)), masks * (layers // draws))
        h_x, h_y = h[:, 0::2], h[:, 1::2]

        info_nce = losses.info_nce if context.negatives == "context" else losses.info_nce_batch
        parts = {"info_nce": info_nce(h_x, h_y, spec.temperature)}
        total = spec.info_nce_weight * parts["info_nce"]
        if model.auxiliary is not None:
            # Standardized latents of y, whichever token must tell them: a constant predictor has error 1.
            target = (latents_y - model.target_mean) / model.target_std
            asked = {"x": [h_x], "y": [h_y], "both": [h_x, h_y]}[context.auxiliary_tokens]
            errors = [losses.auxiliary_loss(model.auxiliary(h_t), target, active) for h_t in asked]
            parts["auxiliary"] = sum(errors) / len(errors)
            total = total + spec.auxiliary_weight * parts["auxiliary"]
        if spec.label_weight:
            # At y-tokens alone: an x-token's own action would give the group away without any context.
            of_y = labels[pairs.y.to(device) // targets.shape[1]].flatten()
            shifted = torch.tensor([g == "rotation" for g in groups], device=device).repeat_interleave(tokens // 2)
            parts["label"] = label_loss(model, h_y.flatten(0, 1), of_y, shifted, spec.label_shift)
            total = total + spec.label_weight * parts["label"]
        return {"loss": total, **parts}


class PlusStep(nn.Module):
    """SimCLR+ and VICReg+: the method's loss, but our transformer where its projector was (appendix B.4).

    Contexts hold pairs without actions. The mask probability chooses between the paper's two settings: at 1 a token
    sees itself alone (c = 0), at 0 its whole past.
    """

    def __init__(self, model: ContextSSL, params: Params, method: str) -> None:
        super().__init__()
        self.model, self.params, self.method = model, params, method

    def forward(
        self, images: Tensor, targets: Tensor, labels: Tensor, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """``loss``, and ``label`` where it has a weight."""
        context, spec, model = self.params.context, self.params.pretrain, self.model
        contexts, tokens = spec.contexts_per_step, self.params.model.block_size
        pairs, z_x, z_y = _encoded_pairs(model, images, self.params, generator)
        features = interleave(z_x, z_y)
        mask = random_context_mask(contexts, tokens, context.mask_probability, context.mask_unit, generator)
        silence = features.new_zeros(*features.shape[:2], targets.shape[-1])
        h = model.predictor(features, silence, [mask.to(features.device)] * self.params.model.layers)
        h_x, h_y = h[:, 0::2], h[:, 1::2]
        if self.method == "simclr-plus":
            total = sum(losses.nt_xent(x, y, spec.temperature) for x, y in zip(h_x, h_y)) / contexts
        else:
            total = losses.vicreg(h_x.flatten(0, 1), h_y.flatten(0, 1), self.params.baselines)["loss"]
        if not spec.label_weight:
            return {"loss": total}
        # No action says which group the context is about; the labels know it all the same.
        shifted = (torch.arange(contexts) % 2 == 0).repeat_interleave(tokens // 2).to(labels.device)
        of_y = labels[pairs.y.to(labels.device) // targets.shape[1]].flatten()
        label = label_loss(model, h_y.flatten(0, 1), of_y, shifted, spec.label_shift)
        return {"loss": total + spec.label_weight * label, "label": label}


class PairStep(nn.Module):
    """Baselines that compare two views of each object: views 2k and 2k + 1 are a pair."""

    def __init__(self, model: nn.Module, params: Params, views: Views) -> None:
        super().__init__()
        self.model, self.params, self.action = model, params, views.action

    def forward(
        self, images: Tensor, targets: Tensor, labels: Tensor, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """What the model's ``losses`` returns, and ``label`` where it has a weight."""
        spec, model = self.params.pretrain, self.model
        z1, z2 = model.encoder(images.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
        latents1, latents2 = targets.flatten(0, 1).unflatten(0, (-1, 2)).unbind(1)
        parts = model.losses(z1, z2, self.action(latents1, latents2), self.params)
        if not spec.label_weight:
            return parts
        of_pair = labels.repeat_interleave(targets.shape[1] // 2)
        shifted = torch.rand(len(of_pair), generator=generator).to(labels.device) < 0.5
        label = label_loss(model, model.embed(z2), of_pair, shifted, spec.label_shift)
        return parts | {"loss": parts["loss"] + spec.label_weight * label, "label": label}


def _encoded_pairs(
    model: ContextSSL, images: Tensor, params: Params, generator: torch.Generator
) -> tuple[Pairs, Tensor, Tensor]:
    """The pairs of a step's contexts and the features (B, K, F) of their x and y; each view is encoded once."""
    spec, pairs = params.pretrain, params.model.block_size // 2
    drawn = sample_pairs(
        spec.contexts_per_step, pairs, *images.shape[:2], params.context.pairs_per_object, generator
    )
    return drawn, *_gather(model.encoder(images.flatten(0, 1)), drawn.x, drawn.y)


def _gather(rows: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of (N, C) at the (B, K) positions x and y: two (B, K, C).

    By index_select, whose backward adds in a fixed order on the CPU; that of ``rows[x]`` does not with several threads.
    """
    return tuple(rows.index_select(0, at.flatten().to(rows.device)).unflatten(0, at.shape) for at in (x, y))
