"""Runs the notebook of one stage of dvc.yaml, with exactly the parameters which that stage declares.

    python -m lib.pipeline.run <stage> [item=value ...]        # items: those of the stage's matrix

From dvc.yaml it takes the notebook (the stage's dependency under notebooks/), its declared `params` and the place of
the executed copy (its output under build/notebooks/).  A declared section reaches the notebook as a variable of that
name, typed as lib/pipeline/settings.py says; `runs.${item.run}` reaches it as `runs` holding that one run; each item as a
variable of its own.  The executed copy has the same bytes whenever the same work gave the same results, so that DVC
can tell; and nothing that a failed run made stays where a finished result would be.
"""

import ast
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbformat import NotebookNode
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from traitlets.config import Config

from lib.pipeline import settings as schema

SCRATCH = Path("build/.scratch")


def stage_of(pipeline: Mapping, name: str, items: Mapping[str, str]) -> dict[str, Any]:
    """What dvc.yaml says of a stage: its `notebook`, `executed` copy, `params` (list) and `outs` (list, paths).

    Raises ValueError if there is no such stage or the items are not those of its matrix.
    """
    stages = pipeline.get("stages", {})
    if name not in stages:
        raise ValueError(f"dvc.yaml has no stage {name!r}; it has: {', '.join(stages)}.")
    stage = stages[name]
    if set(items) != set(stage.get("matrix", {})):
        usage = " ".join([name, *(f"{item}=..." for item in stage.get("matrix", {}))])
        raise ValueError(f"Stage {name} was given the items {sorted(items)}; usage: python -m lib.pipeline.run {usage}")

    def entries(kind: str) -> list[str]:
        """Entries of one kind, `${item.x}` filled in; an entry with options is a mapping of one key."""
        found = [entry if isinstance(entry, str) else next(iter(entry)) for entry in stage.get(kind, [])]
        return [re.sub(r"\$\{item\.(\w+)\}", lambda match: items[match[1]], entry) for entry in found]

    outs = [path for kind in ("outs", "metrics", "plots") for path in entries(kind)]
    notebooks = [path for path in entries("deps") if path.startswith("notebooks/")]
    executed = [path for path in outs if path.startswith("build/notebooks/")]
    if len(notebooks) != 1 or len(executed) != 1:
        raise ValueError(
            f"Stage {name} in dvc.yaml must have one dependency under notebooks/ and one output under "
            f"build/notebooks/; it has {len(notebooks)} and {len(executed)}."
        )
    return {"notebook": notebooks[0], "executed": executed[0], "params": entries("params"), "outs": outs}


def declared_values(settings: Mapping[str, Any], declared: list[str], items: Mapping[str, str]) -> dict[str, Any]:
    """Variables for the notebook: one per top-level section among the declared dotted keys, one per item."""
    values: dict[str, Any] = dict(items)
    for key in declared:
        *path, last = key.split(".")
        source, target = settings, values
        for part in [*path, last]:
            if not isinstance(source, Mapping) or part not in source:
                raise ValueError(f"dvc.yaml declares the parameter {key!r}, which params.yaml does not have.")
            source = source[part]
        for part in path:
            target = target.setdefault(part, {})
        target[last] = source
    return values


def parameter_names(notebook: NotebookNode) -> list[str]:
    """Names assigned at the top level of the cell tagged `parameters`; none without such a cell."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    names = []
    for node in ast.parse("\n".join(cell.source for cell in cells)).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def check_names(path: str, names: list[str], values: Mapping[str, Any]) -> None:
    """Raises ValueError unless the notebook's parameters are those which it will be given."""
    missing, undeclared = sorted(set(values) - set(names)), sorted(set(names) - set(values))
    if missing or undeclared:
        faults = [f"lacks {', '.join(missing)}, which its stage in dvc.yaml declares"] * bool(missing)
        faults += [f"has {', '.join(undeclared)}, which its stage does not declare"] * bool(undeclared)
        raise ValueError(f"The cell tagged parameters in {path} {' and '.join(faults)}; make the two agree.")


def kernel_environment(threads: int) -> dict[str, str | None]:
    """Variables that must stand before the kernel starts; None removes one."""
    count = str(threads)
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")])),
        "PYTHONHASHSEED": "0",
        # The order of a sum, hence its last bits, depends on the number of threads.
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # Figures go into the notebook, and the kernel is this Python, not one of the user's own.
        "MPLBACKEND": None,
        "JUPYTER_PATH": None,
        "JUPYTER_PREFER_ENV_PATH": "1",
    }


def normalize(notebook: NotebookNode) -> NotebookNode:
    """Takes out, in place, what differs between two equal runs: times, random ids, progress bars, versions."""
    notebook.metadata = NotebookNode(kernelspec=notebook.metadata.get("kernelspec", {}))
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.id = "injected-parameters"
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            outputs: list[NotebookNode] = []
            for out in cell.outputs:
                if out.get("name") == "stderr":
                    continue
                if out.output_type == "stream" and outputs and outputs[-1].output_type == "stream":
                    outputs[-1].text += out.text
                else:
                    outputs.append(out)
            cell.outputs = outputs
    return notebook


def run(name: str, items: Mapping[str, str]) -> Path:
    """Executes a stage's notebook in the current folder, which holds dvc.yaml; returns the executed copy's path.

    Raises FileNotFoundError or ValueError before anything is computed if the files do not fit together, and
    papermill's PapermillExecutionError if a cell fails; then the outputs of the failed run are gone and the notebook
    as far as it got is in build/.scratch/failed/.
    """
    settings = schema.load()
    try:
        pipeline = YAML(typ="safe", pure=True).load(Path("dvc.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError("There is no dvc.yaml here; start the command in the repository's folder.") from None
    except YAMLError as error:
        raise ValueError(f"dvc.yaml cannot be read: {' '.join(str(error).split())}") from None
    stage = stage_of(pipeline, name, items)
    values = declared_values(schema.to_dict(settings), stage["params"], items)
    if not Path(stage["notebook"]).is_file():
        raise FileNotFoundError(f"{stage['notebook']}, the notebook of stage {name}, does not exist.")
    check_names(stage["notebook"], parameter_names(nbformat.read(stage["notebook"], as_version=4)), values)

    executed = Path(stage["executed"])
    partial, failed = SCRATCH / "running" / executed.name, SCRATCH / "failed" / executed.name
    for folder in (partial.parent, failed.parent, *(Path(path).parent for path in stage["outs"])):
        folder.mkdir(parents=True, exist_ok=True)
    # Without `device` among its parameters a stage must not depend on it, so it gets one thread.
    for variable, value in kernel_environment(settings.device.threads if "device" in values else 1).items():
        os.environ.pop(variable, None) if value is None else os.environ.update({variable: value})

    before = _files(stage["outs"])
    try:
        papermill.execute_notebook(
            stage["notebook"],
            partial,
            parameters=values,
            kernel_name="python3",
            language="python",
            progress_bar=False,  # the bars are the notebook's own, passed on raw so that each redraws in place
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            start_timeout=300,
            autosave_cell_every=30,
            record_timing=False,
            coalesce_streams=True,
            config=Config(KernelManager={"transport": "ipc"}),  # nobody else on the machine can listen in
        )
        absent = [path for path in stage["outs"] if path != stage["executed"] and not Path(path).exists()]
        if absent:
            raise ValueError(f"{stage['notebook']} ended without making {', '.join(absent)}.")
    except BaseException:
        for path, stamp in _files(stage["outs"]).items():
            if before.get(path) != stamp:
                path.unlink()
        for path in map(Path, stage["outs"]):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        if partial.exists():
            partial.replace(failed)
            print(f"\nThe notebook as far as it got: {failed}", file=sys.stderr)
        raise
    notebook = normalize(nbformat.read(partial, as_version=4))
    nbformat.write(notebook, partial)
    partial.replace(executed)
    failed.unlink(missing_ok=True)
    return executed


def _files(paths: list[str]) -> dict[Path, tuple[int, int]]:
    """The files that stand at or below the paths, each with a stamp that changes when it is written."""
    files = [file for path in map(Path, paths) for file in (path.rglob("*") if path.is_dir() else [path])]
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files if file.is_file()}


def main(arguments: list[str]) -> None:
    name, items = (arguments or [""])[0], dict(argument.partition("=")[::2] for argument in arguments[1:])
    if not name or not all(items.values()):
        sys.exit("Usage: python -m lib.pipeline.run <stage> [item=value ...]")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
    title = " ".join([name, *arguments[1:]])
    try:
        executed = run(name, items)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"Stage {title} did not run to its end: {error}")
    except papermill.PapermillExecutionError as error:
        sys.exit(f"Stage {title} failed.\n{error.ename}: {' '.join(error.evalue.split())}")
    except KeyboardInterrupt:
        sys.exit(f"Stage {title} was interrupted.")
    print(f"Stage {title} is done: {executed}")


if __name__ == "__main__":
    main(sys.argv[1:])
