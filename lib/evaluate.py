"""Evaluation of a checkpoint: latents, classes and neighbors, read at every kind and length of context.

What is evaluated (`evaluate_run`): the *representation*, the encoder's features, which know no context, and the
*embedding*, which for ContextSSL is the predictor's output h(y | C) of a single image appended to a context C, and for
SimCLR the projector's output (one "context": none, of length 0).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lib import metrics, probes, retrieval
from lib.data import GROUPS, action
from lib.models import ContextCache
from lib.probes import Split

#: Kinds of context: pairs with only rotation in their actions, only color, or no action at all.
KINDS = ("rotation", "color", "none")


def masked_action(actions: Tensor, kind: str) -> Tensor:
    """The action as a context of this kind shows it: the columns of other groups are zero."""
    shown = torch.zeros_like(actions)
    if kind != "none":
        shown[..., GROUPS[kind]] = actions[..., GROUPS[kind]]
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
def embed(predictor, features: Tensor, actions: Tensor | None, cache: ContextCache, batch: int = 4096) -> Tensor:
    """Normalized embeddings of query tokens, each alone after one context; a y-token has the action zero.

    Args:
        features: (M, F). actions: (M, A), or None for y-tokens. cache: of the context, any length.

    Returns:
        (M, E), L2-normalized.
    """
    if actions is None:
        actions = features.new_zeros(len(features), predictor.action_dim)
    parts = zip(features.split(batch), actions.split(batch))
    return F.normalize(torch.cat([predictor.read(f, a, cache) for f, a in parts]), dim=-1)


@torch.no_grad()
def context_caches(model, views, settings, device: torch.device) -> dict[str, ContextCache]:
    """Keys and values of the longest context of each kind; every shorter context is a prefix of them."""
    rows = context_pairs(views, settings)
    features = encode(model, views, rows.flatten(), device)
    actions = action(views.targets[rows[:, 0]], views.targets[rows[:, 1]]).to(device)
    caches = {}
    for kind in KINDS:
        x = masked_action(actions, kind)
        tokens = torch.stack([x, torch.zeros_like(x)], dim=1).flatten(0, 1)
        caches[kind] = model.predictor.context(features, tokens)
    return caches


def _latents(tables: Tensor, splits: dict[str, Split], sources: dict[str, Tensor], settings, report) -> list[dict]:
    """For each of G tables: probe -> source -> r2_<group>."""
    results = [{} for _ in tables]
    for probe, prediction in probes.predict_latents(
        tables, *splits.values(), settings, settings.sample_seed
    ).items():
        for g, result in enumerate(results):
            result[probe] = {
                source: {
                    f"r2_{group}": metrics.r2(prediction[g][keep][:, columns], splits["test"].target[keep][:, columns])
                    for group, columns in GROUPS.items()
                }
                for source, keep in sources.items()
            }
    report()
    return results


def evaluate_run(model, views, settings, seed: int = 0) -> dict:
    """Everything that is reported of one checkpoint.

    Args:
        model: has ``encoder``, and either ``predictor`` (ContextSSL) or ``projector`` (SimCLR).
        views: ``lib.data.Views``.
        settings: the ``evaluate`` section.
        seed: of the checkpoint; written down and shown, nothing depends on it.

    Returns:
        Nested mapping of floats, lists of floats and counts; ``<source>`` is ``all``, ``parametric`` or ``real`` (test
        objects), ``<kind>`` is ``rotation``, ``color`` or ``none``, ``<length>`` is ``c0``, ``c2``, ...::

            seed
            count.<train|validation|test>                        images, and as many pairs
            floor.<individual|relative>.<source>.r2_<group>      {pooled, per_component, mean} of a constant
            top1.representation.<source>                         linear classification, in [0, 1]
            top1.embedding.<kind>.<length>.<source>
            r2.representation.<task>.<probe>.<source>.r2_<group>             {pooled, per_component, mean}
            r2.embedding.<kind>.<length>.<task>.<probe>.<source>.r2_<group>
            retrieval.<test|validation|train>.<rotation|color>.<length>.<source>
                                                                 {mrr, hit_at_1, hit_at_5, identity, as_released}
            retrieval.chance                                     {mrr, hit_at_1, hit_at_5}

        SimCLR has the kind ``none`` and the length ``c0`` alone, and no retrieval: it predicts nothing from an action.
    """
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(settings.sample_seed)
    contextual = hasattr(model, "predictor")
    lengths = list(settings.context_lengths)

    # 1. Which images: some for the probes, all views of some objects for retrieval.
    limits = {"train": settings.train_images, "validation": settings.validation_images, "test": settings.test_images}
    sampled = {split: sample_rows(views, split, limit, generator) for split, limit in limits.items()}
    libraries = {}
    for split in ("test", "validation", "train") if contextual else ():
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
        tasks["relative"][split] = Split(two, action(views.targets[first], views.targets[second]).to(device))
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
                for g, c in GROUPS.items()
            }
            for s, keep in sources.items()
        }
        for task in ("individual", "relative")
    }

    # 3. Embeddings, once for each context: no context is one cell, whatever its kind.
    cells = [("none", 0), *((kind, n) for kind in KINDS for n in lengths[1:])] if contextual else [("none", 0)]
    with tqdm(total=1 + len(cells) + 2 * (2 + 1), mininterval=1, desc=f"evaluate seed {seed}") as bar:
        features = encode(model, views, needed, device)
        bar.update()
        if contextual:
            caches = context_caches(model, views, settings, device)
            tables = []
        else:
            with torch.no_grad():
                tables = [F.normalize(model.projector(features), dim=-1)]
        result["retrieval"] = {"chance": retrieval.chance(views.views)} if contextual else {}
        for kind, n in cells if contextual else ():
            tables.append(embed(model.predictor, features, None, caches[kind].prefix(n)))
            # Without a context the library is one, but the query's action still has a kind.
            for query_kind in ("rotation", "color") if n == 0 else () if kind == "none" else (kind,):
                for split, rows in libraries.items():
                    rank = _ranks(model.predictor, features, tables[-1], views, rows, position, query_kind, caches, n)
                    result["retrieval"].setdefault(split, {}).setdefault(query_kind, {})[f"c{n}"] = {
                        s: retrieval.report(rank[keep]) for s, keep in by_source(rows[:, 0] // views.views).items()
                    }
            bar.update()

        # 4. Probes: all cells at once.
        tables = torch.stack(tables)
        cell_of = {
            kind: {f"c{n}": cells.index((kind, n) if n else ("none", 0)) for n in (lengths if contextual else [0])}
            for kind in (KINDS if contextual else ("none",))
        }
        result["r2"] = {"representation": {}, "embedding": {k: {c: {} for c in v} for k, v in cell_of.items()}}
        result["top1"] = {}
        for label, table in (("representation", F.normalize(features, dim=-1)[None]), ("embedding", tables)):
            for task in ("individual", "relative"):
                found = _latents(table, tasks[task], sources, settings, bar.update)
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
    return metrics.to_json(result)


def _ranks(
    predictor, features: Tensor, table: Tensor, views, rows: Tensor, position: Tensor, kind: str, caches: dict, n: int
) -> Tensor:
    """(O, V) ranks of the queries h(x_0, a_{0 -> j} | C) among the embeddings of the V views of each object.

    ``rows``: (O, V) image rows; ``table``: (U, E) embeddings of the image rows in ``position``.
    """
    objects, count = rows.shape
    actions = masked_action(action(views.targets[rows[:, :1].expand(-1, count)], views.targets[rows]), kind)
    at = position[rows].to(table.device)
    queries = embed(
        predictor, features[at[:, :1].expand(-1, count)].flatten(0, 1), actions.flatten(0, 1).to(table.device),
        caches[kind].prefix(n),
    )
    target = torch.arange(count, device=table.device)
    return retrieval.ranks(queries.view(objects, count, -1), table[at], target)


@torch.no_grad()
def neighbors(model, views, settings, examples: int = 4, k: int = 3) -> dict[str, np.ndarray]:
    """What a grid of nearest neighbors shows (Figures 1, 6 and 8 to 11): nothing is picked by hand.

    Examples are the first ``examples`` test objects of each source in an order drawn from ``settings.sample_seed``;
    view 0 is the source and view 1 the target. SimCLR has no query but the source's own embedding.

    Returns:
        Arrays over n examples: ``images`` (n, V, H, W, 3) uint8, ``latents`` (n, V, 6) quaternion and hues,
        ``source`` (n,) str, ``kinds`` str and ``lengths`` of the contexts (``none`` and 0 for SimCLR), ``neighbors``
        (n, kinds, lengths, k) view numbers, nearest first.
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
    if hasattr(model, "predictor"):
        kinds, lengths = ("rotation", "color"), list(settings.context_lengths)
        caches = context_caches(model, views, settings, device)
        actions = action(views.targets[rows[:, 0]], views.targets[rows[:, 1]]).to(device)
        found = []
        for kind in kinds:
            for cache in (caches[kind].prefix(n) for n in lengths):
                query = embed(model.predictor, features[:: views.views], masked_action(actions, kind), cache)
                library = embed(model.predictor, features, None, cache).view(*rows.shape, -1)
                found.append(retrieval.nearest(query[:, None], library, k)[:, 0])
    else:
        kinds, lengths = ("none",), [0]
        library = F.normalize(model.projector(features), dim=-1).view(*rows.shape, -1)
        found = [retrieval.nearest(library[:, :1], library, k)[:, 0]]
    return {
        "images": views.images[rows].numpy(),
        "latents": views.targets[rows].numpy(),
        "source": np.asarray(views.source)[objects.numpy()],
        "kinds": np.array(kinds),
        "lengths": np.array(lengths),
        "neighbors": torch.stack(found, 1).unflatten(1, (len(kinds), len(lengths))).cpu().numpy(),
    }
