"""The settings of the compendium: a strict schema of params.yaml and its loader.

Each section of the file is one frozen dataclass below; a field's annotation is its whole rule (type, range, choices).
Anything else in the file (an unknown key, a missing key, a value of another type or out of range) is a ValueError of
one sentence that names the dotted key, what was found and what to write instead.  What each setting means, its unit
and its source in the paper stand beside it in the profiles.

    python -m lib.pipeline.settings use ci        # makes profiles/ci.yaml the params.yaml
"""

import dataclasses
import difflib
import math
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

PROFILES = ("ci", "laptop", "paper")


class Range(NamedTuple):
    """Allowed interval of a number: at_least <= x <= at_most, above < x < below; None leaves a side open."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        words = {"at_least": "at least", "at_most": "at most", "above": "above", "below": "below"}
        return " and ".join(f"{words[side]} {limit:g}" for side, limit in self._asdict().items() if limit is not None)


Count = Annotated[int, Range(at_least=1)]
Natural = Annotated[int, Range(at_least=0)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(at_least=0)]
Share = Annotated[float, Range(at_least=0, at_most=1)]
Dataset = Literal[
    "3diebench-mini", "3diebench", "augmented-mini", "cifar10", "cifar10-jpeg", "adult", "mimic3-synthetic", "mimic3"
]
Group = Literal["rotation", "color", "crop", "blur", "gender", "none"]


@dataclass(frozen=True)
class Device:
    """Where training runs (Lightning Fabric) and how many threads the processor's kernels use."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    devices: Count
    strategy: Literal["auto", "ddp_notebook"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    threads: Count


@dataclass(frozen=True)
class Split:
    """Shares of the objects; they sum to 1."""

    train: Positive
    validation: Positive
    test: Positive


@dataclass(frozen=True)
class Data:
    """The views: the rendered miniature or the real 3DIEBench (appendix B.1)."""

    name: Literal["3diebench-mini", "3diebench"]
    root: str
    image_size: Annotated[int, Range(at_least=8)]
    supersample: Count
    parametric_objects: Annotated[int, Range(at_least=0, at_most=3000)]
    real_types: tuple[str, ...]
    real_variants: Annotated[int, Range(at_least=1, at_most=12)]
    views: Annotated[int, Range(at_least=2, at_most=50)]
    rotation_range: Annotated[float, Range(above=0, at_most=math.pi)]
    palette: Literal["family", "object"]
    light_theta_max: Annotated[float, Range(above=0, at_most=math.pi / 2)]
    camera_distance: Annotated[float, Range(above=1.15)]
    camera_elevation: Annotated[float, Range(above=-math.pi / 2, below=math.pi / 2)]
    field_of_view: Annotated[float, Range(above=0, below=math.pi)]
    floor_saturation: Share
    light_saturation: Share
    split: Split


@dataclass(frozen=True)
class Model:
    """Encoder, context transformer and heads (section 3.2, appendix B.5)."""

    encoder: Literal["small-cnn", "resnet18", "mlp"]
    pretrained: bool
    feature_dim: Count
    width: Count
    layers: Count
    heads: Count
    output_dim: Count
    block_size: Annotated[int, Range(at_least=2)]
    action_read_in: Literal["balanced", "paper"]
    auxiliary_hidden: Count
    projector_dim: Count
    projector_out: Annotated[int, Range(at_least=2)]


@dataclass(frozen=True)
class Context:
    """What a context is made of and what is hidden in it; the released code's readings are switches (section 3.2)."""

    mask_probability: Share
    mask_probability_end: Share
    mask_unit: Literal["token", "pair"]
    mask_per_layer: bool
    negatives: Literal["context", "batch"]
    group_per: Literal["context", "batch"]
    auxiliary_tokens: Literal["x", "y", "both"]
    pairs_per_object: Count


@dataclass(frozen=True)
class Pretrain:
    """Losses and optimization of one run (section 3.2, appendix B.5)."""

    steps: Count
    objects_per_step: Count
    views_per_object: Annotated[int, Range(at_least=2)]
    contexts_per_step: Count
    learning_rate: Positive
    weight_decay: NotNegative
    warmup_fraction: Annotated[float, Range(at_least=0, below=1)]
    temperature: Positive
    info_nce_weight: NotNegative
    auxiliary_weight: NotNegative
    label_weight: NotNegative
    label_shift: Count
    gradient_clip: Positive
    checkpoint_every: Count


@dataclass(frozen=True)
class Baselines:
    """Weights of the losses of VICReg, VICReg+ and SIE (appendix B.5)."""

    invariance_weight: NotNegative
    variance_weight: NotNegative
    covariance_weight: NotNegative
    equivariance_weight: NotNegative


@dataclass(frozen=True)
class Evaluate:
    """Probes, retrieval and the contexts they are read under (section 4)."""

    context_kinds: tuple[Group, ...]
    context_lengths: tuple[Natural, ...]
    context_source: Literal["train", "test"]
    context_seed: Natural
    train_images: Count
    validation_images: Count
    test_images: Count
    retrieval_objects: Count
    probes: tuple[Literal["paper", "linear", "ridge", "strong"], ...]
    probe_widths: tuple[Count, ...]
    probe_epochs: Count
    probe_linear_epochs: Count
    probe_batch: Count
    probe_learning_rate: Positive
    ridge_penalties: tuple[Positive, ...]
    sample_seed: Natural


@dataclass(frozen=True)
class Augment:
    """Source images and ranges of hand-crafted augmentations (section 4.4, appendix B.3); see lib/data/augment.py."""

    name: Literal["augmented-mini", "cifar10", "cifar10-jpeg"]
    root: str
    results: str
    images: Annotated[int, Range(at_least=30)]
    views: Annotated[int, Range(at_least=2)]
    seed: Natural
    crop_area: Annotated[float, Range(above=0, below=1)]
    crop_ratio: Annotated[float, Range(at_least=1)]
    blur_sigma: Positive
    brightness: Annotated[float, Range(above=1)]
    contrast: Annotated[float, Range(above=1)]
    saturation: Annotated[float, Range(above=1)]
    hue: Annotated[float, Range(above=0, at_most=0.5)]


@dataclass(frozen=True)
class Cifar:
    """What differs where hand-crafted augmentations are run on photographs, beside the pipeline; see lib/pipeline/cifar.py."""

    images: Annotated[int, Range(at_least=30)]
    seeds: tuple[Natural, ...]
    contextssl_steps: Count
    baseline_steps: Count
    train_images: Count
    validation_images: Count
    test_images: Count


@dataclass(frozen=True)
class Mimic:
    """Hospital records: the folder of the real MIMIC-III, or the size of the synthetic set; see lib/people/mimic.py."""

    root: str
    patients: Annotated[int, Range(at_least=200)]
    seed: Natural


@dataclass(frozen=True)
class Run:
    """One entry of the registry: what is trained on what, how often, and where it departs from the sections."""

    dataset: Dataset
    method: Literal["contextssl", "simclr", "vicreg", "simclr-plus", "vicreg-plus", "equimod", "sen", "sie"]
    groups: tuple[Group, ...]
    seeds: tuple[Natural, ...]
    overrides: dict


@dataclass(frozen=True)
class Select:
    """What the pipeline runs, and which of those each section shows."""

    runs: tuple[str, ...]
    main: tuple[str, ...]
    masking: tuple[str, ...]
    auxiliary: tuple[str, ...]
    labels: tuple[str, ...]
    single: tuple[str, ...]


@dataclass(frozen=True)
class Params:
    """All of params.yaml; in a stage's notebook the sections which the stage does not declare are None."""

    profile: Literal["ci", "laptop", "paper"]
    device: Device
    data: Data
    model: Model
    context: Context
    pretrain: Pretrain
    baselines: Baselines
    evaluate: Evaluate
    augment: Augment
    cifar: Cifar
    mimic: Mimic
    runs: dict[str, Run]
    select: Select


SECTIONS = get_type_hints(Params, include_extras=True)
OVERRIDABLE = ("model", "context", "pretrain", "baselines", "evaluate")


def load(path: str | Path = "params.yaml") -> Params:
    """Reads and checks a whole file, every run with its overrides merged included.

    Raises FileNotFoundError if there is no such file, ValueError at the first thing in it that does not hold.
    """
    path = Path(path)
    try:
        mapping = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        cure = f"run `python -m lib.pipeline.settings use {'|'.join(PROFILES)}` in the repository's folder"
        raise FileNotFoundError(f"{path} does not exist; {cure}.") from None
    except YAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        problem = (isinstance(error, MarkedYAMLError) and error.problem) or "it is no YAML"
        raise ValueError(f"{path} cannot be read{line}: {' '.join(problem.split())}.") from None
    try:
        params = _build(Params, mapping, "")
        for name in params.runs:
            resolve(params, name)
        _check_whole(params)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return params


def from_dict(mapping: Mapping[str, Any]) -> Params:
    """Params from the sections that a notebook was given; the others are None.  Raises ValueError as `load` does."""
    unknown = [name for name in mapping if name not in SECTIONS]
    if unknown:
        raise ValueError(_unknown(unknown[0], unknown[0], SECTIONS, "section"))
    return Params(**{name: _convert(mapping[name], kind, name) if name in mapping else None
                     for name, kind in SECTIONS.items()})  # fmt: skip


def resolve(params: Params, run: str) -> Params:
    """The same params with the overrides of `run` merged into their sections.

    Raises ValueError if there is no such run, an override is unknown or wrong, or the merged sections do not fit.
    """
    if run not in params.runs:
        raise ValueError(_unknown(run, run, params.runs, "run"))
    key, sections = f"runs.{run}.overrides", {}
    for name, changes in params.runs[run].overrides.items():
        if name not in OVERRIDABLE:
            raise ValueError(_unknown(name, f"{key}.{name}", OVERRIDABLE, "section to override"))
        merged = _replace(SECTIONS[name], getattr(params, name), changes, f"{key}.{name}")
        if getattr(params, name) is not None:
            sections[name] = merged
    merged = dataclasses.replace(params, **sections)
    _check_run(merged, run)
    return merged


def to_dict(params: Params) -> dict[str, Any]:
    """Plain dicts, lists and scalars, typed as declared (1 for a float is 1.0)."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value

    return plain(dataclasses.asdict(params))


def _check_run(params: Params, run: str) -> None:
    """What no single key can say, on the merged sections of one run; a section that is None is not looked at."""
    spec, key = params.runs[run], f"runs.{run}"
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", run):
        raise ValueError(f"{key}: the name names stages and files; use lower-case letters, digits and single hyphens.")
    for field in ("groups", "seeds"):
        values = getattr(spec, field)
        if len(set(values)) < len(values):
            raise ValueError(f"{key}.{field} is {list(values)}; name each one once.")
    if not spec.seeds:
        raise ValueError(f"{key}.seeds is empty; give at least one seed, for instance [0].")
    if spec.method in ("contextssl", "equimod", "sen", "sie") and not spec.groups:
        raise ValueError(f"{key}.groups is empty; {spec.method} needs at least one of rotation, color.")
    if "none" in spec.groups and spec.method != "contextssl":
        raise ValueError(f"{key}.groups has none, the group of contexts without actions; only contextssl knows it.")
    if spec.groups and spec.method in ("simclr", "vicreg", "simclr-plus", "vicreg-plus"):
        raise ValueError(f"{key}.groups is {list(spec.groups)}; {spec.method} takes no action, so give [].")
    try:
        _check_sections(params)
    except ValueError as error:
        raise ValueError(f"{error} (with the overrides of run {run})" if spec.overrides else str(error)) from None


def _check_sections(params: Params) -> None:
    data, model, context, pretrain = params.data, params.model, params.context, params.pretrain
    if model:
        if model.width % model.heads:
            raise ValueError(f"model.width is {model.width}; it must be a multiple of model.heads = {model.heads}.")
        if model.block_size % 2:
            raise ValueError(f"model.block_size is {model.block_size}; a context is made of pairs, so make it even.")
        if model.encoder == "resnet18" and model.feature_dim != 512:
            raise ValueError(f"model.feature_dim is {model.feature_dim}; it must be 512, which resnet18 gives.")
        if model.pretrained and model.encoder != "resnet18":
            raise ValueError(f"model.pretrained is true; it must be false for {model.encoder}, which has none.")
    if model and data and model.encoder == "small-cnn" and data.image_size % 16:
        raise ValueError(f"data.image_size is {data.image_size}; it must be a multiple of 16 for small-cnn.")
    if context and pretrain and 2 * context.pairs_per_object > pretrain.views_per_object:
        raise ValueError(
            f"context.pairs_per_object is {context.pairs_per_object}, which takes {2 * context.pairs_per_object} views "
            f"of an object, but pretrain.views_per_object is {pretrain.views_per_object}; lower one or raise the other."
        )
    if data and pretrain and pretrain.views_per_object > data.views:
        raise ValueError(
            f"pretrain.views_per_object is {pretrain.views_per_object}; it must be at most data.views = {data.views}."
        )
    if model and context:
        pairs, each = model.block_size // 2, context.pairs_per_object
        if pairs % each:
            raise ValueError(f"context.pairs_per_object is {each}; it must divide model.block_size / 2 = {pairs}.")
        if pretrain and pairs // each > pretrain.objects_per_step:
            raise ValueError(
                f"pretrain.objects_per_step is {pretrain.objects_per_step}, but a context of {pairs} pairs, {each} of "
                f"each object, needs {pairs // each}; raise it."
            )
    if params.evaluate:
        _check_lengths(params.evaluate.context_lengths, model)
        for field in ("context_kinds", "probes"):
            names = getattr(params.evaluate, field)
            if not names or len(set(names)) < len(names):
                raise ValueError(f"evaluate.{field} is {list(names)}; name at least one, and each once.")


def _check_lengths(lengths: tuple[int, ...], model: Model | None) -> None:
    key = "evaluate.context_lengths"
    if odd := [length for length in lengths if length % 2]:
        raise ValueError(f"{key} has {odd[0]}; a context is made of pairs of tokens, so each length must be even.")
    if not lengths or lengths[0] != 0 or list(lengths) != sorted(set(lengths)):
        raise ValueError(f"{key} is {list(lengths)}; it must start with 0 and rise.")
    if model and lengths[-1] > model.block_size - 2:
        raise ValueError(
            f"{key} has {lengths[-1]}, but model.block_size = {model.block_size} leaves room for at most "
            f"{model.block_size - 2} tokens beside the pair asked about; shorten it or enlarge the block."
        )


def _check_whole(params: Params) -> None:
    """Rules between sections that no run overrides."""
    data, shares = params.data, dataclasses.astuple(params.data.split)
    if not math.isclose(sum(shares), 1):
        raise ValueError(f"data.split sums to {sum(shares):g}; it must sum to 1.")
    if data.name == "3diebench-mini":
        if data.views > 24:
            raise ValueError(f"data.views is {data.views}; it must be at most 24, the views pinned for the miniature.")
        if not data.parametric_objects and not data.real_types:
            raise ValueError("data.parametric_objects is 0 and data.real_types is empty; there must be some objects.")
    for name, spec in params.runs.items():
        if spec.dataset in get_args(get_type_hints(Augment)["name"]) and spec.dataset != params.augment.name:
            raise ValueError(
                f"runs.{name}.dataset is {spec.dataset}, but augment.name is {params.augment.name}; change one of them."
            )
    for name, spec in params.runs.items():
        if spec.dataset == "mimic3" and not params.mimic.root:
            raise ValueError(f"runs.{name}.dataset is mimic3, but mimic.root is empty; name the folder.")
    if not params.select.runs:
        raise ValueError(f"select.runs is empty; name at least one of: {', '.join(params.runs)}.")
    for name in params.select.runs:
        if name not in params.runs:
            raise ValueError(_unknown(name, name, params.runs, "run in select.runs"))
    for section, names in dataclasses.asdict(params.select).items():
        if len(set(names)) < len(names):
            raise ValueError(f"select.{section} is {list(names)}; name each run once.")
        if missing := [name for name in names if name not in params.select.runs]:
            raise ValueError(f"select.{section} has {missing[0]}, which select.runs lacks; add it there.")
    for name in params.select.runs:
        if params.runs[name].dataset != data.name:
            raise ValueError(
                f"runs.{name}.dataset is {params.runs[name].dataset}, but data.name is {data.name}; "
                "change one of them or take the run out of select.runs."
            )


def _build(cls: type, mapping: Any, key: str) -> Any:
    """An instance of dataclass `cls`, every field present and converted."""
    hints, prefix = get_type_hints(cls, include_extras=True), f"{key}." if key else ""
    changes = _fields(cls, mapping, key)
    for name in hints:
        if name not in changes:
            raise ValueError(f"{prefix}{name} is missing; copy its line from one of profiles/*.yaml.")
    return cls(**changes)


def _replace(cls: type, section: Any, mapping: Any, key: str) -> Any:
    """`section` with some fields changed; a nested section is merged in turn.  Without a section, the check alone."""
    hints = get_type_hints(cls, include_extras=True)
    nested = {name: hints[name] for name in _mapping(mapping, key)
              if name in hints and dataclasses.is_dataclass(hints[name])}  # fmt: skip
    changes = _fields(cls, {name: value for name, value in mapping.items() if name not in nested}, key)
    for name, kind in nested.items():
        changes[name] = _replace(kind, section and getattr(section, name), mapping[name], f"{key}.{name}")
    return section and dataclasses.replace(section, **changes)


def _fields(cls: type, mapping: Any, key: str) -> dict[str, Any]:
    """The given fields of dataclass `cls`, converted; an unknown one is an error."""
    hints, prefix = get_type_hints(cls, include_extras=True), f"{key}." if key else ""
    for name in _mapping(mapping, key):
        if name not in hints:
            raise ValueError(_unknown(str(name), f"{prefix}{name}", hints, "key"))
    return {name: _convert(value, hints[name], f"{prefix}{name}") for name, value in mapping.items()}


def _mapping(value: Any, key: str) -> Mapping:
    if not isinstance(value, Mapping):
        raise ValueError(f"{key or 'the file'} is {_found(value)}; it must be a mapping of keys to values.")
    return value


def _convert(value: Any, kind: Any, key: str) -> Any:
    """`value` as `kind`, or a ValueError of one sentence."""
    if get_origin(kind) is Annotated:
        base, allowed = get_args(kind)
        value = _convert(value, base, key)
        if not allowed.holds(value):
            raise ValueError(f"{key} is {value:g}; it must be {allowed}.")
        return value
    if get_origin(kind) is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in get_args(kind)):
            choices = ", ".join(map(str, get_args(kind)))
            raise ValueError(f"{key} is {_found(value)}; choose one of: {choices}{_hint(value, get_args(kind))}.")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{key} is {_found(value)}; it must be a list, in square brackets.")
        return tuple(_convert(item, get_args(kind)[0], f"{key}[{index}]") for index, item in enumerate(value))
    if get_origin(kind) is dict:
        return {name: _convert(item, get_args(kind)[1], f"{key}.{name}") for name, item in _mapping(value, key).items()}
    if kind is dict:
        return dict(_mapping(value, key))
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, key)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        needed = {
            bool: "true or false",
            int: "a whole number",
            float: "a number such as 0.5 or 5e-5",
            str: 'text; put it in quotes, "" for none',
        }[kind]
        unquote = ", without quotes" if isinstance(value, str) and kind is not str else ""
        raise ValueError(f"{key} is {_found(value)}; it must be {needed}{unquote}.")
    return value


def _found(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, (bool, str)):
        return f"the text {value!r}" if isinstance(value, str) else str(value).lower()
    return f"the mapping {dict(value)}" if isinstance(value, Mapping) else str(value)


def _unknown(name: str, key: str, known: Any, what: str) -> str:
    return f"{key!r} is an unknown {what}{_hint(name, known) or '; known are: ' + ', '.join(known)}."


def _hint(name: Any, known: Any) -> str:
    close = difflib.get_close_matches(str(name), [str(item) for item in known], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def use(profile: str) -> None:
    """Makes a profile the params.yaml; a params.yaml with edits of its own is kept as params.yaml.orig."""
    if profile not in PROFILES:
        raise ValueError(_unknown(profile, profile, PROFILES, "profile"))
    source, target = Path("profiles") / f"{profile}.yaml", Path("params.yaml")
    load(source)
    pristine = [Path("profiles", f"{name}.yaml").read_bytes() for name in PROFILES]
    if target.exists() and target.read_bytes() not in pristine:
        shutil.copyfile(target, "params.yaml.orig")
        print("params.yaml had edits of its own; they are kept in params.yaml.orig.")
    shutil.copyfile(source, target)
    print(f"params.yaml is now {source}; `dvc repro` rebuilds what changed.")


def main(arguments: list[str]) -> None:
    if len(arguments) != 2 or arguments[0] != "use":
        sys.exit(f"Usage: python -m lib.pipeline.settings use {'|'.join(PROFILES)}")
    try:
        use(arguments[1])
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
