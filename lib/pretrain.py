"""Pretraining: batches of contexts, one loss function for each method, and a loop that survives interruption."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from lib import losses
from lib.data import GROUPS, Views, action
from lib.masking import random_context_mask
from lib.models import ContextSSL, SimCLR
from lib.params import Params

SCRATCH = Path("build/.scratch/pretrain")


@dataclass(frozen=True)
class Pairs:
    """B contexts of K pairs, as positions among the O * V encoded views of a step: ``x`` and ``y`` are (B, K)."""

    x: Tensor
    y: Tensor


def sample_pairs(
    contexts: int, pairs: int, objects: int, views: int, pairs_per_object: int, generator: torch.Generator
) -> Pairs:
    """Draw contexts from views that are encoded once: encode once, pair many times.

    Each context takes K / m random objects and m disjoint pairs of two views of each, in random order. With m > 1
    some negatives y_j show the *same object* as the anchor, so that InfoNCE cannot be solved by identity alone: only
    where the object has turned to (or which color it has) tells them apart.

    Args:
        contexts: B. pairs: K. objects: O encoded in this step. views: V of each. pairs_per_object: m.
        generator: source of randomness.

    Raises:
        ValueError: m does not divide K, needs more views than V, or more objects than O.
    """
    m = pairs_per_object
    if pairs % m or 2 * m > views or pairs // m > objects:
        raise ValueError(
            f"{pairs} pairs, {m} of each object, need a multiple of {m} pairs, {2 * m} views and {pairs // m} objects "
            f"in a step; got {views} views of {objects} objects. Change pretrain.objects_per_step or "
            "pretrain.views_per_object."
        )
    chosen = torch.rand(contexts, objects, generator=generator).argsort(1)[:, : pairs // m]
    view = torch.rand(contexts, pairs // m, views, generator=generator).argsort(-1)[..., : 2 * m]
    position = (chosen[..., None] * views + view).reshape(contexts, pairs, 2)
    order = torch.rand(contexts, pairs, generator=generator).argsort(1)
    position = position.gather(1, order[..., None].expand(-1, -1, 2))
    return Pairs(position[..., 0], position[..., 1])


def sample_groups(contexts: int, groups: tuple[str, ...], per: str, generator: torch.Generator) -> list[str]:
    """The group G of each context: in random turn over the contexts (paper), or one for the whole batch (release)."""
    start = int(torch.randint(len(groups), (), generator=generator))
    return [groups[(start + (b if per == "context" else 0)) % len(groups)] for b in range(contexts)]


def active_components(groups: list[str], action_dim: int) -> Tensor:
    """(B, A): 1 at the action's components that belong to each context's group, else 0."""
    active = torch.zeros(len(groups), action_dim)
    for row, group in zip(active, groups):
        row[GROUPS[group]] = 1
    return active


def interleave(x: Tensor, y: Tensor) -> Tensor:
    """(B, K, C) and (B, K, C) to tokens (B, 2K, C): x_1, y_1, x_2, y_2, ..."""
    return torch.stack([x, y], dim=2).flatten(1, 2)


class ContextSSLStep(nn.Module):
    """One step of ContextSSL, from views to losses; a module, so that data parallelism can wrap it.

    Negatives live within a context, so several devices need to exchange gradients only.
    """

    def __init__(self, model: ContextSSL, params: Params, groups: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.params, self.groups = model, params, groups

    def forward(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Losses of B fresh contexts.

        Args:
            images: (O, V, H, W, 3) uint8. targets: (O, V, A) quaternion and hues.
            generator: on the CPU; the source of pairs, groups and masks.
            progress: share of the training that is done; the mask probability moves with it from its first to its
                last value. Late contexts are then nearly whole, as they are when the trained model is asked.

        Returns:
            ``loss`` (weighted sum), ``info_nce`` and ``auxiliary``, scalars.
        """
        context, spec, model = self.params.context, self.params.pretrain, self.model
        contexts, tokens = spec.contexts_per_step, self.params.model.block_size
        device = targets.device
        pairs = sample_pairs(contexts, tokens // 2, *targets.shape[:2], context.pairs_per_object, generator)
        groups = sample_groups(contexts, self.groups, context.group_per, generator)
        active = active_components(groups, targets.shape[-1]).to(device)

        z, latents = model.encoder(images.flatten(0, 1)), targets.flatten(0, 1)
        a = action(latents[pairs.x], latents[pairs.y]) * active[:, None]
        features = interleave(z[pairs.x], z[pairs.y])
        actions = interleave(a, torch.zeros_like(a))

        p = context.mask_probability + progress * (context.mask_probability_end - context.mask_probability)
        draws = self.params.model.layers if context.mask_per_layer else 1
        masks = [
            random_context_mask(contexts, tokens, p, context.mask_unit, generator).to(device)
            for _ in range(draws)
        ]
        h = model.predictor(features, actions, masks * (self.params.model.layers // draws))
        h_x, h_y = h[:, 0::2], h[:, 1::2]

        info_nce = losses.info_nce if context.negatives == "context" else losses.info_nce_batch
        contrast = info_nce(h_x, h_y, spec.temperature)
        # Standardized latents of y, whichever token must tell them: a constant predictor has error 1.
        target = (latents[pairs.y] - model.target_mean) / model.target_std
        asked = {"x": [h_x], "y": [h_y], "both": [h_x, h_y]}[context.auxiliary_tokens]
        auxiliary = sum(losses.auxiliary_loss(model.auxiliary(h_t), target, active) for h_t in asked) / len(asked)
        total = spec.info_nce_weight * contrast + spec.auxiliary_weight * auxiliary
        return {"loss": total, "info_nce": contrast, "auxiliary": auxiliary}


class SimCLRStep(nn.Module):
    """One step of SimCLR on the same views: two views of an object are positives whatever changed between them."""

    def __init__(self, model: SimCLR, params: Params) -> None:
        super().__init__()
        self.model, self.params = model, params

    def forward(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, progress: float
    ) -> dict[str, Tensor]:
        """Loss of (O, V, H, W, 3) uint8 images, views 2k and 2k + 1 of an object being a pair; the rest is not used."""
        projections = self.model.projector(self.model.encoder(images.flatten(0, 1)))
        z1, z2 = projections.unflatten(0, (-1, 2)).unbind(1)
        return {"loss": losses.nt_xent(z1, z2, self.params.pretrain.temperature)}


def target_statistics(views: Views) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of the latents, and standard deviation of the actions, each (A,), of training views.

    The action's are those of neighboring views of an object, a sample large enough and the same at every call.
    """
    targets = views.targets.unflatten(0, (-1, views.views))[views.objects("train")]
    actions = action(targets[:, :-1], targets[:, 1:]).flatten(0, 1)
    return targets.flatten(0, 1).mean(0), targets.flatten(0, 1).std(0), actions.std(0)


def build(params: Params, method: str, statistics: tuple[Tensor, Tensor, Tensor]) -> ContextSSL | SimCLR:
    """An untrained model of a method; ``statistics`` from `target_statistics`."""
    if method == "simclr":
        return SimCLR(params.model, params.data.image_size)
    return ContextSSL(params.model, params.data.image_size, *statistics)


def digest(params: Params, method: str, groups: tuple[str, ...], seed: int, views: Views) -> str:
    """Names a training so that a checkpoint is resumed by the same training alone: params, data and code."""
    spec = {name: asdict(getattr(params, name)) for name in ("data", "device", "model", "context", "pretrain")}
    key = hashlib.sha256(json.dumps([spec, method, groups, seed], sort_keys=True).encode())
    key.update(views.targets.numpy().tobytes())
    key.update(views.images[:: max(1, len(views.images) // 64)].numpy().tobytes())
    for module in ("data", "losses", "masking", "models", "pretrain"):
        key.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return key.hexdigest()[:16]


def _draw(views: Views, objects: Tensor, params: Params, generator: torch.Generator) -> Tensor:
    """(O, V) image rows: random objects and random distinct views of each."""
    spec = params.pretrain
    chosen = objects[torch.randperm(len(objects), generator=generator)[: spec.objects_per_step]]
    order = torch.rand(len(chosen), views.views, generator=generator).argsort(1)[:, : spec.views_per_object]
    return chosen[:, None] * views.views + order


def pretrain(
    fabric: Fabric, params: Params, method: str, groups: tuple[str, ...], seed: int, views: Views, label: str
) -> tuple[ContextSSL | SimCLR, list[dict[str, float]]]:
    """Train one model from one seed; an interrupted training goes on from its last checkpoint, to the same weights.

    Args:
        fabric: launched. params: resolved for the run. method: ``contextssl`` or ``simclr``.
        groups: of ContextSSL's contexts. seed: of the weights and of every draw. views: the data.
        label: names the run in the progress bar and in errors.

    Returns:
        The model, on the CPU and in evaluation mode, and its history: ``step`` and the mean of each loss since the row
        before, about 100 rows.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    spec = params.pretrain
    folder = SCRATCH / digest(params, method, groups, seed, views)
    checkpoint = folder / f"rank-{fabric.global_rank}.pt"
    torch.manual_seed(seed)
    model = build(params, method, target_statistics(views))
    step_module = SimCLRStep(model, params) if method == "simclr" else ContextSSLStep(model, params, groups)
    if fabric.world_size > 1:
        step_module = nn.SyncBatchNorm.convert_sync_batchnorm(step_module)
    optimizer = torch.optim.AdamW(step_module.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, spec.learning_rate, total_steps=spec.steps, pct_start=spec.warmup_fraction
    )
    generator = torch.Generator().manual_seed(seed + 10_000 * fabric.global_rank)
    module, optimizer = fabric.setup(step_module, optimizer)
    objects, history, running, start = views.objects("train"), [], [], 0
    targets = views.targets

    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        generator.set_state(state["generator"])
        start, history, running = state["step"], state["history"], state["running"]

    def save(step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
            "generator": generator.get_state(), "step": step, "history": history, "running": running,
        }
        torch.save(state, checkpoint.with_suffix(".part"))
        checkpoint.with_suffix(".part").rename(checkpoint)

    every = max(1, spec.steps // 100)
    bar = tqdm(
        total=spec.steps, initial=start, desc=label, mininterval=1, unit="step", disable=fabric.global_rank > 0
    )
    module.train()
    for step in range(start, spec.steps):
        rows = _draw(views, objects, params, generator)
        images = fabric.to_device(views.images[rows.flatten()].unflatten(0, rows.shape))
        parts = module(images, fabric.to_device(targets[rows]), generator, step / spec.steps)
        if not torch.isfinite(parts["loss"]):
            raise FloatingPointError(
                f"The loss of {label} is {parts['loss'].item()} at step {step}; lower pretrain.learning_rate "
                f"(now {spec.learning_rate}) or raise pretrain.temperature (now {spec.temperature})."
            )
        optimizer.zero_grad()
        fabric.backward(parts["loss"])
        fabric.clip_gradients(module, optimizer, max_norm=spec.gradient_clip)
        optimizer.step()
        schedule.step()
        running.append({name: value.item() for name, value in parts.items()})
        if (step + 1) % every == 0 or step + 1 == spec.steps:
            mean = {name: sum(r[name] for r in running) / len(running) for name in running[0]}
            history.append({"step": step + 1, **mean})
            running = []
            bar.set_postfix({name: f"{value:.3f}" for name, value in mean.items()}, refresh=False)
        if (step + 1) % spec.checkpoint_every == 0 or step + 1 == spec.steps:
            save(step + 1)
        bar.update()
    bar.close()
    return model.cpu().eval(), history


def save_run_model(model: nn.Module, folder: Path, seed: int) -> Path:
    """Write the weights of one seed; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"seed-{seed}.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path.with_suffix(".part"))
    return path.with_suffix(".part").rename(path)


def load_run_model(folder: Path, seed: int, params: Params, method: str) -> ContextSSL | SimCLR:
    """Read one seed's weights back, in evaluation mode.

    Raises:
        FileNotFoundError: the run has no such seed yet.
        ValueError: the weights do not fit the model that the params describe.
    """
    path = Path(folder) / f"seed-{seed}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; make it with `dvc repro pretrain@{Path(folder).name}`.")
    ones = torch.ones(sum(s.stop - s.start for s in GROUPS.values()))
    # The weights are about to be read from the file: ImageNet's would be downloaded in vain.
    model = build(replace(params, model=replace(params.model, pretrained=False)), method, (ones, ones, ones))
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(
            f"{path} was trained with other model params than those of params.yaml; run `dvc repro`."
        ) from error
    return model.eval()
