"""The real 3DIEBench: its published folder layout, converted to the same two files as the miniature."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from lib.data.arrays import write_dataset


def _object_list(root: Path, part: str) -> list[str]:
    """Entries synset/object of the split list <part>_images.npy or .txt in `root`."""
    for path in (root / f"{part}_images.npy", root / f"{part}_images.txt"):
        if not path.is_file():
            continue
        try:
            lines = np.load(path).tolist() if path.suffix == ".npy" else path.read_text().split()
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} cannot be read as a list of objects ({error}); copy it again") from error
        entries = [str(line).strip("/") for line in lines]
        wrong = [entry for entry in entries if entry.count("/") != 1]
        if wrong:
            raise ValueError(f'{path} has the entry "{wrong[0]}", but /<synset>/<object> is expected')
        return entries
    raise FileNotFoundError(
        f"{root / f'{part}_images.npy'} is missing (a .txt will do, too); 3DIEBench's split lists are in the folder "
        "data of github.com/facebookresearch/SIE"
    )


def _read_object(folder: Path, image_size: int, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (views, image_size, image_size, 3) and latents (views, 7) of one object's folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} is missing, but a split list names it")
    images = np.empty((views, image_size, image_size, 3), np.uint8)
    latents = np.empty((views, 7))
    for view in range(views):
        image_file, latent_file = folder / f"image_{view}.jpg", folder / f"latent_{view}.npy"
        for path in (image_file, latent_file):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing; data.views asks for {views} views of each object")
        try:
            with Image.open(image_file) as image:
                size = (image_size, image_size)
                images[view] = image.convert("RGB").resize(size, Image.Resampling.BILINEAR, reducing_gap=3)
        except OSError as error:
            raise ValueError(f"{image_file} cannot be read ({error}); it may be truncated; get it again") from error
        try:
            latent = np.load(latent_file)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{latent_file} cannot be read ({error}); it may be truncated; get it again") from error
        if latent.shape != (7,):
            raise ValueError(f"{latent_file} has shape {latent.shape}, but the seven latents (7,) are expected")
        latents[view] = latent
    return images, latents


def import_3diebench(
    root: Path | str, out: Path | str, image_size: int, views: int, split, workers: int | None = None
) -> None:
    """Convert the real 3DIEBench to the same two files as the miniature.

    `root` holds <synset>/<object>/image_k.jpg and latent_k.npy, and the official split lists train_images.npy and
    val_images.npy (or .txt), one /<synset>/<object> per entry. 3DIEBench has two parts: the official val becomes
    `test`; `validation` is carved out of the official train by object, in the ratio of split.validation to split.train,
    in the order of a hash. Classes are all synsets in sorted order, as in SIE. Errors name the missing or broken file.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f'the 3DIEBench folder "{root}" is missing; set data.root to where it was unpacked')
    train, test = _object_list(root, "train"), _object_list(root, "val")
    hashed = sorted(train, key=lambda entry: hashlib.sha256(entry.encode()).hexdigest())
    share = split.validation / (split.train + split.validation)
    validation = set(hashed[: round(share * len(hashed))])
    entries = train + test
    write_dataset(
        out,
        partial(_read_object, image_size=image_size, views=views),
        (root / entry for entry in entries),
        image_size=image_size,
        views=views,
        label=[entry.split("/")[0] for entry in entries],
        split=["validation" if entry in validation else "train" for entry in train] + ["test"] * len(test),
        source=["real"] * len(entries),
        mesh=entries,
        workers=workers,
    )
