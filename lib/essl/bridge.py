"""The bridge between the two papers: E-SSL's choice, made beforehand, on the views, groups and encoder of ContextSSL.

    L = NT-Xent(x1, x2) + lambda * sum_G CE(p_G(f(x3)), bin of x3's latents of G)

x1, x2 and x3 are three views of one object. The first term is invariant to whatever changes between views: to both
groups of the data. The sum is over the groups G that were chosen to be sensitive to: none, one or both. As in E-SSL,
what is predicted is a class, so latents are cut into bins. Two things are other than there, since a render cannot be
turned afterwards: a view shows one known transformation of its object and not all of them; and x1 and x2 differ in the
very G that p_G must tell, no two views of an object having a latent in common, so that the two terms disagree about it.

Trainings go through the pipeline's own loop and evaluations, so that rows stand beside those of `build/evaluations`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.data.views import Views, load_views
from lib.evaluation import evaluate
from lib.method.baselines import SimCLR
from lib.method.methods import METHODS, Method
from lib.method.models import mlp
from lib.method.sampling import Batch, Draws
from lib.pipeline import settings, store
from lib.pipeline import study as pipeline
from lib.pipeline.settings import Bridge, Device, Params, Run
from lib.report import results

#: Raised when a training computes other weights.
VERSION = 1
NAME = "e-simclr"


class Bins(nn.Module):
    """Latents to classes: each is cut at its median, or at its quartiles where a group has no more than two.

    So classes of a group are nearly equally likely: 16 of rotation (4 numbers), color (2) and crop (4), 4 of blur (1).

    Args:
        latents: (N, A) of the training views, of one group.
    """

    def __init__(self, latents: Tensor) -> None:
        super().__init__()
        self.each = 2 if latents.shape[1] > 2 else 4
        shares = torch.arange(1, self.each) / self.each
        self.register_buffer("edges", latents.quantile(shares.to(latents), dim=0).T.contiguous())  # (A, each - 1)
        self.count = self.each ** latents.shape[1]

    def forward(self, latents: Tensor) -> Tensor:
        """(N, A) to (N,) int64, below `count`."""
        digits = (latents[..., None] > self.edges).sum(-1)
        # A sum of products, since a GPU has no matrix product of whole numbers.
        return (digits * self.each ** torch.arange(digits.shape[1], device=digits.device)).sum(1)


class ESimCLR(SimCLR):
    """SimCLR with a classifier p_G for each group of the run."""

    def __init__(self, run: Run, views: Views) -> None:
        super().__init__(run.model, views.images.shape[1])
        rows = (views.objects("train")[:, None] * views.views + torch.arange(views.views)).flatten()
        seen, width = views.targets[rows], run.model.projector_dim
        self.bins = nn.ModuleDict({of: Bins(seen[:, views.groups[of]]) for of in run.groups})
        self.p = nn.ModuleDict(
            {of: mlp(run.model.feature_dim, width, width, bins.count) for of, bins in self.bins.items()}
        )


def step(model: ESimCLR, run: Run, views: Views, batch: Batch, draws: Draws, progress: float) -> dict[str, Tensor]:
    """The objective of a batch with three views of each object: ``loss``, ``invariance`` and a part for each group.

    lambda is the run's ``auxiliary_weight``, that of predicted latents.
    """
    seen = batch.images if run.groups else batch.images[:, :2]
    z1, z2, *third = model.encoder(seen.flatten(0, 1)).unflatten(0, seen.shape[:2]).unbind(1)
    invariance = model.losses(z1, z2, None, run)["loss"]
    parts = {
        of: F.cross_entropy(p(third[0]), model.bins[of](batch.targets[:, 2, views.groups[of]]))
        for of, p in model.p.items()
    }
    loss = invariance + run.pretrain.auxiliary_weight * sum(parts.values())
    return {"loss": loss, "invariance": invariance, **parts}


# No run of params.yaml has this method: what it is sensitive to is not told by a context.
METHODS[NAME] = Method(VERSION, ("model", "pretrain"), ESimCLR, step)


def runs(params: Params, spec: Bridge) -> list[Run]:
    """E-SimCLR beside each of the runs named: invariant to both of its groups, or sensitive to one or to both.

    Everything else is as that run has it, but for the number of steps, and that each object has a third view.
    """
    found = []
    for base in spec.runs:
        changes = {"steps": spec.steps, "seeds": spec.seeds, "views_per_object": 3, "auxiliary_weight": spec.weight}
        like = params.run(
            base, **changes, representation_tasks=("individual", "classes"), embedding_tasks=(), probes=("paper",),
            retrieval_objects=0,
        )  # fmt: skip
        first, second = settings.DATASETS[like.dataset][1]
        for groups in ((), (first,), (second,), (first, second)):
            name = f"e-{like.dataset}-{'-'.join(groups) or 'invariant'}"
            found.append(like.model_copy(update={"name": name, "method": NAME, "groups": groups, "study": "bridge"}))
    return found


def views_of(runs: Sequence[Run]) -> dict[str, Views]:
    """The prepared views of each dataset of the runs, from build/data."""
    found = {}
    for dataset in dict.fromkeys(run.dataset for run in runs):
        folder = Path("build/data") / settings.DATASETS[dataset][0]
        found[dataset] = load_views(folder if (folder / "views.npz").exists() else folder / dataset)
    return found


def rows_of(runs: Sequence[Run], views: Mapping[str, Views]) -> pd.DataFrame:
    """Train and evaluate what the store has not.

    Args:
        views: dataset -> its views.

    Returns:
        The rows of `lib.evaluation.evaluate.evaluate_run`, and ``dataset``, ``groups`` (those sensitive to) and
        ``images`` (encoded in the training).
    """
    device = settings.load().device
    tasks = [(run, seed, views[run.dataset]) for run in runs for seed in run.seeds]
    entries = pipeline.compute(
        "evaluations", tasks, [dependencies_of_rows(*task, device) for task in tasks], partial(work, device=device),
        costs=[pipeline.cost(run) for run, *_ in tasks], units=[run.pretrain.steps + 1 for run, *_ in tasks],
        unit="step", device=device,
    )  # fmt: skip
    frames = [
        pd.read_csv(entry / "rows.csv").assign(dataset=run.dataset, groups=" and ".join(run.groups), images=run.images)
        for (run, *_), entry in zip(tasks, entries)
    ]
    return pd.concat(frames, ignore_index=True)


def dependencies_of_rows(run: Run, seed: int, views: Views, device: Device) -> dict:
    """What a task's rows in the store depend on: settings and views, not the weights, which settings decide."""
    read = {"run": run.model_dump(mode="json", include={"name", "evaluate"})}
    return pipeline.training_dependencies(run, seed, views, device.devices) | evaluate.DEPENDENCIES | read


def work(
    run: Run, seed: int, views: Views, name: str, dependencies: Mapping, report: Callable[[float], None], *,
    device: Device,
) -> None:  # fmt: skip
    """One task, in this process: the training and the rows, as far as the store has them not.

    Args:
        name, dependencies: of the rows in the store. report: is told the steps done; the last is the evaluation.
    """
    if store.find("evaluations", name):
        return  # made by another process meanwhile
    torch.set_num_threads(1)
    weights = pipeline.training(run, seed, views, device, report) / "model.safetensors"
    model = pipeline.load_model(weights, run, views).to(pipeline.place(device))
    rows = evaluate.evaluate_run(model, views, run, seed)
    store.add("evaluations", name, dependencies, lambda folder: rows.to_csv(folder / "rows.csv", index=False))
    report(run.pretrain.steps + 1)


def side_by_side(chosen: pd.DataFrame, told: pd.DataFrame) -> pd.DataFrame:
    """What each choice leaves readable, and classes: dataset, way, choice, measure, seed, value, floor.

    R² is that of individual latents, per component, by the paper's probe: of E-SSL at the feature, of ContextSSL at the
    embedding without a context and after the longest ones. Where top-1 was read of ContextSSL's feature alone, it
    stands at no context.

    Args:
        chosen: of `rows_of`. told: ContextSSL's rows of the same datasets, means over contexts.
    """
    before = results.select(chosen, space="representation")
    groups = before["groups"].fillna("")
    before = before.assign(way="E-SSL", choice=("sensitive to " + groups).where(groups != "", "invariant"))
    embedded = results.select(told, space="embedding", environment=told["environment"].dropna().unique().tolist())
    ends = {0, embedded["context_length"].max()}
    embedded = embedded[embedded["context_length"].isin(ends) & (embedded["environment"] != "none")]
    no_context = embedded["context_length"] == 0
    after = embedded.assign(choice=("context of " + embedded["environment"]).mask(no_context, "no context"))
    feature = results.select(told, space="representation", metric="top1")
    feature = feature[~feature["dataset"].isin(results.select(embedded, metric="top1")["dataset"])]
    rows = pd.concat([before, after.assign(way="ContextSSL"), feature.assign(way="ContextSSL", choice="no context")])
    rows = results.headline(rows)
    of_latents = rows["metric"].str.endswith(results.PER_COMPONENT) & (rows["target"] == "individual")
    rows = rows[(of_latents & (rows["probe"] == "paper")) | ((rows["metric"] == "top1") & rows["variant"].isna())]
    latent = rows["metric"].str.removeprefix("r2_").str.removesuffix(results.PER_COMPONENT)
    rows = rows.assign(measure=("R² of " + latent).mask(rows["metric"] == "top1", "top-1, %"))
    # Without a context all kinds have the same number.
    columns = ["dataset", "way", "choice", "measure", "seed"]
    return rows.drop_duplicates(columns)[[*columns, "value", "floor"]].reset_index(drop=True)
