"""One training of E-SSL, which survives interruption. What a step sees is a function of seed and step alone."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from lib.essl.objective import ESSL
from lib.essl.transformations import random_view, sometimes
from lib.method.optimizers import build_optimizer, one_cycle
from lib.method.sampling import Draws

MOMENTUM = 0.9


class LARS(torch.optim.SGD):
    """SGD with momentum whose every matrix or kernel moves in proportion to its own norm (You et al. 2017).

    Norms and biases move as in SGD, without weight decay.
    """

    def __init__(self, parameters, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr, momentum=MOMENTUM)
        self.decay = weight_decay

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            if parameter.grad is not None and parameter.ndim > 1:
                update = parameter.grad + self.decay * parameter
                ratio = 1e-3 * parameter.norm() / update.norm()
                parameter.grad = update * (ratio if 0 < ratio < float("inf") else 1)
        return super().step(closure)


def optimizer_of(model: nn.Module, spec) -> torch.optim.Optimizer:
    """The optimizer that the settings ``essl.recipe`` name, of all that has a gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if spec.optimizer == "sgd":
        return torch.optim.SGD(trained, spec.learning_rate, momentum=MOMENTUM, weight_decay=spec.weight_decay)
    if spec.optimizer == "lars":
        return LARS(trained, spec.learning_rate, spec.weight_decay)
    return build_optimizer(model, spec, fused=True)


def initialized(case, seed: int, spec) -> ESSL:
    """The untrained model of a seed; torch's global source of randomness is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Draws(seed, 0)("weights").initial_seed())
        return ESSL(case.method, case.sensitive, case.random_labels, spec)


def losses_of(model: ESSL, images: Tensor, case, spec, draws: Draws) -> dict[str, Tensor]:
    """The objective of a batch (N, H, W, 3) uint8: `ESSL.forward` of its three views."""
    views = []
    for name in ("first", "second"):
        view = random_view(images, case.augmentation, spec.view_size, spec.view_area, draws(name))
        if case.invariant:
            view = sometimes(view, case.invariant, spec.probability, draws(f"{name}, transformed"))
        views.append(view)
    third = None
    if case.sensitive:
        third = random_view(images, case.augmentation, spec.third_size, spec.third_area, draws("third"))
    return model(*views, third, draws("g"))


def train(
    case, seed: int, images: Tensor, spec, *, place: str = "cpu", checkpoint: Path | None = None,
    report: Callable[[int], None] | None = None,
) -> tuple[ESSL, list[dict[str, float]]]:  # fmt: skip
    """Train one case from one seed; an interrupted training goes on from its checkpoint, to the same weights.

    Args:
        case: `lib.essl.study.Case`. seed: of the weights and of every draw.
        images: (N, H, W, 3) uint8, the training images. spec: the settings ``essl.recipe``.
        place: cpu, cuda or mps. checkpoint: file of what was trained so far; None keeps nothing.
        report: called with the number of steps done.

    Returns:
        The model, in evaluation mode, and its history: ``step``, ``seconds`` of this process's processor so far, and
        the mean of each loss since the row before, about 20 rows.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    model = initialized(case, seed, spec).to(place).train()
    optimizer = optimizer_of(model, spec)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: one_cycle(step, case.steps, spec.warmup_fraction)
    )
    state = {"step": 0, "seconds": 0.0, "history": [], "running": []}
    if checkpoint is not None and (saved := _read(checkpoint)):
        state = saved
        for part, of in (("model", model), ("optimizer", optimizer), ("schedule", schedule)):
            of.load_state_dict(state[part])
    history, running, start = state["history"], state["running"], time.process_time() - state["seconds"]

    every = max(1, case.steps // 20)
    for step in range(state["step"], case.steps):
        draws = Draws(seed, step)
        chosen = torch.randperm(len(images), generator=draws("objects"))[: spec.batch]
        parts = losses_of(model, images[chosen].to(place), case, spec, draws)
        if not torch.isfinite(parts["loss"]):
            raise FloatingPointError(
                f"The loss of {case.name}, seed {seed}, is {parts['loss'].item()} at step {step}; lower "
                f"essl.recipe.learning_rate (now {spec.learning_rate}) or raise its temperature."
            )
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        schedule.step()
        model.invariant.after_step(step / case.steps)
        running.append({name: value.item() for name, value in parts.items()})
        seconds = time.process_time() - start
        if (step + 1) % every == 0 or step + 1 == case.steps:
            mean = {name: sum(row[name] for row in running) / len(running) for name in running[0]}
            history.append({"step": step + 1, "seconds": seconds, **mean})
            running.clear()
        if checkpoint is not None and (step + 1) % spec.checkpoint_every == 0:
            told = {"step": step + 1, "seconds": seconds, "history": history, "running": running}
            parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
            part = checkpoint.with_suffix(f".{os.getpid()}.part")  # another process may train the same
            torch.save(told | {name: of.state_dict() for name, of in parts.items()}, part)
            os.replace(part, checkpoint)
        if report is not None:
            report(step + 1)
    return model.eval(), history


def _read(path: Path) -> dict | None:
    """What was trained so far; None if there is nothing, or nothing that can be read: then it starts anew."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, EOFError, RuntimeError, UnpicklingError):
        return None
