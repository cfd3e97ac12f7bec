"""Runs the notebook of a stage of dvc.yaml, with exactly the parameters which that stage declares.

    python -m lib run 11_masking                # items of the stage stand behind: 03_pretrain study=main

A section of params.yaml that the stage declares reaches the notebook as a variable of that name, typed as
lib/pipeline/settings.py says; each item as a variable of its own.  The executed copy has the same bytes whenever the
same work gave the same results, so that DVC can tell, whatever matplotlib, IPython or Jupyter settings a user has; and
nothing that a failed run made stays where a finished result would be.
"""

import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from jupyter_client import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from traitlets.config import Config

from lib.pipeline import settings

SCRATCH = Path("build/.scratch")

#: Variables that must stand before a kernel starts; None removes one.
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    # One thread to a process: the order of a sum, hence its last bits, depends on the number of threads.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # Figures go into the notebook, and the kernel is this Python, not one of the user's own.
    "MPLBACKEND": None,
    "JUPYTER_PATH": None,
    "JUPYTER_PREFER_ENV_PATH": "1",
    # Nothing of the user's own runs in it: neither packages outside the environment nor startup files.
    "PYTHONNOUSERSITE": "1",
    "PYTHONSTARTUP": None,
    "PYTHONWARNINGS": None,
}


def stages(pipeline: Mapping, params: Mapping) -> dict[str, dict]:
    """The stages of dvc.yaml by their full names, ``pretrain@main``, with `foreach` written out.

    Each has ``cmd``, ``deps``, ``params`` and ``outs`` (paths of outs, metrics and plots).
    """
    found = {}
    for name, stage in pipeline["stages"].items():
        over, body = stage.get("foreach"), stage.get("do", stage)
        if isinstance(over, str):
            over = params[over.strip("${}")]
        entries = over.items() if isinstance(over, Mapping) else [(item, item) for item in over or [None]]
        for key, item in entries:
            filled = _filled(body, {"key": str(key), "item": str(item)})
            outs = [out for kind in ("outs", "metrics", "plots") for out in filled.get(kind, [])]
            found[name if over is None else f"{name}@{key}"] = {
                "cmd": filled["cmd"], "deps": filled.get("deps", []), "params": filled.get("params", []),
                "outs": [out if isinstance(out, str) else next(iter(out)) for out in outs],
            }  # fmt: skip
    return found


def _filled(value: Any, names: Mapping[str, str]) -> Any:
    """A part of a stage with ``${key}`` and ``${item}`` filled in."""
    if isinstance(value, Mapping):
        return {_filled(k, names): _filled(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, names) for v in value]
    return re.sub(r"\$\{(key|item)\}", lambda match: names[match[1]], value) if isinstance(value, str) else value


def stage_of(arguments: list[str], params: Mapping) -> dict:
    """The stage whose command is ``python -m lib run`` with these arguments.

    Raises ValueError if no stage of dvc.yaml has it, FileNotFoundError if there is no dvc.yaml.
    """
    try:
        pipeline = YAML(typ="safe", pure=True).load(Path("dvc.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError("There is no dvc.yaml here; start the command in the repository's folder.") from None
    except YAMLError as error:
        raise ValueError(f"dvc.yaml cannot be read: {' '.join(str(error).split())}") from None
    known = {}
    for stage in stages(pipeline, params).values():
        command, _, rest = stage["cmd"].partition("lib run ")
        known[rest] = stage
    if " ".join(arguments) not in known:
        listed = ", ".join(name for name in known if name)
        raise ValueError(f"No stage of dvc.yaml runs {' '.join(arguments)!r}; there is: {listed}.")
    return known[" ".join(arguments)]


def parameters_of(notebook: Path, stage: Mapping, items: Mapping[str, str], params: Mapping) -> dict[str, Any]:
    """What a notebook is given: each item, and each section that its stage declares.

    Raises ValueError unless these are the names in its cell tagged `parameters`.
    """
    if absent := [name for name in stage["params"] if name not in params]:
        raise ValueError(f"dvc.yaml declares the parameter {absent[0]!r}, which params.yaml does not have.")
    values = dict(items) | {name: params[name] for name in stage["params"]}
    names = set(papermill.inspect_notebook(str(notebook)))
    missing, undeclared = sorted(set(values) - names), sorted(names - set(values))
    if missing or undeclared:
        faults = [f"lacks {', '.join(missing)}, which its stage in dvc.yaml declares"] * bool(missing)
        faults += [f"has {', '.join(undeclared)}, which its stage does not declare"] * bool(undeclared)
        raise ValueError(f"The cell tagged parameters in {notebook} {' and '.join(faults)}; make the two agree.")
    return values


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


#: What the kernel's own machinery says, past its messages: a reader needs it only if the kernel dies.
_SAID = SCRATCH / "running" / f"kernel-{os.getpid()}.txt"


class _KernelManager(AsyncKernelManager):
    """Kernels that write there: one that is interrupted may print a traceback of its sockets as it ends."""

    async def start_kernel(self, **arguments: Any) -> None:
        with _SAID.open("w", encoding="utf-8") as said:
            await super().start_kernel(stderr=said, **arguments)


def execute(notebook: Path, executed: Path, parameters: Mapping[str, Any], outs: list[str]) -> None:
    """Execute a notebook in the current folder and write the executed copy.

    Raises papermill's PapermillExecutionError if a cell fails, nbclient's DeadKernelError if its process ends before
    the notebook does, ValueError if an output is missing at the end; then what the failed run wrote below `outs` is
    gone, and the notebook as far as it got is in build/.scratch/failed/.
    """
    partial, failed = SCRATCH / "running" / executed.name, SCRATCH / "failed" / executed.name
    for folder in (partial.parent, failed.parent, executed.parent):
        folder.mkdir(parents=True, exist_ok=True)
    # The user's own IPython folder may hold startup files and settings; this one has only what IPython puts there.
    folders = {"PYTHONPATH": os.getcwd(), "IPYTHONDIR": str((SCRATCH / "ipython").absolute())}
    for variable, value in (ENVIRONMENT | folders).items():
        os.environ.pop(variable, None) if value is None else os.environ.update({variable: value})

    before = _files(outs)
    try:
        papermill.execute_notebook(
            notebook,
            partial,
            parameters=dict(parameters),
            kernel_name="python3",
            language="python",
            progress_bar=False,  # the bars are the notebook's own, passed on raw so that each redraws in place
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            start_timeout=300,
            autosave_cell_every=30,
            record_timing=False,
            coalesce_streams=True,
            # Whatever matplotlibrc there is, a notebook starts from the defaults, and one that dies says where it was;
            # `import` would leave a name in it.
            extra_arguments=[
                "--IPKernelApp.exec_lines=__import__('matplotlib').rcdefaults();"
                "__import__('faulthandler').enable(__import__('sys').stderr)"
            ],
            kernel_manager_class=_KernelManager,
            config=Config(KernelManager={"transport": "ipc"}),  # nobody else on the machine can listen in
        )
        if absent := [path for path in outs if not Path(path).exists()]:
            raise ValueError(f"{notebook} ended without making {', '.join(absent)}.")
    except BaseException as error:
        if isinstance(error, DeadKernelError):
            print(f"\n{_SAID.read_text(encoding='utf-8')}", file=sys.stderr)
        for path, stamp in _files(outs).items():
            if before.get(path) != stamp:
                path.unlink()
        for folder in sorted((Path(path) for path in outs if Path(path).is_dir()), reverse=True):
            if not any(path.is_file() for path in folder.rglob("*")):
                _remove_empty(folder)
        if partial.exists():
            partial.replace(failed)
            print(f"\nThe notebook as far as it got: {failed}", file=sys.stderr)
        raise
    finally:
        _SAID.unlink(missing_ok=True)
    nbformat.write(normalize(nbformat.read(partial, as_version=4)), partial)
    partial.replace(executed)
    failed.unlink(missing_ok=True)


def _remove_empty(folder: Path) -> None:
    for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        inner.rmdir()
    folder.rmdir()


def _files(paths: list[str]) -> dict[Path, tuple[int, int]]:
    """The files that stand at or below the paths, each with a stamp that changes when it is written."""
    files = [file for path in map(Path, paths) for file in (path.rglob("*") if path.is_dir() else [path])]
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files if file.is_file()}


def run(arguments: list[str]) -> Path:
    """Run the notebook of the stage with these arguments; returns the executed copy's path.

    Raises FileNotFoundError or ValueError before anything is computed if the files do not fit together, and what
    `execute` raises.
    """
    name, items = arguments[0], dict(argument.split("=", 1) for argument in arguments[1:])
    params = settings.load().model_dump(mode="json")
    stage = stage_of(arguments, params)
    notebook = Path("notebooks") / f"{name}.ipynb"
    if not notebook.is_file():
        raise FileNotFoundError(f"{notebook} does not exist, but a stage of dvc.yaml runs it.")
    executed = next(Path(out) for out in stage["outs"] if out.startswith("build/notebooks/"))
    outs = [out for out in stage["outs"] if out != str(executed)]
    execute(notebook, executed, parameters_of(notebook, stage, items, params), outs)
    return executed


_interrupted = False


def _interrupt_kernel(*_: object) -> None:
    """Ctrl-C reaches the notebook, whose cell then fails like any other: one way to end, and one sentence."""
    global _interrupted
    first, _interrupted = not _interrupted, True
    children = psutil.Process().children()
    for child in children if first else ():
        child.send_signal(signal.SIGINT)
    if not children:
        raise KeyboardInterrupt


def main(arguments: list[str]) -> None:
    title = " ".join(arguments)
    signal.signal(signal.SIGINT, _interrupt_kernel)
    signal.signal(signal.SIGTERM, _interrupt_kernel)
    try:
        executed = run(arguments)
    except BaseException as error:
        if _interrupted:
            sys.exit(f"{title} was interrupted; the same command goes on where it stopped.")
        if isinstance(error, papermill.PapermillExecutionError):
            sys.exit(f"{title} failed.\n{error.ename}: {' '.join(error.evalue.split())}")
        if isinstance(error, DeadKernelError):
            sys.exit(
                f"{title}: its Python process died, most often because the memory was full; free some, and the "
                "same command goes on where it stopped."
            )
        if isinstance(error, (ValueError, FileNotFoundError)):
            sys.exit(f"{title} did not run to its end: {error}")
        raise
    print(f"{title} is done: {executed}")
