"""Array files, and writing the prepared data set: images.npy and views.npz (see `lib.data.views.load_views`)."""

from __future__ import annotations

import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from threadpoolctl import threadpool_limits
from tqdm import tqdm

SPLITS = ("train", "validation", "test")


def load_npz(path: Path, cure: str) -> dict[str, np.ndarray]:
    """Read every array of an .npz file; one clear sentence, ending in `cure`, if it is missing or truncated."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {cure}")
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as .npz ({error}), it may be truncated; {cure}") from error


def _one_thread() -> None:
    threadpool_limits(1)


def write_dataset(
    out: Path | str,
    work: Callable,
    jobs: Iterable,
    *,
    image_size: int,
    views: int,
    label: list[str],
    split: list[str],
    source: list[str],
    mesh: list[str],
    classes: list[str] | None = None,
    workers: int | None = None,
) -> None:
    """Stream a data set over all cores into `out`/images.npy and `out`/views.npz.

    work(job) returns one object's images uint8 (views, image_size, image_size, 3) and latents (views, 7); `jobs` yields
    one picklable job per object, in the order of the rows. Per object: `label` (class name), `split`, `source` and
    `mesh` (what variants of one mesh share). `classes` default to the sorted labels. The bytes written do not depend on
    `workers` (None: one per core). Both files appear only once complete; a failure leaves neither.
    """
    out, objects = Path(out), len(label)
    out.mkdir(parents=True, exist_ok=True)
    images_file, views_file = out / "images.npy", out / "views.npz"
    partial = [out / "images.npy.partial", out / "views.npz.partial"]
    for path in (views_file, images_file):
        path.unlink(missing_ok=True)
    workers = min(workers or os.cpu_count(), objects)
    # spawned, not forked: the parent may run threads (torch, a notebook) whose locks a fork would copy while held
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, _one_thread) if workers > 1 else None
    try:
        images = open_memmap(partial[0], mode="w+", dtype=np.uint8, shape=(objects * views, image_size, image_size, 3))
        latents = np.empty((objects * views, 7), np.float32)
        results = pool.map(work, jobs, chunksize=4) if pool else map(work, jobs)
        with tqdm(total=len(images), unit=" images", desc="views", mininterval=1) as bar:
            for index, (object_images, object_latents) in enumerate(results):
                rows = slice(index * views, (index + 1) * views)
                images[rows], latents[rows] = object_images, object_latents
                bar.update(views)
        images.flush()
        del images
        classes = sorted(set(label)) if classes is None else classes
        with open(partial[1], "wb") as file:
            np.savez(
                file,
                latents=latents,
                labels=np.array([classes.index(name) for name in label], np.int64),
                classes=np.array(classes),
                split=np.array(split),
                source=np.array(source),
                mesh=np.array(mesh),
                views=np.int64(views),
            )
        partial[0].replace(images_file)
        partial[1].replace(views_file)
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        for path in partial:
            path.unlink(missing_ok=True)
