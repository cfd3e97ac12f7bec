"""Evaluation of a checkpoint: latents, classes and neighbors, read at every kind and length of context.

What is evaluated (`evaluate_run`): the *representation*, the encoder's features, which know no context, and the
*embedding*, which for models with a context transformer is its output h(y | C) of a single image appended to a context
C, and for the others the space that their objective compares (one "context": none, of length 0).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lib.evaluation import metrics, probes, retrieval
from lib.method.models import ContextCache, sphere
from lib.evaluation.probes import Split


def masked_action(actions: Tensor, kind: str, groups: Mapping[str, slice]) -> Tensor:
    """The action as a context of this kind shows it: the columns of other groups are zero, of all for ``none``."""
    shown = torch.zeros_like(actions)
    if kind != "none":
        shown[..., groups[kind]] = actions[..., groups[kind]]
    return shown


def context_pairs(views, settings) -> Tensor:
    """The fixed evaluation context: (K, 2) image rows, K = longest context / 2, one pair to an object.

    The paper takes "other unlabelled data from the test set", the released code takes training pairs; the default
    follows the code, so that no test image is seen before it is asked about. Objects are drawn without replacement
    while they last. Shorter contexts are prefixes.
    """
    generator = torch.Generator().manual_seed(settings.context_seed)
    objects, pairs = views.objects(settings.context_source), max(settings.context_lengths) // 2
    order = torch.cat([torch.randperm(len(objects), generator=generator) for _ in range(pairs // len(objects) + 1)])
    view = torch.rand(pairs, views.views, generator=generator).argsort(1)[:, :2]
    return objects[order[:pairs], None] * views.views + view


def sample_rows(views, split: str, limit: int, generator: torch.Generator) -> Tensor:
    """Images for a probe, at most ``limit``, as many views of each object as of any other: (objects, v) rows, v >= 2.

    Pairs are neighbors in a row (and its two ends), so each image is once a first and once a second view.
    """
    objects = views.objects(split)
    count = min(max(2, -(-limit // len(objects))), views.views)
    objects = objects[torch.randperm(len(objects), generator=generator)[: max(1, limit // count)]]
    view = torch.rand(len(objects), views.views, generator=generator).argsort(1)[:, :count]
    return objects[:, None] * views.views + view


@torch.no_grad()
def encode(model, views, rows: Tensor, device: torch.device, batch: int = 512) -> Tensor:
    """Encoder features of image rows: (M,) to (M, F)."""
    return torch.cat([model.encoder(views.images[part].to(device)) for part in rows.split(batch)])


@torch.no_grad()
def embed(
    model: nn.Module, features: Tensor, actions: Tensor | None, cache: ContextCache | None, batch: int = 4096
) -> Tensor:
    """Normalized embeddings of views, or predictions of them from another view and an action.

    Args:
        model: with a context transformer ``predictor``, or a baseline.
        features: (M, F). actions: (M, A), or None for the views themselves (y-tokens, whose action is zero).
        cache: of the context, any length; None for a baseline.

    Returns:
        (M, E), L2-normalized.
    """
    found = []
    for at in torch.arange(len(features), device=features.device).split(batch):
        z, a = features[at], None if actions is None else actions[at]
        if cache is not None:
            a = z.new_zeros(len(z), model.predictor.action_dim) if a is None else a
            found.append(model.predictor.read(z, a, cache))
        else:
            found.append(model.embed(z) if a is None else model.predict(z, a))
    return F.normalize(torch.cat(found), dim=-1)


@torch.no_grad()
def context_caches(model, views, settings, device: torch.device) -> dict[str, ContextCache]:
    """Keys and values of the longest context of each kind; every shorter context is a prefix of them."""
    rows = context_pairs(views, settings)
    features = encode(model, views, rows.flatten(), device)
    actions = views.action(views.targets[rows[:, 0]], views.targets[rows[:, 1]]).to(device)
    caches = {}
    for kind in settings.context_kinds:
        x = masked_action(actions, kind, views.groups)
        tokens = torch.stack([x, torch.zeros_like(x)], dim=1).flatten(0, 1)
        caches[kind] = model.predictor.context(features, tokens)
    return caches


def _latents(
    tables: Tensor, splits: dict[str, Split], sources: dict[str, Tensor], groups: Mapping[str, slice], settings,
    report: Callable[[], object],
) -> list[dict]:
    """For each of G tables: probe -> source -> r2_<group>."""
    results = [{} for _ in tables]
    for probe, prediction in probes.predict_latents(
        tables, *splits.values(), groups, settings, settings.sample_seed
    ).items():
        for g, result in enumerate(results):
            result[probe] = {
                source: {
                    f"r2_{group}": metrics.r2(prediction[g][keep][:, columns], splits["test"].target[keep][:, columns])
                    for group, columns in groups.items()
                }
                for source, keep in sources.items()
            }
    report()
    return results


def _transformations(model: nn.Module, trained: Sequence[str], kinds: Sequence[str]) -> tuple[str, ...]:
    """What a prediction is asked for: the kinds of context, or what an equivariant baseline was trained for."""
    if hasattr(model, "predictor"):
        return tuple(kind for kind in kinds if kind != "none")
    return ("+".join(trained),) if hasattr(model, "predict") else ()


def _shown(actions: Tensor, kind: str, groups: Mapping[str, slice]) -> Tensor:
    """`masked_action` of a kind that may name several groups, rotation+color."""
    return sum(masked_action(actions, part, groups) for part in kind.split("+"))


def evaluate_run(model: nn.Module, views, settings, trained: Sequence[str] = (), seed: int = 0) -> dict:
    """Everything that is reported of one checkpoint.

    Args:
        model: has ``encoder``, and either ``predictor`` (a context transformer) or ``embed``; an equivariant baseline
            has ``predict`` too, a model of context-dependent labels a ``classifier``.
        views: ``lib.data.views.Views``.
        settings: the ``evaluate`` section.
        trained: the groups that an equivariant baseline was trained for.
        seed: of the checkpoint; written down and shown, nothing depends on it.

    Returns:
        Nested mapping of floats, lists of floats and counts; ``<source>`` is ``all``, ``parametric`` or ``real`` (test
        objects), ``<kind>`` is one of ``settings.context_kinds``, ``<length>`` is ``c0``, ``c2``, ...::

            seed
            count.<train|validation|test>                        images, and as many pairs
            floor.<individual|relative>.<source>.r2_<group>      {pooled, per_component, mean} of a constant
            top1.representation.<source>                         linear classification, in [0, 1]
            top1.embedding.<kind>.<length>.<source>
            r2.representation.<task>.<probe>.<source>.r2_<group>             {pooled, per_component, mean}
            r2.embedding.<kind>.<length>.<task>.<probe>.<source>.r2_<group>
            retrieval.<test|validation|train>.<transformation>.<length>.<source>
                                                                 {mrr, hit_at_1, hit_at_5, identity, as_released}
            retrieval.chance                                     {mrr, hit_at_1, hit_at_5}
            labels.<rotation|color>.<length>.<source>            accuracy of context-dependent labels, in [0, 1]

        ``<transformation>`` is a kind of context, or for a baseline the groups of its action (``rotation``,
        ``rotation+color``). A model without context transformer has the kind ``none`` and the length ``c0`` alone, and
        no retrieval if it predicts nothing from an action. ``labels`` is there with a classifier alone; predictions
        that know no group are scored by both rules.
    """
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(settings.sample_seed)
    contextual = hasattr(model, "predictor")
    lengths = list(settings.context_lengths) if contextual else [0]
    kinds = settings.context_kinds if contextual else ("none",)
    asked = _transformations(model, trained, kinds)

    # 1. Which images: some for the probes, all views of some objects for retrieval.
    limits = {"train": settings.train_images, "validation": settings.validation_images, "test": settings.test_images}
    sampled = {split: sample_rows(views, split, limit, generator) for split, limit in limits.items()}
    libraries = {}
    for split in ("test", "validation", "train") if asked else ():
        objects = views.objects(split)
        objects = objects[torch.randperm(len(objects), generator=generator)[: settings.retrieval_objects]]
        libraries[split] = objects[:, None] * views.views + torch.arange(views.views)
    needed = torch.cat([r.flatten() for r in (*sampled.values(), *libraries.values())]).unique()
    position = torch.full((len(views.targets),), -1)
    position[needed] = torch.arange(len(needed))

    # 2. Samples of the two tasks, and where each test object comes from.
    tasks: dict[str, dict[str, Split]] = {"individual": {}, "relative": {}, "class": {}}
    for split, rows in sampled.items():
        first, second = rows.flatten(), rows.roll(-1, dims=1).flatten()
        one, two = position[first, None].to(device), position[torch.stack([first, second], 1)].to(device)
        tasks["individual"][split] = Split(one, views.targets[first].to(device))
        tasks["relative"][split] = Split(two, views.action(views.targets[first], views.targets[second]).to(device))
        tasks["class"][split] = Split(one, views.labels[first // views.views].to(device))

    def by_source(objects: Tensor) -> dict[str, Tensor]:
        names = np.asarray(views.source)[objects.numpy()]
        masks = {"all": np.ones(len(names), bool)} | {s: names == s for s in sorted(set(names))}
        return {s: torch.from_numpy(m).to(device) for s, m in masks.items()}

    sources = by_source(sampled["test"].flatten() // views.views)
    result: dict = {"seed": seed, "count": {split: rows.numel() for split, rows in sampled.items()}}
    result["floor"] = {
        task: {
            s: {
                f"r2_{g}": metrics.floor(tasks[task]["train"].target[:, c], tasks[task]["test"].target[keep][:, c])
                for g, c in views.groups.items()
            }
            for s, keep in sources.items()
        }
        for task in ("individual", "relative")
    }

    # 3. Embeddings, once for each context: no context is one cell, whatever its kind.
    cells = [("none", 0), *((kind, n) for kind in kinds for n in lengths[1:])]
    with tqdm(total=1 + len(cells) + 2 * (2 + 1), mininterval=1, desc=f"evaluate seed {seed}") as bar:
        features = encode(model, views, needed, device)
        bar.update()
        caches = context_caches(model, views, settings, device) if contextual else {}
        tables = []
        result["retrieval"] = {"chance": retrieval.chance(views.views)} if asked else {}
        for kind, n in cells:
            cache = caches[kind if n else kinds[0]].prefix(n) if contextual else None
            tables.append(embed(model, features, None, cache))
            # Without a context the library is one, but the query's action still has a kind.
            for query in asked if n == 0 else () if kind == "none" else (kind,):
                for split, rows in libraries.items():
                    rank = _ranks(model, features, tables[-1], views, rows, position, query, cache)
                    result["retrieval"].setdefault(split, {}).setdefault(query, {})[f"c{n}"] = {
                        s: retrieval.report(rank[keep]) for s, keep in by_source(rows[:, 0] // views.views).items()
                    }
            bar.update()

        # 4. Probes: all cells at once.
        tables = torch.stack(tables)
        cell_of = {kind: {f"c{n}": cells.index((kind, n) if n else ("none", 0)) for n in lengths} for kind in kinds}
        result["r2"] = {"representation": {}, "embedding": {k: {c: {} for c in v} for k, v in cell_of.items()}}
        result["top1"] = {}
        for label, table in (("representation", F.normalize(features, dim=-1)[None]), ("embedding", tables)):
            for task in ("individual", "relative"):
                found = _latents(table, tasks[task], sources, views.groups, settings, bar.update)
                if label == "representation":
                    result["r2"][label][task] = found[0]
                    continue
                for kind, at in cell_of.items():
                    for c, g in at.items():
                        result["r2"][label][kind][c][task] = found[g]
            table = features[None] if label == "representation" else table
            splits = tasks["class"].values()
            predicted = probes.predict_classes(table, *splits, len(views.classes), settings)
            right = (predicted == tasks["class"]["test"].target).float()
            top1 = [{s: r[keep].mean().item() for s, keep in sources.items()} for r in right]
            result["top1"][label] = (
                top1[0] if label == "representation"
                else {kind: {c: top1[g] for c, g in at.items()} for kind, at in cell_of.items()}
            )
            bar.update()
        if hasattr(model, "classifier"):
            test = tasks["class"]["test"]
            result["labels"] = _label_accuracy(model.classifier, tables, test, cell_of, sources, views)
    return metrics.to_json(result)


@torch.no_grad()
def _label_accuracy(
    classifier: nn.Linear, tables: Tensor, test: Split, cell_of: Mapping, sources: Mapping[str, Tensor], views
) -> dict:
    """Accuracy of context-dependent labels, by the rule of each group: rule -> length -> source."""
    shift = classifier.out_features - len(views.classes)
    predicted = classifier(sphere(tables)).argmax(-1)[:, test.rows[:, 0]]
    found: dict = {}
    for rule in views.groups:
        truth = test.target + shift * (rule == "rotation")
        for c, g in cell_of.get(rule, cell_of.get("none", {})).items():
            right = (predicted[g] == truth).float()
            found.setdefault(rule, {})[c] = {s: right[keep].mean().item() for s, keep in sources.items()}
    return found


def _ranks(
    model: nn.Module, features: Tensor, table: Tensor, views, rows: Tensor, position: Tensor, kind: str,
    cache: ContextCache | None,
) -> Tensor:
    """(O, V) ranks of the queries h(x_0, a_{0 -> j} | C) among the embeddings of the V views of each object.

    ``rows``: (O, V) image rows; ``table``: (U, E) embeddings of the image rows in ``position``.
    """
    objects, count = rows.shape
    actions = views.action(views.targets[rows[:, :1].expand(-1, count)], views.targets[rows])
    actions = _shown(actions, kind, views.groups).flatten(0, 1).to(table.device)
    at = position[rows].to(table.device)
    queries = embed(model, features[at[:, :1].expand(-1, count)].flatten(0, 1), actions, cache)
    target = torch.arange(count, device=table.device)
    return retrieval.ranks(queries.view(objects, count, -1), table[at], target)


@torch.no_grad()
def neighbors(
    model: nn.Module, views, settings, trained: Sequence[str] = (), examples: int = 12, k: int = 4
) -> dict[str, np.ndarray]:
    """What a grid of nearest neighbors shows (Figures 1, 6 and 8 to 11): nothing is picked by hand.

    Examples are the first ``examples`` test objects of each source in an order drawn from ``settings.sample_seed``;
    view 0 is the source and view 1 the target. A model that predicts nothing from an action is asked with the source's
    own embedding. The source is no neighbor of itself.

    Returns:
        Arrays over n examples: ``images`` (n, V, H, W, 3) uint8, ``latents`` (n, V, A), ``source`` (n,) str, ``kinds``
        str, what the query's action tells (a kind of context, the groups of a baseline, or ``none``), ``lengths`` of
        the contexts, ``neighbors`` (n, kinds, lengths, min(k, V - 1)) view numbers, nearest first.
    """
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(settings.sample_seed)
    objects = views.objects("test")
    objects = objects[torch.randperm(len(objects), generator=generator)]
    names = np.asarray(views.source)[objects.numpy()]
    objects = torch.cat([objects[torch.from_numpy(names == s)][:examples] for s in sorted(set(names))])
    rows = objects[:, None] * views.views + torch.arange(views.views)
    features = encode(model, views, rows.flatten(), device)
    contextual = hasattr(model, "predictor")
    kinds = _transformations(model, trained, settings.context_kinds) or ("none",)
    lengths = list(settings.context_lengths) if contextual else [0]
    caches = context_caches(model, views, settings, device) if contextual else {}
    actions = views.action(views.targets[rows[:, 0]], views.targets[rows[:, 1]]).to(device)
    found = []
    for kind in kinds:
        for n in lengths:
            cache = caches[kind].prefix(n) if contextual else None
            silent = kind == "none"
            asked = None if silent else _shown(actions, kind, views.groups)
            query = embed(model, features[:: views.views], asked, cache)
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
