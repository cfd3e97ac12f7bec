"""Pretraining: one loop for every method, which survives interruption."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from lib.data.views import Views
from lib.method.methods import build, build_step
from lib.pipeline.settings import Params

SCRATCH = Path("build/.scratch/pretrain")


def digest(params: Params, method: str, groups: tuple[str, ...], seed: int, views: Views) -> str:
    """Names a training so that a checkpoint is resumed by the same training alone: params, samples and code."""
    sections = ("device", "model", "context", "pretrain", "baselines")
    spec = {name: asdict(getattr(params, name)) for name in sections}
    key = hashlib.sha256(json.dumps([spec, method, groups, seed], sort_keys=True).encode())
    key.update(views.targets.numpy().tobytes())
    key.update(views.images[:: max(1, len(views.images) // 64)].numpy().tobytes())
    for module in ("baselines", "data", "losses", "masking", "methods", "models", "pretrain", "sampling"):
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
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train one model from one seed; an interrupted training goes on from its last checkpoint, to the same weights.

    Args:
        fabric: launched. params: resolved for the run. method: of `params.Run`.
        groups: of the contexts or actions. seed: of the weights and of every draw. views: the data.
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
    model = build(params, method, groups, views)
    step_module = build_step(model, params, method, groups, views)
    if fabric.world_size > 1:
        step_module = nn.SyncBatchNorm.convert_sync_batchnorm(step_module)
    optimizer = torch.optim.AdamW(step_module.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, spec.learning_rate, total_steps=spec.steps, pct_start=spec.warmup_fraction
    )
    generator = torch.Generator().manual_seed(seed + 10_000 * fabric.global_rank)
    module, optimizer = fabric.setup(step_module, optimizer)
    objects, history, running, start = views.objects("train"), [], [], 0
    targets, labels = views.targets, views.labels

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
        told = fabric.to_device((targets[rows], labels[rows[:, 0] // views.views]))
        parts = module(images, *told, generator, step / spec.steps)
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


def load_run_model(
    folder: Path, seed: int, params: Params, method: str, groups: tuple[str, ...], views: Views
) -> nn.Module:
    """Read one seed's weights back, in evaluation mode.

    Raises:
        FileNotFoundError: the run has no such seed yet.
        ValueError: the weights do not fit the model that the params describe.
    """
    path = Path(folder) / f"seed-{seed}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; make it with `dvc repro pretrain@{Path(folder).name}`.")
    # The weights are about to be read from the file: ImageNet's would be downloaded in vain.
    model = build(replace(params, model=replace(params.model, pretrained=False)), method, groups, views)
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(
            f"{path} was trained with other model params than those of params.yaml; run `dvc repro`."
        ) from error
    return model.eval()
