"""Pretraining: one loop for every method, which survives interruption, and the file of a trained model."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lib.data.views import Views
from lib.method.methods import Step, build
from lib.method.optimizers import build_optimizer, one_cycle
from lib.method.sampling import Draws, sample_batch


def pretrain(
    run, seed: int, views: Views, *, fabric, checkpoint: Path | None = None,
    report: Callable[[int], None] | None = None, label: str | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:  # fmt: skip
    """Train one model from one seed; an interrupted training goes on from its checkpoint, to the same weights.

    Args:
        run: a `lib.pipeline.settings.Run`. seed: of the weights and of every draw. views: the data.
        fabric: a launched `lightning_fabric.Fabric`: device, number of devices, precision.
        checkpoint: file of what was trained so far, of this training alone and one for all devices; None keeps nothing.
        report: called with the number of steps done: after a resumption, and after each step.
        label: names the training in errors.

    Returns:
        The model, on the CPU and in evaluation mode, and its history: ``step`` and the mean of each loss since the row
        before, about 100 rows.

    Raises:
        FloatingPointError: the loss or its gradient is not finite.
    """
    spec = run.pretrain
    model = _initialized(run, seed, views)
    step_module = Step(model, run, views)
    if fabric.world_size > 1:
        step_module = nn.SyncBatchNorm.convert_sync_batchnorm(step_module)
    # Not fused in half precision: such a step unscales by itself, and leaves no gradient to clip.
    optimizer = build_optimizer(step_module, spec, fused=run.precision != "16-mixed")
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, partial(one_cycle, steps=spec.steps, warmup_fraction=spec.warmup_fraction)
    )
    module, optimizer = fabric.setup(step_module, optimizer)
    state = {"step": 0, "history": [], "running": []}
    if checkpoint is not None and (saved := _read_checkpoint(checkpoint)):
        state = saved
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    start, history, running = state["step"], state["history"], state["running"]
    if fabric.global_rank > 0:
        report = checkpoint = None
    if report is not None and start:
        report(start)

    every = max(1, spec.steps // 100)
    module.train()
    for step in range(start, spec.steps):
        draws = Draws(seed, step, fabric.global_rank)
        batch = fabric.to_device(sample_batch(views, spec, draws))
        parts = module(batch, draws, step / spec.steps)
        optimizer.zero_grad()
        fabric.backward(parts["loss"])
        norm = fabric.clip_gradients(module, optimizer, max_norm=spec.gradient_clip, error_if_nonfinite=False)
        finite = {"loss": parts["loss"]}
        if run.precision != "16-mixed":  # there a gradient may overflow: the step is left out, the next scaled down
            finite["gradient"] = norm
        for what, value in finite.items():
            if not torch.isfinite(value):
                raise FloatingPointError(
                    f"The {what} of {label or run.name} is {value.item()} at step {step}; lower "
                    f"pretrain.learning_rate (now {spec.learning_rate}) or raise pretrain.temperature "
                    f"(now {spec.temperature})."
                )
        optimizer.step()
        schedule.step()
        running.append({name: value.item() for name, value in parts.items()})
        if (step + 1) % every == 0 or step + 1 == spec.steps:
            mean = {name: sum(r[name] for r in running) / len(running) for name in running[0]}
            history.append({"step": step + 1, **mean})
            running = []
        if checkpoint is not None and (step + 1) % spec.checkpoint_every == 0:
            state = {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
                "step": step + 1, "history": history, "running": running,
            }  # fmt: skip
            part = checkpoint.with_suffix(f".{os.getpid()}.part")  # another process may train the same
            torch.save(state, part)
            os.replace(part, checkpoint)
        if report is not None:
            report(step + 1)
    return model.cpu().eval(), history


def _read_checkpoint(path: Path) -> dict | None:
    """What was trained so far; None if there is nothing, or nothing that can be read: then it starts anew."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, EOFError, RuntimeError, UnpicklingError):
        return None


def _initialized(run, seed: int, views: Views) -> nn.Module:
    """The untrained model of a seed; torch's global source of randomness is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Draws(seed, 0)("weights").initial_seed())
        model = build(run, views)
    if run.model.pretrained:
        model.encoder.load_imagenet()
    return model


def save_model(model: nn.Module, path: Path | str) -> None:
    """Write a model's weights as safetensors; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, part)
    os.replace(part, path)


def load_model(path: Path | str, run, views: Views) -> nn.Module:
    """Read the weights of a run's model back, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file yet.
        ValueError: the weights do not fit the model that the run describes.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; make it with `dvc repro pretrain@{run.study}`.")
    model = build(run, views)
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(
            f"{path} was trained with other model params than those of params.yaml; run `dvc repro`."
        ) from error
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}), it may be cut; delete it and run `dvc repro`.") from error
    return model.eval()
