"""R² as published and per component, its floors, and the numbers of an evaluation file."""

from collections.abc import Mapping

import numpy as np
import torch
from sklearn.metrics import r2_score
from torch import Tensor


def r2(prediction: Tensor, target: Tensor) -> dict:
    """Coefficient of determination, pooled as published and per component.

    ``pooled`` measures the variance of all components around *one* scalar mean, as SIE's and ContextSSL's released code
    do. The four components of a quaternion have different means, so a constant prediction already scores above 0: see
    `floor`. ``per_component`` is scikit-learn's ``r2_score(multioutput="raw_values")``, where 0 is a constant.

    Args:
        prediction, target: (N, D), N >= 2.

    Returns:
        ``{"pooled": float, "per_component": (D,) array, "mean": float}``, ``mean`` being that of the components.

    Raises:
        ValueError: the shapes differ or are not (N, D) with N >= 2.
    """
    if prediction.shape != target.shape or target.ndim != 2 or len(target) < 2:
        raise ValueError(
            f"R2 needs prediction and target of one shape (N, D) with N >= 2; "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}."
        )
    prediction, target = (np.asarray(t.detach().cpu(), dtype=np.float64) for t in (prediction, target))
    pooled = 1 - ((target - prediction) ** 2).sum() / ((target - target.mean()) ** 2).sum()
    per_component = r2_score(target, prediction, multioutput="raw_values")
    return {"pooled": float(pooled), "per_component": per_component, "mean": float(per_component.mean())}


def floor(train_target: Tensor, target: Tensor) -> dict:
    """`r2` of the best constant: the mean of the training targets, told to every test sample.

    With Euler angles uniform in +-pi/2 the pooled floor is about 0.23 (relative) and 0.46 (individual) for the
    quaternion; per component it is 0 up to sampling.
    """
    return r2(train_target.mean(dim=0).expand_as(target), target)


def values(evaluation: Mapping, *path: str) -> list[float]:
    """One number for each seed of an evaluation file, found at ``path`` below each seed.

    Raises:
        KeyError: a part of the path is missing; the message lists what stands there instead.
    """
    found = []
    for result in evaluation["seeds"]:
        for key in path:
            if key not in result:
                raise KeyError(f"No {key!r} on the path {'.'.join(path)}; there is {', '.join(map(str, result))}.")
            result = result[key]
        found.append(result)
    return found


def to_json(value: object) -> object:
    """Arrays and tensors to lists, scalars to Python numbers, through nested mappings."""
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        return value.tolist()
    return value
