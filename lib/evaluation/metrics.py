"""R² as published and per component, and its floors."""

import numpy as np
from torch import Tensor


def r2(prediction: Tensor, target: Tensor) -> dict:
    """Coefficient of determination, pooled as published and per component.

    ``pooled`` measures the variance of all components around *one* scalar mean, as SIE's and ContextSSL's released code
    do. The four components of a quaternion have different means, so a constant prediction already scores above 0: see
    `floor`. ``per_component`` is scikit-learn's ``r2_score(multioutput="raw_values")``, where 0 is a constant.

    Args:
        prediction, target: (N, D), N >= 2; no column of the target is constant.

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
    error = ((target - prediction) ** 2).sum(0)
    pooled = 1 - error.sum() / ((target - target.mean()) ** 2).sum()
    per_component = 1 - error / ((target - target.mean(0)) ** 2).sum(0)
    return {"pooled": float(pooled), "per_component": per_component, "mean": float(per_component.mean())}


def floor(train_target: Tensor, target: Tensor) -> dict:
    """`r2` of the best constant: the mean of the training targets, told to every test sample.

    With Euler angles uniform in +-pi/2 the pooled floor is about 0.23 (relative) and 0.46 (individual) for the
    quaternion; per component it is 0 up to sampling.
    """
    return r2(train_target.mean(dim=0).expand_as(target), target)
