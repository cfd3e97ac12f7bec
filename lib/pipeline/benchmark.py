"""How fast this machine does what the compendium needs, each beside a naive way to the same numbers.

    python -m lib benchmark

Both ways are timed in turns on the processor, with the settings of params.yaml and the prepared data. Their results are
compared, and more than rounding between them is an error. The tables go to results/benchmark.md.
"""

import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import joblib
import nbformat
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from lib.data.views import Views, load_views
from lib.evaluation import probes
from lib.evaluation.evaluate import evaluate_run
from lib.method import methods, sampling
from lib.method.masking import pair_causal_mask
from lib.method.methods import METHODS
from lib.method.pretrain import pretrain
from lib.miniature.dataset import Pinned
from lib.miniature.render import render
from lib.pipeline import settings
from lib.pipeline.settings import Data, Params, Run

RESULT = Path("results/benchmark.md")
WARM_UP = 3  # steps that are not timed

#: What a study's notebook imports, and how a stage's process executes a notebook.
IMPORTS = "from lib.evaluation import evaluate\nfrom lib.pipeline import settings, store, study"
STAGE = "from pathlib import Path; from lib.pipeline import run; run.execute(Path({!r}), Path({!r}), {{}}, [])"

Timed = tuple[float, float, float]  # seconds of a way and of the naive one, and the greatest difference of results


def processor(place: str = "cpu") -> str:
    """The name of the processor, or of the GPU where the place is cuda, as the system has it."""
    if place == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def compared(way: Callable[[], Tensor], naive: Callable[[], Tensor], seconds: float) -> Timed:
    """Call two ways in turns until `seconds` are over; the times are medians.

    Raises AssertionError if the results differ by more than rounding.
    """
    first, second = way(), naive()
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
    times, end = ([], []), perf_counter() + seconds
    while not times[0] or perf_counter() < end:
        for call, taken in zip((way, naive), times):
            start = perf_counter()
            call()
            taken.append(perf_counter() - start)
    return *map(statistics.median, times), (first.double() - second.double()).abs().max().item()


# ---- Training


def train(run: Run, steps: int, views: Views, threads: int) -> tuple[float, list[dict[str, float]]]:
    """Train a few steps as a study does: steps per second and the history."""
    torch.set_num_threads(threads)
    fabric, times = Fabric(accelerator="cpu", devices=1, precision=run.precision), []
    fabric.launch()
    # So few steps need a longer share for the learning rate to rise.
    changes = {"steps": WARM_UP + steps, "warmup_fraction": 0.5}
    short = run.model_copy(update={"pretrain": run.pretrain.model_copy(update=changes)})
    _, history = pretrain(short, 0, views, fabric=fabric, report=lambda done: times.append(perf_counter()))
    torch.set_num_threads(1)
    return steps / (times[-1] - times[WARM_UP - 1]), history


def training(run: Run, views: Views, cores: int, seconds: float) -> tuple[float, float, float]:
    """Steps per second of one task with one thread, of such a task on each core, and of one task with all threads.

    Raises AssertionError unless tasks side by side have the losses of the one alone, to the last bit, and the task with
    all threads has them but for rounding.
    """
    parallel = joblib.Parallel(n_jobs=cores, batch_size=1, mmap_mode="c")

    def side_by_side(steps: int) -> list:
        return parallel(joblib.delayed(train)(run, steps, views, 1) for _ in range(cores))

    # The first call starts the processes and tells how many steps fill the time.
    steps = max(3, round(side_by_side(3)[0][0] * seconds))
    (alone, history), tasks, (threaded, rounded) = (
        train(run, steps, views, 1), side_by_side(steps), train(run, steps, views, cores),
    )  # fmt: skip
    if any(found != history for _, found in tasks):
        raise AssertionError(f"The losses of {run.name} depend on what runs beside it.")
    # The first steps alone: rounding grows with each.
    losses = [[row["loss"] for row in of[:4]] for of in (rounded, history)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    return alone, sum(rate for rate, _ in tasks), threaded


def run_of(method: str, params: Params) -> Run | None:
    """The first run of a method that reads build/data/3diebench, if there is one."""
    found = (params.run(name) for name in params.runs)
    return next((run for run in found if (run.method, params.studies.get(run.study)) == (method, "3diebench")), None)


# ---- Two ways to the same numbers


def encoding(run: Run, views: Views, seconds: float) -> Timed:
    """Forward and backward of a step's encoder: each view once, its feature in many pairs; or the views of each pair.

    Compared are features and gradients, of an encoder in evaluation mode: in training, batch normalization would count
    a view as often as it is paired.
    """
    encoder, draws = methods.build(run, views).encoder.eval(), sampling.Draws(0, 0)
    images = sampling.sample_batch(views, run.pretrain, draws).images
    contexts, pairs = run.pretrain.contexts_per_step, run.model.block_size // 2
    drawn = sampling.sample_pairs(contexts, pairs, *images.shape[:2], run.context.pairs_per_object, draws("pairs"))
    images, at = images.flatten(0, 1), torch.stack(drawn).flatten()

    def learned(encode: Callable[[], Tensor]) -> Tensor:
        encoder.zero_grad()
        features = encode()
        features.square().mean().backward()
        return torch.cat([features.detach().flatten(), *(p.grad.flatten() for p in encoder.parameters())])

    once, anew = (lambda: encoder(images).index_select(0, at)), (lambda: encoder(images[at]))
    return compared(partial(learned, once), partial(learned, anew), seconds)


@torch.no_grad()
def embedding(run: Run, views: Views, seconds: float, queries: int = 64) -> Timed:
    """Embed queries after the longest context: its keys and values once; or the whole sequence of each query."""
    predictor, generator = methods.build(run, views).eval().predictor, torch.Generator().manual_seed(0)
    length = max(run.evaluate.context_lengths)
    tokens = [
        torch.randn(length + queries, width, generator=generator)
        for width in (predictor.feature_dim, predictor.action_dim)
    ]
    sequences = [torch.cat([of[:length].expand(queries, -1, -1), of[length:, None]], 1) for of in tokens]
    masks = [pair_causal_mask(length + 2)[:-1, :-1].expand(queries, -1, -1)] * run.model.layers

    def cached() -> Tensor:
        context, asked = zip(*(of.split([length, queries]) for of in tokens))
        return predictor.read(*asked, predictor.context(*context))

    return compared(cached, lambda: predictor(*sequences, masks)[:, -1], seconds)


def probing(run: Run, seconds: float) -> Timed:
    """One epoch of an MLP probe's heads for all contexts: all in one product a layer; or one head after the other."""
    spec, generator = run.evaluate, torch.Generator().manual_seed(0)
    sizes = [spec.train_images, spec.validation_images]
    tables = torch.randn(cells(run), sum(sizes), run.model.output_dim, generator=generator)
    tables = torch.nn.functional.normalize(tables, dim=-1)
    targets, rows = torch.randn(sum(sizes), 6, generator=generator), torch.arange(sum(sizes))[:, None]
    train, validation = map(probes.Split, rows.split(sizes), targets.split(sizes))

    def predictions(tables: Tensor) -> Tensor:
        layers = probes.fit_heads(tables, train, validation, spec.probe_widths, [slice(0, 6)], 1, spec, seed=0)[0]
        return probes.predict(layers, validation.inputs(tables))

    one_by_one = lambda: torch.cat([predictions(table) for table in tables.split(1)])  # noqa: E731
    return compared(lambda: predictions(tables), one_by_one, seconds)


def cells(run: Run) -> int:
    """Contexts of one draw under which an evaluation embeds: each kind at each length, and none."""
    return 1 + len(run.evaluate.context_kinds) * (len(run.evaluate.context_lengths) - 1)


def rendering(data: Data, seconds: float, objects: int = 4) -> tuple[int, Timed]:
    """How many views, and rendering them: one bounding volume hierarchy for all views of an object; or one for each."""
    pinned, scenes = Pinned(), []
    for i in range(objects):
        scenes.append((pinned.parametric_mesh(i, data.palette), pinned.parametric_latents(i, data)))
        scenes.append((pinned.real_mesh(i, 0), pinned.real_latents(i, 0, data)))

    def images(parts: Callable[[np.ndarray], Iterable[np.ndarray]]) -> Tensor:
        return torch.from_numpy(np.concatenate([render(mesh, of, data) for mesh, all_ in scenes for of in parts(all_)]))

    once, anew = partial(images, lambda latents: [latents]), partial(images, lambda latents: latents[:, None])
    return sum(len(latents) for _, latents in scenes), compared(once, anew, seconds)


# ---- What is done in one way


def evaluation(run: Run, views: Views) -> float:
    """Seconds of evaluating one checkpoint, with untrained weights."""
    model, start = methods.build(run, views), perf_counter()
    evaluate_run(model, views, run, 0)
    return perf_counter() - start


def start_up() -> float:
    """Seconds of a stage whose notebook does nothing but import: Python, papermill, the kernel and the libraries."""
    with tempfile.TemporaryDirectory() as folder:
        source, executed = Path(folder, "source.ipynb"), Path(folder, "executed.ipynb")
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(IMPORTS)]), source)
        start = perf_counter()
        subprocess.run([sys.executable, "-c", STAGE.format(str(source), str(executed))], check=True)
        return perf_counter() - start


# ---- The tables


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def training_table(params: Params, views: Views, cores: int, seconds: float) -> str:
    """Steps per second of every method that params.yaml has a run of."""
    rows = []
    for method in METHODS:
        if run := run_of(method, params):
            alone, side_by_side, threaded = training(run, views, cores, seconds)
            images = run.pretrain.objects_per_step * run.pretrain.views_per_object
            rates = [f"{rate:.1f}" for rate in (alone, side_by_side, threaded)]
            rows.append([method, f"{images}", *rates, f"{side_by_side / threaded:.2f}"])
    header = ["method", "images a step", "one task, one thread", "one task a core", "one task, all threads", "gain"]
    return markdown(header, rows)


def ways_table(run: Run, params: Params, views: Views, seconds: float) -> str:
    """What is done in two ways; `run` is of a method with a context."""
    pairs = run.pretrain.contexts_per_step * run.model.block_size // 2
    count, rendered = rendering(params.data, seconds)
    rate = f"{count / rendered[0]:.0f} images a second"
    rows = [
        (f"render {count} views, {rate}: one hierarchy of triangles an object, or one a view", rendered),
        (f"encode the {pairs} pairs of a step: each view once, or each pair anew", encoding(run, views, seconds)),
        ("embed 64 queries: keys and values of the context once, or all for each", embedding(run, views, seconds)),
        (f"an epoch of {cells(run)} probe heads: batched, or one by one", probing(run, seconds)),
    ]
    return markdown(
        ["on one thread", "way, ms", "naive way, ms", "gain", "greatest difference"],
        [
            [what, f"{1000 * way:.0f}", f"{1000 * naive:.0f}", f"{naive / way:.1f}", f"{difference:.0e}"]
            for what, (way, naive, difference) in rows
        ],
    )


def main() -> None:
    """Measure everything and write results/benchmark.md."""
    torch.set_num_threads(1)
    params, views, cores, seconds = settings.load(), load_views(), joblib.cpu_count(), 2.0
    if (run := run_of("contextssl", params)) is None:
        raise ValueError("params.yaml has no run of contextssl on 3diebench or 3diebench-mini to measure; add one.")
    steps, ways = training_table(params, views, cores, seconds), ways_table(run, params, views, seconds)
    checked, started = evaluation(run, views), start_up()
    text = f"""Speed of {processor()}, {cores} cores, torch {torch.__version__}, profile {params.profile}

Training, steps per second. A study trains one task of one thread on each core; its gain is over the naive way, one task
after the other with all threads. Tasks side by side have the losses of a task alone, to the last bit.

{steps}
Each way beside a naive one to the same numbers, checked in the same run:

{ways}
Evaluating one checkpoint of {run.name} takes {checked:.0f} s on one thread, a stage whose notebook only imports \
{started:.1f} s (DVC's own start comes on top).
"""
    RESULT.write_text(text, encoding="utf-8")
    print(text)
