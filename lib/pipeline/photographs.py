"""Section 4.4 on real photographs, beside the pipeline: CIFAR-10 as a folder of images, or an archive of it.

    python -m lib photographs FOLDER            # writes results/cifar10-jpeg/

The notebooks 30, 03, 04 and 33 as their stages run them, but in build/photographs, where the code is the repository's
and params.yaml its own: changed as its section `cifar` says. So nothing of the pipeline is overwritten, and an
interrupted run goes on from what it has trained. Beside the models stands what needs none: `references`. What the
images must look like: `lib.data.augment.load_sources`.
"""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from ruamel.yaml import YAML
from torch import Tensor, nn

from lib.data.augment import load_sources
from lib.data.views import Views
from lib.evaluation.evaluate import VERSION, evaluate_run
from lib.pipeline import run, settings, store, study
from lib.report import plotting

NAME = "cifar10-jpeg"
WORKSPACE = Path("build/photographs")
NOTEBOOKS = (
    ["30_augmentations"], ["03_pretrain", "study=augmentations"], ["04_evaluate", "study=augmentations"],
    ["33_augmentation_tables"],
)  # fmt: skip


def changed(images: Path) -> dict:
    """The repository's params.yaml as plain dicts, with the changes for photographs in a folder or archive."""
    runs = settings.load().study("augmentations")
    params = YAML(typ="safe", pure=True).load(Path("params.yaml").read_text(encoding="utf-8"))
    spec = params["cifar"]
    params["augment"].update(name=NAME, root=str(images.resolve()), images=spec["images"])
    same = {key: spec[key] for key in ("seeds", "train_images", "validation_images", "test_images")}
    for of in runs:
        if of.method == "contextssl":
            changes = {"steps": spec["contextssl_steps"], **spec["contextssl"]}
        else:
            changes = {"steps": spec["baseline_steps"]}
        params["runs"][of.name].update(same, **changes)
    return params


def prepare(params: dict, workspace: Path) -> settings.Params:
    """Make a workspace: links to what is the repository's, and a params.yaml of its own, which is returned."""
    workspace.mkdir(parents=True, exist_ok=True)
    for name in ("lib", "notebooks", "paper", "dvc.yaml", ".dvc"):
        if not (workspace / name).exists():
            (workspace / name).symlink_to(Path(name).resolve())
    with open(workspace / "params.yaml", "w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(params, file)
    return settings.load(workspace / "params.yaml")


class Pixels(nn.Module):
    """A model without training, whose features of an image are its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 255))  # an evaluation runs where a model's parameters are

    def encoder(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 to (N, H * W * 3) in [0, 1]."""
        return images.flatten(1) * self.scale


def references(runs: Sequence[settings.Run], views: Mapping[str, Views]) -> pd.DataFrame:
    """Top-1 without training, in percent: the linear probe of a run on the raw pixels of its own images, and chance.

    Args:
        runs: one of each dataset. views: what they see, by the dataset's name.

    Returns:
        Two rows of each run: dataset, method (raw pixels, chance), value. The store has what was computed before.
    """
    rows = []
    for of in runs:
        seen, classes = views[of.dataset], {"representation_tasks": ("classes",), "embedding_tasks": ()}
        of = of.model_copy(update={"evaluate": of.evaluate.model_copy(update=classes)})
        dependencies = {
            "evaluation": "raw pixels", "version": VERSION, "views": seen.digest,
            "evaluate": of.evaluate.model_dump(mode="json"),
        }  # fmt: skip
        name = store.key(dependencies)

        def write(folder: Path, of=of, seen=seen) -> None:
            evaluate_run(Pixels(), seen, of, seed=0).to_csv(folder / "rows.csv", index=False)

        entry = store.find("references", name) or store.add("references", name, dependencies, write)
        found = pd.read_csv(entry / "rows.csv")
        top1 = found.loc[(found["metric"] == "top1") & (found["objects"] == "all"), "value"].item()
        rows += [(of.dataset, "raw pixels", top1), (of.dataset, "chance", 100 / len(seen.classes))]
    return pd.DataFrame(rows, columns=["dataset", "method", "value"])


def main(folder: str) -> None:
    """Run all of it, and print and write how many images each class has in each split.

    Raises FileNotFoundError if there is no such folder and ValueError for faulty images, before anything is trained; a
    notebook that fails ends the program.
    """
    if not Path(folder).exists():
        raise FileNotFoundError(f'"{folder}" does not exist; name a folder or an archive of images.')
    params = changed(Path(folder))
    prepared = prepare(params, WORKSPACE)
    counts = plotting.markdown(load_sources(prepared.augment).counts.reset_index(names="class"))
    print(counts)
    out, spent = Path("results", NAME).resolve(), {}
    os.chdir(WORKSPACE)
    for arguments in NOTEBOOKS:
        start = time.monotonic()
        if arguments == NOTEBOOKS[-1]:
            simclr = [of for of in prepared.study("augmentations") if of.method == "simclr"]
            found = references(simclr, study.views_of_study("augmentations", simclr))
            found.to_csv("build/evaluations/augmentations/references.csv", index=False)
        run.main(arguments)
        spent[arguments[0]] = time.monotonic() - start
    shutil.copytree("results/33_augmentation_tables", out, dirs_exist_ok=True)
    device = params["device"]
    lines = [
        "# The run behind these tables", "", "    python -m lib photographs <folder or archive of images>", "",
        f"{params['augment']['images']:,} images at most, seeds {', '.join(map(str, params['cifar']['seeds']))}, "
        f"profile {params['profile']}, {device['accelerator']}, jobs {device['jobs']}, {os.cpu_count()} cores. "
        f"Seconds: {', '.join(f'{name} {seconds:.0f}' for name, seconds in spent.items())}; in all "
        f"{sum(spent.values()) / 60:.0f} min. Settings: `params.yaml`, changed as its section `cifar` says.",
        "", "Images of each class in each split:", "", counts,
    ]  # fmt: skip
    (out / "run.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
