"""The diagnosis on real photographs, beside the pipeline: CIFAR-10 as a folder of images, or an archive of it.

    python -m lib essl-photographs FOLDER       # writes results/essl-cifar10-jpeg/

Notebook 41 as its stage runs it, but in build/essl-photographs, where the code is the repository's and params.yaml its
own: changed as its section `essl.photographs` says. So nothing of the pipeline is overwritten, and an interrupted run
goes on from what it has trained. What the images must look like: `lib.data.augment.load_sources`.
"""

import os
import shutil
import time
from pathlib import Path

from ruamel.yaml import YAML

from lib.pipeline import run
from lib.pipeline.photographs import prepare

WORKSPACE, OUT = Path("build/essl-photographs"), Path("results/essl-cifar10-jpeg")


def changed(images: Path) -> dict:
    """The repository's params.yaml as plain dicts, with the changes for photographs in a folder or archive."""
    params = YAML(typ="safe", pure=True).load(Path("params.yaml").read_text(encoding="utf-8"))
    essl = params["essl"]
    own = dict(essl["photographs"])
    essl["diagnosis"].update({key: own.pop(key) for key in ("transformations", "controls", "seeds", "steps")})
    essl["recipe"]["batch"] = own.pop("batch")
    essl.update(own, name="cifar10-jpeg", root=str(images.resolve()))
    return params


def main(folder: str) -> None:
    """Run it, and write figure, tables, rows and how they came about.

    Raises FileNotFoundError if there is no such folder; a notebook that fails ends the program.
    """
    if not Path(folder).exists():
        raise FileNotFoundError(f'"{folder}" does not exist; name a folder or an archive of images.')
    params, out = prepare(changed(Path(folder)), WORKSPACE), OUT.resolve()
    os.chdir(WORKSPACE)
    spec, start = params.essl, time.monotonic()
    run.main(["41_diagnosis"])
    shutil.copytree("results/41_diagnosis", out, dirs_exist_ok=True)
    shutil.copyfile("build/essl/essl-diagnosis/rows.csv", out / "rows.csv")
    lines = [
        "# The run behind these tables", "", "    python -m lib essl-photographs <folder or archive of images>", "",
        f"At most {spec.train_images:,} training, {spec.validation_images:,} validation and {spec.test_images:,} test "
        f"images, seeds {', '.join(map(str, spec.diagnosis.seeds))}, {spec.diagnosis.steps} steps; profile "
        f"{params.profile}, {os.cpu_count()} cores; {(time.monotonic() - start) / 60:.0f} min, without what was in "
        "the store before. Settings: `params.yaml`, changed as its section `essl.photographs` says.",
    ]  # fmt: skip
    (out / "run.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
