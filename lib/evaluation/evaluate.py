"""Evaluation of a checkpoint: latents, classes and neighbors, read at every kind and length of context, as tidy rows.

What is evaluated (`evaluate_run`): the *representation*, the encoder's features, which know no context, and the
*embedding*, which for models with a context transformer is its output h(y | C) of a single image appended to a context
C, and for the others the space that their objective compares (one "context": none, of length 0). What a context leaves
readable depends on which pairs were drawn for it, so every number with a context is computed under several, each with
probes of its own.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.evaluation import metrics, probes, retrieval
from lib.evaluation.embeddings import context_caches, embed, encode, sample_rows
from lib.evaluation.probes import Split
from lib.evaluation.shortcut import shortcut
from lib.method.models import ContextCache, sphere
from lib.method.sampling import restrict

#: Of the rows of an evaluation, one number a row.
COLUMNS = (
    "run", "method", "trained_group", "seed", "space", "environment", "context_length", "context_seed", "target",
    "probe", "objects", "variant", "metric", "value", "floor",
)  # fmt: skip
#: Raise it whenever the same checkpoint and settings give other numbers: finished evaluations are kept under it.
VERSION = 4
#: What names `evaluate_and_find_neighbors` in the store.
DEPENDENCIES = {"evaluation": "views", "version": VERSION}

Place = tuple[str | None, int | None, int | None]  # environment, context length and context seed of an embedding


class _Rows:
    """The rows of one checkpoint as they come; a column that is not named stays empty."""

    def __init__(self, run, seed: int) -> None:
        self.same = {"run": run.name, "method": run.label, "trained_group": run.trained_group, "seed": seed}
        self.rows: list[dict] = []

    def add(self, values: Mapping[str, float], floors: Mapping[str, float], **where: object) -> None:
        """A row for each metric, at one place of the table."""
        self.rows += [
            self.same | where | {"metric": metric, "value": float(value), "floor": floors.get(metric)}
            for metric, value in values.items()
        ]

    def frame(self) -> pd.DataFrame:
        found = pd.DataFrame(self.rows, columns=COLUMNS)
        whole = {"context_length": "Int64", "context_seed": "Int64"}
        texts = dict.fromkeys(found.columns.difference(["seed", *whole, "value", "floor"]), "str")
        return found.astype(texts | whole | {"value": float, "floor": float})


def evaluate_run(
    model: nn.Module, views, run, seed: int, report: Callable[[float], object] | None = None
) -> pd.DataFrame:
    """Everything that is reported of one checkpoint.

    Args:
        model: has ``encoder``, and either ``predictor`` (a context transformer) or ``embed``; an equivariant baseline
            has ``predict`` too, a model of context-dependent labels a ``classifier``.
        views: `lib.data.views.Views`.
        run: `lib.pipeline.settings.Run`; its ``evaluate`` says what is computed.
        seed: of the checkpoint; written down, nothing depends on it.
        report: is told the share that is done.

    Returns:
        One number a row, with `COLUMNS`; what does not apply is empty. The probe ``strong``
        takes long, so of the embeddings it reads individual latents alone, without a context and with the longest.

        space: ``representation``, or ``embedding`` with ``environment`` (a kind of context; ``none`` for models without
        a context transformer), ``context_length`` in tokens and ``context_seed``, the draw of the context (empty for
        length 0). Without a context the kinds are one, and the same number stands in the row of each.

        objects: ``all`` or the ``parametric`` or ``real`` ones of the test set.

        ==========================  ==============================================================  ===================
        metric                      value                                                           floor
        ==========================  ==============================================================  ===================
        r2_<group>                  R² of a target (individual, relative) read by a probe; pooled   R² of a constant
        r2_<group>_per_component    the same, mean over components                                  R² of a constant
        top1                        linear classification, percent                                  most frequent class
        top1, label_corruption=...  of context-dependent labels by the rule of a group, percent     most frequent class
        neighbor_right_3,           whether the three nearest views are right in what is asked for  chance, mean of
        neighbor_error_3            (share of queries), and their mean error: `_neighbor_scores`    all other views
        mrr, hit_at_1, hit_at_5     retrieval, library=test, validation or train; environment: what chance
                                    the query's action tells (kind of context, groups of a
                                    baseline); ..._without_identity, ..._identity: `retrieval.report`
        partner_accuracy, ...       ContextSSL alone: `lib.evaluation.shortcut.shortcut`            chance
        ==========================  ==============================================================  ===================
    """
    model.eval()
    settings, device = run.evaluate, next(model.parameters()).device
    generator = torch.Generator().manual_seed(settings.sample_seed)
    contextual, labeled = hasattr(model, "predictor"), hasattr(model, "classifier")
    probed_embedding = bool(settings.embedding_tasks) or labeled
    lengths = list(settings.context_lengths) if contextual else [0]
    kinds = settings.context_kinds if contextual else ("none",)
    asked = _transformations(model, run) if settings.retrieval_objects else ()

    # 1. Which images: some for the probes, all views of some objects for retrieval.
    limits = {"train": settings.train_images, "validation": settings.validation_images, "test": settings.test_images}
    sampled = {split: sample_rows(views, split, limit, generator) for split, limit in limits.items()}
    libraries = {}
    for split in ("test", "validation", "train") if asked else ():
        objects = views.objects(split)
        objects = objects[torch.randperm(len(objects), generator=generator)[: settings.retrieval_objects]]
        libraries[split] = objects[:, None] * views.views + torch.arange(views.views)
    probed = torch.cat([rows.flatten() for rows in sampled.values()]).unique()
    position = torch.full((len(views.targets),), -1)
    position[probed] = torch.arange(len(probed))
    others = torch.cat([rows.flatten() for rows in libraries.values()]).unique() if asked else probed[:0]
    others = others[position[others] < 0]
    position[others] = len(probed) + torch.arange(len(others))

    # 2. Samples of the tasks, what a constant scores in them, and where each test object comes from.
    tasks: dict[str, dict[str, Split]] = {"individual": {}, "relative": {}, "classes": {}}
    for split, rows in sampled.items():
        first, second = rows.flatten(), rows.roll(-1, dims=1).flatten()
        one, two = position[first, None].to(device), position[torch.stack([first, second], 1)].to(device)
        tasks["individual"][split] = Split(one, views.targets[first].to(device))
        tasks["relative"][split] = Split(two, views.action(views.targets[first], views.targets[second]).to(device))
        tasks["classes"][split] = Split(one, views.labels[first // views.views].to(device))

    def by_source(objects: Tensor) -> dict[str, Tensor]:
        names = np.asarray(views.source)[objects.numpy()]
        masks = {"all": np.ones(len(names), bool)} | {s: names == s for s in sorted(set(names))}
        return {s: torch.from_numpy(m).to(device) for s, m in masks.items()}

    sources = by_source(sampled["test"].flatten() // views.views)
    floors = _floors(tasks, sources, views.groups)

    # Of each draw, the kinds and lengths of its contexts. No context is one cell, whatever draw and kind; it stands in
    # the rows of all kinds.
    draws = settings.context_seeds if len(lengths) > 1 else settings.context_seeds[:1]
    cells = {draw: [(kind, n) for kind in kinds for n in lengths[1:]] for draw in draws}
    cells[draws[0]].insert(0, ("none", 0))
    steps = 1 + len(settings.representation_tasks)
    steps += sum(len(of_draw) + len(settings.embedding_tasks) for of_draw in cells.values())
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if report:
            report(done / steps)

    found = _Rows(run, seed)
    features = encode(model, views, torch.cat([probed, others]), device)
    step()

    weak = [name for name in settings.probes if name != "strong"]
    strong = [name for name in settings.probes if name == "strong"]

    def probe(space: str, table: Tensor, table_of_classes: Tensor, at: list[list[Place]], wanted) -> None:
        """Rows of the tasks for G tables, each of which stands at one or several places."""
        for task in wanted:
            splits, predicted = tasks[task].values(), []
            if task == "classes":
                answers = probes.predict_classes(table_of_classes, *splits, len(views.classes), settings)
                predicted = [(None, answers, at)]
            else:
                ends = [
                    g for g, ((_, n, _), *_) in enumerate(at)
                    if n is None or (task == "individual" and n in (0, lengths[-1]))
                ]  # fmt: skip
                for names, chosen in ((weak, range(len(at))), (strong, ends)):
                    if names and chosen:
                        told = probes.predict_latents(
                            table[list(chosen)], *splits, views.groups, names, settings, settings.sample_seed
                        )
                        predicted += [(name, answers, [at[g] for g in chosen]) for name, answers in told.items()]
            for name, answers, where in predicted:
                for prediction, of_cell in zip(answers, where):
                    for source, keep in sources.items():
                        values = _scores(prediction[keep], tasks[task]["test"].target[keep], views.groups)
                        for environment, n, drawn in of_cell:
                            found.add(
                                values, floors[task, source], space=space, environment=environment, context_length=n,
                                context_seed=drawn, target=None if task == "classes" else task, probe=name,
                                objects=source,
                            )  # fmt: skip
            step()

    # Classes are read from the encoder's features as they are, latents from normalized ones.
    plain = features[: len(probed)][None]
    probe("representation", F.normalize(plain, dim=-1), plain, [[(None, None, None)]], settings.representation_tasks)

    # 3. Embeddings, once for each context; the retrieval in them, and the probes of all contexts of a draw at once.
    chance = retrieval.chance(views.views)
    for draw, of_draw in cells.items():
        tables, places = [], []
        caches = context_caches(model, views, settings, device, draw) if contextual else {}
        for kind, n in of_draw:
            cache = caches[kind if n else kinds[0]].prefix(n) if contextual else None
            # Without a context the library is one, but the query's action still has a kind.
            queries = asked if n == 0 else () if kind == "none" else (kind,)
            if queries or probed_embedding:
                table = embed(model, features if queries else features[: len(probed)], None, cache)
                tables.append(table[: len(probed)])
                places.append([(k, 0, None) for k in kinds] if n == 0 else [(kind, n, draw)])
            for query in queries:
                for split, rows in libraries.items():
                    cosine = _cosines(model, features, table, views, rows, position, query, cache)
                    rank, of = retrieval.ranks(cosine), {"all": slice(None)}
                    if split == "test":
                        of = by_source(rows[:, 0] // views.views)
                        close, floor = _neighbor_scores(cosine, views, rows, query)
                    for source, keep in of.items():
                        where = dict(
                            space="embedding", environment=query, context_length=n,
                            context_seed=draw if n else None, objects=source,
                        )  # fmt: skip
                        found.add(retrieval.report(rank[keep]), chance, variant=f"library={split}", **where)
                        if split == "test":
                            found.add(
                                {name: values[keep].mean().item() for name, values in close.items()},
                                {name: values[keep].mean().item() for name, values in floor.items()}, **where,
                            )  # fmt: skip
            step()
        if probed_embedding:
            tables = torch.stack(tables)
            probe("embedding", tables, tables, places, settings.embedding_tasks)
        if labeled:
            for rule, answers, truth in _labels(model.classifier, tables, tasks["classes"]["test"], views):
                told = rule if rule in kinds else "none"  # models that know no action are asked for every rule
                for answer, of_cell in zip(answers, places):
                    for environment, n, drawn in (place for place in of_cell if place[0] == told):
                        for source, keep in sources.items():
                            found.add(
                                _scores(answer[keep], truth[keep], views.groups), floors["classes", source],
                                space="embedding", environment=environment, context_length=n, context_seed=drawn,
                                objects=source, variant=f"label_corruption={rule}",
                            )  # fmt: skip

    if run.method == "contextssl":
        measured, chance = shortcut(model, views, run)
        for variant, values in measured.items():
            found.add(values, chance, space="embedding", objects="all", variant=variant)
    return found.frame()


def _transformations(model: nn.Module, run) -> tuple[str, ...]:
    """What a prediction is asked for: the kinds of context, or what an equivariant baseline was trained for."""
    if hasattr(model, "predictor"):
        return tuple(kind for kind in run.evaluate.context_kinds if kind != "none")
    return (run.trained_group,) if hasattr(model, "predict") else ()


@torch.no_grad()
def _labels(classifier: nn.Linear, tables: Tensor, test: Split, views) -> list[tuple[str, Tensor, Tensor]]:
    """Context-dependent labels of the test images: each group's rule with (G, M) answers and (M,) labels by it."""
    shift = classifier.out_features - len(views.classes)
    answers = classifier(sphere(tables)).argmax(-1)[:, test.rows[:, 0]]
    return [(rule, answers, test.target + shift * (rule == "rotation")) for rule in views.groups]


def _scores(prediction: Tensor, target: Tensor, groups: Mapping[str, slice]) -> dict[str, float]:
    """Metric -> value of latents (M, A), or of classes (M,)."""
    if target.ndim == 1:
        return {"top1": 100 * (prediction == target).double().mean().item()}
    found = {}
    for group, columns in groups.items():
        r2 = metrics.r2(prediction[:, columns], target[:, columns])
        found |= {f"r2_{group}": r2["pooled"], f"r2_{group}_per_component": r2["mean"]}
    return found


def _floors(
    tasks: Mapping[str, Mapping[str, Split]], sources: Mapping[str, Tensor], groups: Mapping[str, slice]
) -> dict[tuple[str, str], dict[str, float]]:
    """(task, objects) -> metric -> score of the best constant of the training split, told to every test sample."""
    found = {}
    for task, splits in tasks.items():
        train, test = splits["train"].target, splits["test"].target
        constant = train.mode().values if task == "classes" else train.mean(0)
        for source, keep in sources.items():
            found[task, source] = _scores(constant.expand_as(test[keep]), test[keep], groups)
    return found


def _cosines(
    model: nn.Module,
    features: Tensor,
    table: Tensor,
    views,
    rows: Tensor,
    position: Tensor,
    kind: str,
    cache: ContextCache | None,
) -> Tensor:
    """(O, V, V) cosines of the queries h(x_0, a_{0 -> j} | C) and the embeddings of the V views of each object.

    ``rows``: (O, V) image rows; ``table``: (U, E) embeddings of the image rows in ``position``.
    """
    objects, count = rows.shape
    actions = views.action(views.targets[rows[:, :1].expand(-1, count)], views.targets[rows])
    actions = restrict(actions, kind, views.groups).flatten(0, 1).to(table.device)
    at = position[rows].to(table.device)
    queries = embed(model, features[at[:, :1].expand(-1, count)].flatten(0, 1), actions, cache)
    return queries.view(objects, count, -1) @ table[at].mT


def _neighbor_scores(
    cosine: Tensor, views, rows: Tensor, asked: str, k: int = 3
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of the k nearest views to each query of `_cosines`, what the nearest-neighbor grids (Figures 1, 6, 8 to 11) show.

    The error of a view is the Euclidean distance of its latents, those of the groups that are asked for, to the view
    asked for. It is right if among the V - 1 views but the source it is one of the nearer half to the view asked for.
    Queries for the source itself are left out, and the source is no neighbor.

    Returns:
        ``neighbor_right_k``, 1 where all k are right, and ``neighbor_error_k``, their mean error, each (O, V - 1); and
        the same of k other views at random.
    """
    columns = [c for name in asked.split("+") for c in range(*views.groups[name].indices(views.targets.shape[1]))]
    latents = views.targets[rows][..., columns].to(cosine.device)
    error = torch.cdist(latents, latents, compute_mode="donot_use_mm_for_euclid_dist")[:, 1:, 1:]
    others, k = error.shape[-1], min(k, error.shape[-1])
    half = max(k, others // 2)
    right = error <= error.kthvalue(half, dim=-1, keepdim=True).values
    nearest = cosine[:, 1:, 1:].topk(k, dim=-1).indices
    by_chance = torch.tensor([(half - i) / (others - i) for i in range(k)], device=error.device).prod()
    return (
        {f"neighbor_right_{k}": right.gather(-1, nearest).all(-1).double(),
         f"neighbor_error_{k}": error.gather(-1, nearest).mean(-1)},
        {f"neighbor_right_{k}": by_chance.expand(error.shape[:2]), f"neighbor_error_{k}": error.mean(-1)},
    )  # fmt: skip


def evaluate_and_find_neighbors(
    model: nn.Module, views, run, seed: int, report: Callable[[float], object] | None = None
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """`evaluate_run` and `neighbors`: all that is kept of a checkpoint."""
    return evaluate_run(model, views, run, seed, report), neighbors(model, views, run)


@torch.no_grad()
def neighbors(model: nn.Module, views, run, examples: int = 12, k: int = 4) -> dict[str, np.ndarray]:
    """What a grid of nearest neighbors shows (Figures 1, 6 and 8 to 11): nothing is picked by hand.

    Examples are the first ``examples`` test objects of each source in an order drawn from ``evaluate.sample_seed``;
    view 0 is the source and view 1 the target. A model that predicts nothing from an action is asked with the source's
    own embedding. The source is no neighbor of itself.

    Returns:
        Arrays over n examples: ``images`` (n, V, H, W, 3) uint8, ``latents`` (n, V, A), ``source`` (n,) str, ``kinds``
        str, what the query's action tells (a kind of context, the groups of a baseline, or ``none``), ``lengths`` of
        the contexts, ``neighbors`` (n, kinds, lengths, min(k, V - 1)) view numbers, nearest first.
    """
    model.eval()
    settings, device = run.evaluate, next(model.parameters()).device
    generator = torch.Generator().manual_seed(settings.sample_seed)
    objects = views.objects("test")
    objects = objects[torch.randperm(len(objects), generator=generator)]
    names = np.asarray(views.source)[objects.numpy()]
    objects = torch.cat([objects[torch.from_numpy(names == s)][:examples] for s in sorted(set(names))])
    rows = objects[:, None] * views.views + torch.arange(views.views)
    features = encode(model, views, rows.flatten(), device)
    contextual = hasattr(model, "predictor")
    kinds = _transformations(model, run) or ("none",)
    lengths = list(settings.context_lengths) if contextual else [0]
    caches = context_caches(model, views, settings, device, settings.context_seeds[0]) if contextual else {}
    actions = views.action(views.targets[rows[:, 0]], views.targets[rows[:, 1]]).to(device)
    found = []
    for kind in kinds:
        for n in lengths:
            cache = caches[kind].prefix(n) if contextual else None
            told = None if kind == "none" else restrict(actions, kind, views.groups)
            query = embed(model, features[:: views.views], told, cache)
            library = embed(model, features, None, cache).view(*rows.shape, -1)
            found.append(retrieval.nearest(query[:, None], library[:, 1:], k)[:, 0] + 1)
    return {
        "images": views.images[rows].numpy(),
        "latents": views.targets[rows].numpy(),
        "source": np.asarray(views.source)[objects.numpy()],
        "kinds": np.array(kinds),
        "lengths": np.array(lengths),
        "neighbors": torch.stack(found, 1).unflatten(1, (len(kinds), len(lengths))).cpu().numpy(),
    }
