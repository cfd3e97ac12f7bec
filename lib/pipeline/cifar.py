"""Section 4.4 on real photographs, beside the pipeline: CIFAR-10 from a folder of images, or an archive of it.

    python -m lib.pipeline.cifar <folder or .tar.xz>        # writes results/cifar10-jpeg/

Runs notebook 30 for each combination and then notebook 33, with the settings of params.yaml, changed as its section
`cifar` says. What the images must look like: `lib.data.augment.load_sources`. Executed notebooks and evaluations go to
build/cifar10-jpeg/; the images themselves are copied nowhere. An interrupted run goes on from its checkpoints.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import papermill
from ruamel.yaml import YAML
from traitlets.config import Config

from lib.pipeline import settings as schema
from lib.pipeline import run
from lib.data.augment import COMBINATIONS

NAME = "cifar10-jpeg"


def settings(root: str) -> dict[str, Any]:
    """params.yaml as plain dicts, with the changes of the run on photographs; checked."""
    changed = schema.to_dict(schema.load())
    spec = changed["cifar"]
    changed["augment"].update(name=NAME, root=str(Path(root).resolve()), results=NAME, images=spec["images"])
    limits = {name: spec[name] for name in ("train_images", "validation_images", "test_images")}
    names = [name for name in changed["runs"] if name.startswith("augmented-")]
    for run_ in (changed["runs"][name] for name in names):
        steps = spec["contextssl_steps" if run_["method"] == "contextssl" else "baseline_steps"]
        run_.update(dataset=NAME, seeds=spec["seeds"])
        run_["overrides"].setdefault("pretrain", {})["steps"] = steps
        run_["overrides"].setdefault("evaluate", {}).update(limits)
    params = schema.from_dict(changed)
    for name in names:
        schema.resolve(params, name)
    return changed


def execute(stage_name: str, items: dict[str, str], changed: dict[str, Any]) -> float:
    """Run a stage's notebook with the changed settings; returns the seconds it took."""
    pipeline = YAML(typ="safe", pure=True).load(Path("dvc.yaml").read_text(encoding="utf-8"))
    stage = run.stage_of(pipeline, stage_name, items)
    executed = Path("build", NAME, "notebooks", Path(stage["executed"]).name)
    executed.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    papermill.execute_notebook(
        stage["notebook"], executed, parameters=run.declared_values(changed, stage["params"], items),
        kernel_name="python3", language="python", progress_bar=False, stdout_file=sys.stdout, stderr_file=sys.stderr,
        config=Config(KernelManager={"transport": "ipc"}),  # as in lib/pipeline/run.py
    )  # fmt: skip
    return time.monotonic() - start


def main(arguments: list[str]) -> None:
    if len(arguments) != 1 or not Path(arguments[0]).exists():
        found = f"; {arguments[0]} does not exist" if len(arguments) == 1 else ""
        sys.exit(f"Usage: python -m lib.pipeline.cifar <folder or archive of images>{found}.")
    try:
        changed = settings(arguments[0])
        for variable, value in run.kernel_environment(changed["device"]["threads"]).items():
            os.environ.pop(variable, None) if value is None else os.environ.update({variable: value})
        spent = {c: execute("augmentations", {"combination": c}, changed) for c in COMBINATIONS}
        spent["tables"] = execute("augmentation_tables", {}, changed)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
    except papermill.PapermillExecutionError as error:
        sys.exit(f"{error.ename}: {' '.join(error.evalue.split())}")
    device = changed["device"]
    lines = [
        "# The run behind these tables", "",
        "    python -m lib.pipeline.cifar <folder or archive of images>", "",
        f"{changed['augment']['images']:,} images at most, profile {changed['profile']}, "
        f"{device['accelerator']} with {device['threads']} threads, {os.cpu_count()} cores. "
        f"Seconds: {', '.join(f'{name} {seconds:.0f}' for name, seconds in spent.items())}; "
        f"in all {sum(spent.values()) / 60:.0f} min. Settings: `params.yaml`, changed as its section `cifar` says.",
    ]  # fmt: skip
    Path("results", NAME, "run.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
