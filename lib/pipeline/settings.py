"""The settings of the compendium: a strict schema of params.yaml, its loader, and what a run is.

Each section of the file is one frozen model below; a field's annotation is its whole rule (type, range, choices).
Anything else in the file (an unknown key, a missing key, a value of another type or out of range) is a ValueError of
one sentence that names the dotted key, what was found and what to write instead. What each setting means, its unit
and its source in the paper stand beside it in the profiles.

A run is resolved in this order, the last one counting: the sections, the base's base, the base, the run.

    settings = load()                  # params.yaml
    run = settings.run("mask-090")     # run.pretrain.steps, run.context.mask_probability, run.seeds, ...
    runs = settings.study("masking")   # all runs of a study
"""

import difflib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, create_model
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

PROFILES = ("ci", "laptop", "paper")
PLAN = Path("build/plan")

Flag = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=1)]
Natural = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]

Method = Literal["contextssl", "simclr", "vicreg", "simclr-plus", "vicreg-plus", "equimod", "sen", "sie"]
Group = Literal["rotation", "color", "crop", "blur", "gender", "none"]
Task = Literal["individual", "relative", "classes"]
Shown = Literal["main", "masking", "auxiliary", "labels", "single", "augmentations", "adult", "mimic"]
#: Dataset -> the folder of build/data that holds it (or the study with stages of its own), the groups of its actions.
DATASETS = {
    "3diebench-mini": ("3diebench", ("rotation", "color")),
    "3diebench": ("3diebench", ("rotation", "color")),
    "crop-blur": ("augmented", ("crop", "blur")),
    "color-blur": ("augmented", ("color", "blur")),
    "crop-color": ("augmented", ("crop", "color")),
    "adult": ("adult", ("gender",)),
    "mimic3-synthetic": ("mimic", ("gender",)),
    "mimic3": ("mimic", ("gender",)),
}
#: Studies that have stages of their own and do not stand in `studies`.
PEOPLE = ("adult", "mimic")
EQUIVARIANT = ("equimod", "sen", "sie")
CONTEXTUAL = ("contextssl", "simclr-plus", "vicreg-plus")


class Section(BaseModel):
    """What every part of the file is: fixed once read, and with no key beside its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _jobs(value: Any) -> int | str:
    if value != "auto" and (type(value) is not int or value < 1):
        raise ValueError("it must be auto or a whole number from 1 upward")
    return value


class Device(Section):
    """Where training runs (Lightning Fabric), and how many tasks of one thread at a time."""

    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    devices: Count
    strategy: Literal["auto", "ddp_notebook"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    jobs: Annotated[int | str, PlainValidator(_jobs)]


class Split(Section):
    """Shares of the objects; they sum to 1."""

    train: Positive
    validation: Positive
    test: Positive


class Data(Section):
    """The views: the rendered miniature or the real 3DIEBench (appendix B.1)."""

    name: Literal["3diebench-mini", "3diebench"]
    root: str
    image_size: Annotated[Whole, Field(ge=8)]
    supersample: Count
    parametric_objects: Annotated[Whole, Field(ge=0, le=3000)]
    real_types: tuple[str, ...]
    real_variants: Annotated[Whole, Field(ge=1, le=12)]
    views: Annotated[Whole, Field(ge=2, le=50)]
    rotation_range: Annotated[Number, Field(gt=0, le=math.pi)]
    palette: Literal["family", "object"]
    light_theta_max: Annotated[Number, Field(gt=0, le=math.pi / 2)]
    camera_distance: Annotated[Number, Field(gt=1.15)]
    camera_elevation: Annotated[Number, Field(gt=-math.pi / 2, lt=math.pi / 2)]
    field_of_view: Annotated[Number, Field(gt=0, lt=math.pi)]
    floor_saturation: Share
    light_saturation: Share
    split: Split


class Model(Section):
    """Encoder, context transformer and heads (section 3.2, appendix B.5)."""

    encoder: Literal["small-cnn", "resnet18", "mlp"]
    pretrained: Flag
    feature_dim: Count
    width: Count
    layers: Count
    heads: Count
    output_dim: Count
    block_size: Annotated[Whole, Field(ge=2)]
    action_read_in: Literal["balanced", "paper"]
    auxiliary_hidden: Count
    projector_dim: Count
    projector_out: Annotated[Whole, Field(ge=2)]


class Context(Section):
    """What a context is made of and what is hidden in it; the released code's readings are switches (section 3.2)."""

    mask_probability: Share
    mask_probability_end: Share
    mask_unit: Literal["token", "pair"]
    mask_per_layer: Flag
    negatives: Literal["context", "batch"]
    group_per: Literal["context", "batch"]
    auxiliary_tokens: Literal["x", "y", "both"]
    pairs_per_object: Count


class Pretrain(Section):
    """Losses and optimization of one run (section 3.2, appendix B.5)."""

    steps: Count
    objects_per_step: Count
    views_per_object: Annotated[Whole, Field(ge=2)]
    contexts_per_step: Count
    learning_rate: Positive
    weight_decay: NotNegative
    warmup_fraction: Annotated[Number, Field(ge=0, lt=1)]
    temperature: Positive
    info_nce_weight: NotNegative
    auxiliary_weight: NotNegative
    label_weight: NotNegative
    label_shift: Count
    gradient_clip: Positive
    checkpoint_every: Count


class Baselines(Section):
    """Weights of the losses of VICReg, VICReg+ and SIE (appendix B.5)."""

    invariance_weight: NotNegative
    variance_weight: NotNegative
    covariance_weight: NotNegative
    equivariance_weight: NotNegative


class Evaluate(Section):
    """What is read of a run, by which probes and under which contexts (section 4)."""

    representation_tasks: tuple[Task, ...]
    embedding_tasks: tuple[Task, ...]
    context_kinds: tuple[Group, ...]
    context_lengths: tuple[Natural, ...]
    context_source: Literal["train", "test"]
    context_seed: Natural
    train_images: Count
    validation_images: Count
    test_images: Count
    retrieval_objects: Natural
    probes: tuple[Literal["paper", "linear", "ridge", "strong"], ...]
    probe_widths: tuple[Count, ...]
    probe_epochs: Count
    probe_linear_epochs: Count
    probe_batch: Count
    probe_learning_rate: Positive
    ridge_penalties: tuple[Positive, ...]
    sample_seed: Natural


class Augment(Section):
    """Source images and ranges of hand-crafted augmentations (section 4.4, appendix B.3); see lib/data/augment.py."""

    name: Literal["augmented-mini", "cifar10", "cifar10-jpeg"]
    root: str
    images: Annotated[Whole, Field(ge=30)]
    views: Annotated[Whole, Field(ge=2)]
    seed: Natural
    crop_area: Annotated[Number, Field(gt=0, lt=1)]
    crop_ratio: Annotated[Number, Field(ge=1)]
    blur_sigma: Positive
    brightness: Annotated[Number, Field(gt=1)]
    contrast: Annotated[Number, Field(gt=1)]
    saturation: Annotated[Number, Field(gt=1)]
    hue: Annotated[Number, Field(gt=0, le=0.5)]

    @property
    def title(self) -> str:
        """What titles call the images."""
        titles = {"augmented-mini": "augmented renders of the miniature, not CIFAR-10", "cifar10": "CIFAR-10"}
        return titles.get(self.name, "CIFAR-10 (JPEG-recompressed)")


class Cifar(Section):
    """What differs where hand-crafted augmentations are run on photographs; see lib/pipeline/photographs.py."""

    images: Annotated[Whole, Field(ge=30)]
    seeds: tuple[Natural, ...]
    contextssl_steps: Count
    baseline_steps: Count
    train_images: Count
    validation_images: Count
    test_images: Count


class Mimic(Section):
    """Hospital records: the folder of the real MIMIC-III, or the size of the synthetic set; see lib/people/mimic.py."""

    root: str
    patients: Annotated[Whole, Field(ge=200)]
    seed: Natural


class Run(Section):
    """A run as it is computed: what is trained on what, how often, with which settings, and where it is shown."""

    name: str
    method: Method
    groups: tuple[Group, ...]
    seeds: tuple[Natural, ...]
    dataset: Literal[tuple(DATASETS)]
    study: str
    sections: tuple[Shown, ...]
    model: Model
    context: Context
    pretrain: Pretrain
    baselines: Baselines
    evaluate: Evaluate
    precision: str

    @property
    def images(self) -> int:
        """Images encoded in a training."""
        return self.pretrain.steps * self.pretrain.objects_per_step * self.pretrain.views_per_object

    @property
    def trained_group(self) -> str | None:
        """Groups that an equivariant baseline is trained for, as paper/published.csv names them."""
        return "+".join(self.groups) if self.method in EQUIVARIANT else None

    @property
    def label(self) -> str:
        """The method, as paper/published.csv names it: N+ that is read without a context alone is its c = 0 variant."""
        alone = self.method.endswith("-plus") and self.evaluate.context_lengths == (0,)
        return f"{self.method}-c0" if alone else self.method


#: What an entry of `runs` may say of the run itself, and the sections of which it may change any key.
OWN = ("dataset", "method", "groups", "seeds", "study", "sections")
OVERRIDABLE = {"model": Model, "context": Context, "pretrain": Pretrain, "baselines": Baselines, "evaluate": Evaluate}

#: An entry of `bases` or `runs`: any of these keys, flat, each as its section has it; what is not written is not set.
Changes = create_model(
    "Changes",
    __base__=Section,
    base=(str, ""),
    **{name: (kind, None)
       for part in (Run, *OVERRIDABLE.values()) for name, kind in get_type_hints(part, include_extras=True).items()
       if name in (OWN if part is Run else part.model_fields)},
)  # fmt: skip


class Params(Section):
    """All of params.yaml."""

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
    studies: dict[str, Literal["3diebench", "augmented"]]
    bases: dict[str, Changes]
    runs: dict[str, Changes]

    def run(self, name: str, **changes: Any) -> Run:
        """A run with its bases merged in, and further flat changes on top of it.

        Raises ValueError if there is no such run, a base is unknown, or what comes out does not fit together.
        """
        if name not in self.runs:
            raise ValueError(_unknown(name, name, self.runs, "run"))
        key, found = f"runs.{name}", {}
        for layer in (*_layers(self, self.runs[name], key), _validated(Changes, changes, key)):
            found |= {field: getattr(layer, field) for field in layer.model_fields_set}
        for field in OWN:
            if field not in found and field != "sections":
                raise ValueError(f"{key}.{field} is missing; write it in the run or in its base.")
        own = {field: found.pop(field) for field in OWN if field in found}
        sections = {
            section: getattr(self, section).model_copy(update={k: found[k] for k in kind.model_fields if k in found})
            for section, kind in OVERRIDABLE.items()
        }
        own = {"name": name, "precision": self.device.precision, "sections": [own["study"]]} | own
        run = Run(**own, **sections)
        _check_run(self, run)
        try:
            _check_settings(self, run)
        except ValueError as error:
            raise ValueError(f"{str(error)[:-1]} (in run {name})." if found.keys() - {"base"} else str(error)) from None
        return run

    def study(self, name: str) -> tuple[Run, ...]:
        """The runs of a study, in the order of the file.  Raises ValueError if there is no such study."""
        _check_study(self, name, "study")
        return tuple(run for run in map(self.run, self.runs) if run.study == name)


def load(path: str | Path = "params.yaml") -> Params:
    """Reads and checks a whole file, every run with its bases merged in included.

    Raises FileNotFoundError if there is no such file, ValueError at the first thing in it that does not hold.
    """
    path = Path(path)
    try:
        mapping = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        cure = f"run `python -m lib use {'|'.join(PROFILES)}` in the repository's folder"
        raise FileNotFoundError(f"{path} does not exist; {cure}.") from None
    except YAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if getattr(error, "problem_mark", None) else ""
        problem = (isinstance(error, MarkedYAMLError) and error.problem) or "it is no YAML"
        raise ValueError(f"{path} cannot be read{line}: {' '.join(problem.split())}.") from None
    try:
        return from_dict(mapping)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def from_dict(mapping: Mapping[str, Any]) -> Params:
    """Params of a file's plain dicts.  Raises ValueError as `load` does."""
    params = _validated(Params, mapping)
    _check_whole(params)
    return params


def section(name: str, mapping: Mapping[str, Any]) -> Section:
    """One section that a notebook was given as a plain dict, checked: ``section("data", data).views``.

    Raises ValueError as `load` does.
    """
    if name not in Params.model_fields:
        raise ValueError(_unknown(name, name, Params.model_fields, "section"))
    return _validated(Params.model_fields[name].annotation, mapping, name)


# ---- What no single key can say


def _layers(params: Params, entry: Changes, key: str) -> list[Changes]:
    """An entry of runs or bases after its bases, the outermost first."""
    layers, seen = [entry], []
    while base := layers[0].base:
        if base not in params.bases:
            raise ValueError(_unknown(base, base, params.bases, f"base in {key}"))
        if base in seen:
            raise ValueError(f"{key}.base goes in a circle, {' > '.join([*seen, base])}; give one another base.")
        seen.append(base)
        layers.insert(0, params.bases[base])
        key = f"bases.{base}"
    return layers


def _check_whole(params: Params) -> None:
    data, shares = params.data, params.data.split.model_dump().values()
    if not math.isclose(sum(shares), 1):
        raise ValueError(f"data.split sums to {sum(shares):g}; it must sum to 1.")
    if data.name == "3diebench-mini":
        if data.views > 24:
            raise ValueError(f"data.views is {data.views}; it must be at most 24, the views pinned for the miniature.")
        if not data.parametric_objects and not data.real_types:
            raise ValueError("data.parametric_objects is 0 and data.real_types is empty; there must be some objects.")
    for key, names in (("runs", params.runs), ("studies", params.studies)):
        for name in names:
            if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
                cure = "use lower-case letters, digits and single hyphens"
                raise ValueError(f"{key}.{name}: the name names stages and files; {cure}.")
    studies = {params.run(name).study for name in params.runs}
    for name in params.studies:
        if name not in studies:
            raise ValueError(f"studies.{name} has no run; write `study: {name}` in a run or take the line out.")
    bases = {layer.base for name, run in params.runs.items() for layer in _layers(params, run, f"runs.{name}")}
    for name in params.bases:
        if name not in bases:
            raise ValueError(f"bases.{name} is the base of no run{_hint(name, bases, '; take it out.')}")


def _check_study(params: Params, name: str, what: str) -> None:
    if name not in (*params.studies, *PEOPLE):
        raise ValueError(_unknown(name, name, (*params.studies, *PEOPLE), what))


def _check_run(params: Params, run: Run) -> None:
    key, method, groups, dataset = f"runs.{run.name}", run.method, run.groups, run.dataset
    _check_study(params, run.study, f"study in {key}")
    for field in ("groups", "seeds", "sections"):
        values = getattr(run, field)
        if len(set(values)) < len(values):
            raise ValueError(f"{key}.{field} is {list(values)}; name each one once.")
    if not run.seeds:
        raise ValueError(f"{key}.seeds is empty; give at least one seed, for instance [0].")
    holds = params.studies.get(run.study, run.study)
    folder, known = DATASETS[dataset]
    if folder != holds:
        fitting = ", ".join(name for name, (folder, _) in DATASETS.items() if folder == holds)
        raise ValueError(
            f"{key}.dataset is {dataset}, but its study {run.study} reads {holds}; choose one of: {fitting}."
        )
    if holds == "3diebench" and dataset != params.data.name:
        raise ValueError(f"{key}.dataset is {dataset}, but data.name is {params.data.name}; change one of them.")
    if dataset == "mimic3" and not params.mimic.root:
        raise ValueError(f"{key}.dataset is mimic3, but mimic.root is empty; name the folder.")
    if method in ("contextssl", *EQUIVARIANT) and not groups:
        raise ValueError(f"{key}.groups is empty; {method} needs at least one of {', '.join(known)}.")
    if "none" in groups and method != "contextssl":
        raise ValueError(f"{key}.groups has none, the group of contexts without actions; only contextssl knows it.")
    if groups and method not in ("contextssl", *EQUIVARIANT):
        raise ValueError(f"{key}.groups is {list(groups)}; {method} takes no action, so give [].")
    if strange := [group for group in groups if group not in (*known, "none")]:
        raise ValueError(f"{key}.groups has {strange[0]}; the actions of {dataset} have {' and '.join(known)} alone.")


def _check_settings(params: Params, run: Run) -> None:
    model, context, pretrain, evaluate = run.model, run.context, run.pretrain, run.evaluate
    if model.width % model.heads:
        raise ValueError(f"model.width is {model.width}; it must be a multiple of model.heads = {model.heads}.")
    if model.block_size % 2:
        raise ValueError(f"model.block_size is {model.block_size}; a context is made of pairs, so make it even.")
    if model.encoder == "resnet18" and model.feature_dim != 512:
        raise ValueError(f"model.feature_dim is {model.feature_dim}; it must be 512, which resnet18 gives.")
    if model.pretrained and model.encoder != "resnet18":
        raise ValueError(f"model.pretrained is true; it must be false for {model.encoder}, which has none.")
    if model.encoder == "small-cnn" and params.data.image_size % 16:
        raise ValueError(f"data.image_size is {params.data.image_size}; it must be a multiple of 16 for small-cnn.")
    each, pairs = context.pairs_per_object, model.block_size // 2
    if 2 * each > pretrain.views_per_object:
        raise ValueError(
            f"context.pairs_per_object is {each}, which takes {2 * each} views of an object, but "
            f"pretrain.views_per_object is {pretrain.views_per_object}; lower one or raise the other."
        )
    of = {"3diebench": ("data.views", params.data.views), "augmented": ("augment.views", params.augment.views)}
    where, views = of.get(params.studies.get(run.study), ("the views of a person", 2))
    if pretrain.views_per_object > views:
        found = pretrain.views_per_object
        raise ValueError(f"pretrain.views_per_object is {found}; it must be at most {where} = {views}.")
    if pairs % each:
        raise ValueError(f"context.pairs_per_object is {each}; it must divide model.block_size / 2 = {pairs}.")
    if pairs // each > pretrain.objects_per_step:
        raise ValueError(
            f"pretrain.objects_per_step is {pretrain.objects_per_step}, but a context of {pairs} pairs, {each} of "
            f"each object, needs {pairs // each}; raise it."
        )
    _check_lengths(evaluate.context_lengths, model.block_size)
    for field in ("context_kinds", "probes", "representation_tasks", "embedding_tasks"):
        names, may_lack = getattr(evaluate, field), field.endswith("tasks")
        if len(set(names)) < len(names) or not (names or may_lack):
            cure = "name each one once" if may_lack else "name at least one, and each once"
            raise ValueError(f"evaluate.{field} is {list(names)}; {cure}.")
    known = (*DATASETS[run.dataset][1], "none")
    if run.method in CONTEXTUAL and (strange := [kind for kind in evaluate.context_kinds if kind not in known]):
        raise ValueError(f"evaluate.context_kinds has {strange[0]}; choose of {', '.join(known)} for {run.dataset}.")


def _check_lengths(lengths: tuple[int, ...], block_size: int) -> None:
    key = "evaluate.context_lengths"
    if odd := [length for length in lengths if length % 2]:
        raise ValueError(f"{key} has {odd[0]}; a context is made of pairs of tokens, so each length must be even.")
    if not lengths or lengths[0] != 0 or list(lengths) != sorted(set(lengths)):
        raise ValueError(f"{key} is {list(lengths)}; it must start with 0 and rise.")
    if lengths[-1] > block_size - 2:
        raise ValueError(
            f"{key} has {lengths[-1]}, but model.block_size = {block_size} leaves room for at most "
            f"{block_size - 2} tokens beside the pair asked about; shorten it or enlarge the block."
        )


# ---- One sentence for each mistake

_NEEDED = {
    "int_type": "a whole number",
    "float_type": "a number such as 0.5 or 5e-5",
    "finite_number": "a number such as 0.5 or 5e-5",
    "bool_type": "true or false",
    "string_type": 'text; put it in quotes, "" for none',
    "tuple_type": "a list, in square brackets",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
}


def _validated(kind: type[Section], mapping: Any, key: str = "") -> Any:
    try:
        return kind.model_validate(mapping)
    except ValidationError as error:
        # A misspelled key is unknown and its field missing; the former is the mistake.
        first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
        raise ValueError(_sentence(kind, first, key)) from None


def _sentence(kind: Any, error: Mapping[str, Any], key: str) -> str:
    what, value, loc = error["type"], error["input"], error["loc"]
    key = ".".join(filter(None, [key, *(str(part) for part in loc if not isinstance(part, int))]))
    if loc and isinstance(loc[-1], int):
        key += f"[{loc[-1]}]"
    if what == "extra_forbidden":
        return _unknown_key(loc[-1], key, _kind_at(kind, loc[:-1]))
    if what == "missing":
        return f"{key} is missing; copy its line from one of profiles/*.yaml."
    if what == "literal_error":
        choices = get_args(_kind_at(kind, loc))
        return f"{key} is {_found(value)}; choose one of: {', '.join(choices)}{_hint(value, choices, '.')}"
    if what == "value_error":
        return f"{key} is {_found(value)}; {error['ctx']['error']}."
    needed = _NEEDED.get(what, error["msg"].removeprefix("Input should be "))
    unquote = ", without quotes" if isinstance(value, str) and what in ("int_type", "float_type", "bool_type") else ""
    return f"{key or 'the file'} is {_found(value)}; it must be {needed}{unquote}."


def _kind_at(kind: Any, loc: Iterable[str | int]) -> Any:
    """The annotation that stands at a place of the file."""
    for part in loc:
        if get_origin(kind) is None:
            kind = kind.model_fields[part].annotation
        else:
            kind = get_args(kind)[1 if get_origin(kind) is dict else 0]
    return kind


def _unknown_key(name: str, key: str, kind: type[Section]) -> str:
    if kind is Changes and name in OVERRIDABLE:
        example = next(iter(OVERRIDABLE[name].model_fields))
        return f"{key!r} is a section; write its keys themselves, for instance {example}."
    if kind is Changes:
        known = f"; known are base, {', '.join(OWN)} and the keys of {', '.join(OVERRIDABLE)}."
        return f"{key!r} is an unknown key{_hint(name, kind.model_fields, known)}"
    return _unknown(name, key, kind.model_fields, "key")


def _unknown(name: str, key: str, known: Iterable[str], what: str) -> str:
    return f"{key!r} is an unknown {what}" + _hint(name, known, f"; known are: {', '.join(known)}.")


def _hint(name: Any, known: Iterable[str], otherwise: str) -> str:
    """The end of a sentence about a name."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else otherwise


def _found(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, (bool, str)):
        return f"the text {value!r}" if isinstance(value, str) else str(value).lower()
    return f"the mapping {dict(value)}" if isinstance(value, Mapping) else str(value)


# ---- The commands `python -m lib use` and `python -m lib plan`


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


def plan() -> None:
    """Writes build/plan/<study>-training.json and -evaluation.json, what a study's stages depend on.

    DVC sees a stage's settings as these files: editing a run changes those of its study alone, and a setting of the
    evaluation not those of training.
    """
    params, written = load(), set()
    PLAN.mkdir(parents=True, exist_ok=True)
    for study in (*params.studies, *PEOPLE):
        data = {"mimic": params.mimic.model_dump()} if study == "mimic" else {}
        for stage, left_out in (("training", {"name", "study", "sections", "evaluate"}), ("evaluation", {"name"})):
            runs = {run.name: run.model_dump(exclude=left_out) for run in params.study(study)}
            written.add(path := PLAN / f"{study}-{stage}.json")
            part = path.with_suffix(".part")
            part.write_text(json.dumps(data | {"runs": runs}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            os.replace(part, path)
    for path in set(PLAN.iterdir()) - written:
        path.unlink()
