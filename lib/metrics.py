"""R² as published and per component, its floors, and the summary that goes into results/metrics.json."""

from collections.abc import Mapping

import numpy as np
import torch
from sklearn.metrics import r2_score
from torch import Tensor

#: Probe -> suffix of the keys in results/metrics.json.
PROBE_SUFFIX = {"paper": "", "linear": "_linear_probe", "ridge": "_ridge_probe", "strong": "_strong_probe"}
#: What follows the name of a measure in results/metrics.json where it is read from unseen real meshes.
REAL_MESHES = "_real_meshes"


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


def summary(main: Mapping, baseline: Mapping | None = None) -> dict:
    """What results/metrics.json holds: lists over seeds.

    ``adaptation.<context's group>.<r2_rotation|r2_color>.c<length>`` is the individual-latent R² (mean over the
    components of the group, 0 is a constant) of unseen parametric objects, read from the predictor's embedding by the
    paper's probe; ``adaptation_linear_probe``, ``adaptation_ridge_probe``, ``adaptation_strong_probe``: by the others;
    ``adaptation_real_meshes...`` of unseen real meshes (which take the plain names where there is nothing else, as in
    the real 3DIEBench). ``relative_pooled`` is the paper's own measure (Tables 6, 7),
    ``mrr`` the retrieval of Table 1 without the identity query, ``top1.<representation of a run>`` the linear
    classification of all test objects.

    Args:
        main: evaluation of the ContextSSL run.
        baseline: evaluation of SimCLR, for its top-1.
    """
    lengths = [f"c{n}" for n in main["context_lengths"]]

    def curve(*head: str, at: tuple[str, ...]) -> dict:
        return {c: values(main, *head, c, *at) for c in lengths}

    result: dict = {}
    for source in main["sources"]:
        prefix = "" if source == main["sources"][0] else REAL_MESHES
        for probe, suffix in PROBE_SUFFIX.items():
            result[f"adaptation{prefix}{suffix}"] = {
                context: {
                    metric: curve("r2", "embedding", context, at=("individual", probe, source, metric, "mean"))
                    for metric in ("r2_rotation", "r2_color")
                }
                for context in ("rotation", "color")
            }
        result[f"relative_pooled{prefix}"] = {
            context: {
                metric: curve("r2", "embedding", context, at=("relative", "paper", source, metric, "pooled"))
                for metric in ("r2_rotation", "r2_color")
            }
            for context in ("rotation", "color")
        }
        result[f"mrr{prefix}"] = {
            context: curve("retrieval", "test", context, at=(source, "mrr")) for context in ("rotation", "color")
        }
    runs = {"contextssl": main} | ({"simclr": baseline} if baseline else {})
    result["top1"] = {name: values(run, "top1", "representation", "all") for name, run in runs.items()}
    return result


def to_json(value: object) -> object:
    """Arrays and tensors to lists, scalars to Python numbers, through nested mappings."""
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        return value.tolist()
    return value
