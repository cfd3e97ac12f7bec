"""The settings of the compendium: a strict schema of params.yaml, its loader, and what a run is.

Each section of the file is one frozen model below, and a field's annotation is its whole rule: type, range, choices.
What no single field can say stands in `_rules`. Anything that does not hold is a ValueError of one sentence: the dotted
key, what was found and what to write instead. What each setting means, its unit and its source in the paper stand
beside it in the profiles.

A run is resolved in this order, the last one counting: the sections, the base's base, the base, the run.

    settings = load()                  # params.yaml
    run = settings.run("mask-090")     # run.pretrain.steps, run.context.mask_probability, run.seeds, ...
    runs = settings.study("masking")   # all runs of a study
"""

import difflib
import functools
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_serializer,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

PROFILES = ("ci", "course", "laptop", "full", "paper")
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


def _must(holds: Callable[[Any], bool], sentence: str) -> AfterValidator:
    """A rule of a whole value, and how the sentence on what breaks it goes on after its key and value."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(sentence)
        return value

    return AfterValidator(check)


Flag = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=1)]
Natural = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
NotEmpty = Field(min_length=1)
Even = Field(multiple_of=2)
Once = _must(lambda many: len(set(many)) == len(many), "name each one once")
Rising = _must(lambda many: many[:1] == (0,) and list(many) == sorted(set(many)), "it must start with 0 and rise")
SumsToOne = _must(lambda split: math.isclose(sum(dict(split).values()), 1), "its shares must sum to 1")
_AUTO = "it must be auto or a whole number from 1 upward"
Jobs = Annotated[Any, _must(lambda jobs: jobs == "auto" or (type(jobs) is int and jobs >= 1), _AUTO)]

Method = Literal["contextssl", "simclr", "vicreg", "simclr-plus", "vicreg-plus", "equimod", "sen", "sie"]
Group = Literal["rotation", "color", "crop", "blur", "gender", "none"]
Task = Literal["individual", "relative", "classes"]
Invariant = Literal["simclr", "byol", "barlow-twins", "vicreg", "simsiam"]
Transformation = Literal[
    "horizontal-flip", "grayscale", "rotation", "vertical-flip", "jigsaw", "blur", "inversion"
]  # fmt: skip
Learner = Literal[
    "ridge-materials", "ridge", "scratch", "augmented", "circular", "simclr", "e-simclr", "simclr-all",
    "simclr-augmented", "e-simclr-augmented", "random-frozen", "simclr-frozen", "e-simclr-frozen", "simclr-all-frozen",
]  # fmt: skip
Shown = Literal["main", "masking", "auxiliary", "labels", "single", "augmentations", "robustness", "adult", "mimic"]


class Section(BaseModel):
    """What every part of the file is: fixed once read, and with no key beside its fields."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, mapping: Any) -> Any:
        """First of all: a misspelled key is unknown and its field missing, and the former is the mistake."""
        for name in mapping if isinstance(mapping, Mapping) else ():
            if name not in cls.model_fields:
                raise PydanticCustomError("unknown_key", "unknown key", {"name": name, "known": [*cls.model_fields]})
        return mapping


class Device(Section):
    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    devices: Count
    strategy: Literal["auto", "ddp_notebook"]
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    jobs: Jobs


class Split(Section):
    train: Positive
    validation: Positive
    test: Positive


class Data(Section):
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
    split: Annotated[Split, SumsToOne]


class Model(Section):
    encoder: Literal["small-cnn", "resnet18", "mlp"]
    pretrained: Flag
    feature_dim: Count
    width: Count
    layers: Count
    heads: Count
    output_dim: Count
    block_size: Annotated[Count, Even]
    action_read_in: Literal["balanced", "paper"]
    auxiliary_hidden: Count
    projector_dim: Count
    projector_out: Annotated[Whole, Field(ge=2)]


class Context(Section):
    mask_probability: Share
    mask_probability_end: Share
    mask_ramp_start: Annotated[Number, Field(ge=0, lt=1)]
    mask_unit: Literal["token", "pair"]
    mask_per_layer: Flag
    negatives: Literal["context", "batch"]
    group_per: Literal["context", "batch"]
    auxiliary_tokens: Literal["x", "y", "both"]
    pairs_per_object: Count


class Pretrain(Section):
    steps: Count
    objects_per_step: Count
    views_per_object: Annotated[Whole, Field(ge=2)]
    contexts_per_step: Count
    optimizer: Literal["muon", "adamw", "adam"]
    learning_rate: Positive
    muon_learning_rate: Positive
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
    invariance_weight: NotNegative
    variance_weight: NotNegative
    covariance_weight: NotNegative
    equivariance_weight: NotNegative


class Evaluate(Section):
    representation_tasks: Annotated[tuple[Task, ...], Once]
    embedding_tasks: Annotated[tuple[Task, ...], Once]
    context_kinds: Annotated[tuple[Group, ...], Once, NotEmpty]
    context_lengths: Annotated[tuple[Annotated[Natural, Even], ...], Rising]
    context_source: Literal["train", "test"]
    context_seeds: Annotated[tuple[Natural, ...], Once, NotEmpty]
    shortcut_masks: Annotated[tuple[Share, ...], Once, NotEmpty]
    train_images: Count
    validation_images: Count
    test_images: Count
    retrieval_objects: Natural
    probes: Annotated[tuple[Literal["paper", "linear", "ridge", "strong"], ...], Once, NotEmpty]
    probe_widths: tuple[Count, ...]
    probe_epochs: Count
    probe_linear_epochs: Count
    probe_batch: Count
    probe_learning_rate: Positive
    ridge_penalties: tuple[Positive, ...]
    sample_seed: Natural


class Augment(Section):
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
        mini, photographs = "augmented renders of the miniature, not CIFAR-10", "CIFAR-10 (JPEG-recompressed)"
        return {"augmented-mini": mini, "cifar10": "CIFAR-10", "cifar10-jpeg": photographs}[self.name]


Area = Annotated[tuple[Share, Share], _must(lambda area: 0 < area[0] <= area[1], "the first must not be larger")]
Seeds = Annotated[tuple[Natural, ...], Once, NotEmpty]


class EsslRecipe(Section):
    encoder: Literal["small-cnn", "resnet18-cifar", "resnet50"]
    projector: Annotated[tuple[Count, ...], NotEmpty]
    predictor: Count
    classifier: Annotated[tuple[Count, ...], NotEmpty]
    view_size: Annotated[Whole, Field(ge=8)]
    view_area: Area
    third_size: Annotated[Whole, Field(ge=8), Even]
    third_area: Area
    copies: Annotated[Whole, Field(ge=2)]
    probability: Share
    batch: Annotated[Whole, Field(ge=2)]
    optimizer: Literal["muon", "adamw", "adam", "sgd", "lars"]
    learning_rate: Positive
    muon_learning_rate: Positive
    weight_decay: NotNegative
    warmup_fraction: Annotated[Number, Field(ge=0, lt=1)]
    temperature: Positive
    target_momentum: Share
    redundancy_weight: NotNegative
    sensitivity_weights: dict[Invariant, NotNegative]
    checkpoint_every: Count


class _Changes(Section):
    @model_serializer(mode="wrap")
    def _what_is_written(self, serialize: Callable[[Any], dict]) -> dict:
        """A notebook is given plain dicts, and a key that is not written must not come back as an empty one."""
        return {key: value for key, value in serialize(self).items() if key in self.model_fields_set}


#: An entry of `essl.imagenet`: any keys of the recipe; what is not written is the recipe's own.
EsslChanges = create_model(
    "EsslChanges", __base__=_Changes, **{name: (rule, None) for name, rule in get_annotations(EsslRecipe).items()}
)


class EsslDiagnosis(Section):
    transformations: Annotated[tuple[Transformation, ...], Once, NotEmpty]
    controls: Annotated[tuple[Transformation, ...], Once]
    seeds: Seeds
    steps: Count


Controlled = _must(lambda of: {*of.controls} <= {*of.transformations}, "its controls must be of its transformations")


class EsslMethods(Section):
    names: Annotated[tuple[Invariant, ...], Once, NotEmpty]
    longer: Annotated[tuple[Invariant, ...], Once]
    sensitive: Transformation
    seeds: Seeds
    steps: Count


Named = _must(
    lambda of: {*of.longer} <= {*of.names},
    "each of longer must be in names, too: add it there, or take it out of longer",
)


class EsslEvaluate(Section):
    neighbors: Annotated[tuple[Count, ...], Once, NotEmpty]
    neighbor_temperature: Positive
    probe_penalties: Annotated[tuple[Positive, ...], Once, NotEmpty]


class EsslPhotographs(Section):
    train_images: Count
    validation_images: Count
    test_images: Count
    transformations: Annotated[tuple[Transformation, ...], Once, NotEmpty]
    controls: Annotated[tuple[Transformation, ...], Once]
    batch: Annotated[Whole, Field(ge=2)]
    seeds: Seeds
    steps: Count


class Bridge(Section):
    runs: Annotated[tuple[Name, ...], Once, NotEmpty]
    seeds: Seeds
    steps: Count
    weight: NotNegative


class Essl(Section):
    name: Literal["scenes", "cifar10", "cifar10-jpeg"]
    root: str
    train_images: Count
    validation_images: Count
    test_images: Count
    data_seed: Natural
    recipe: EsslRecipe
    diagnosis: Annotated[EsslDiagnosis, Controlled]
    methods: Annotated[EsslMethods, Named]
    evaluate: EsslEvaluate
    photographs: Annotated[EsslPhotographs, Controlled]
    bridge: Bridge
    imagenet: dict[Invariant, EsslChanges]

    def on_imagenet(self, method: str) -> EsslRecipe:
        """The recipe with its changes for ImageNet."""
        return self.recipe.model_copy(update=self.imagenet[method].model_dump(exclude_unset=True))


class PhotonicsLabels(Section):
    waves: Count
    cells: Annotated[Whole, Field(ge=2), Even]
    subcells: Count
    expansion: Count
    bands: Count
    smoothing: Positive


class PhotonicsNetwork(Section):
    input: Literal["relative", "published"]
    channels: Annotated[tuple[Count, ...], NotEmpty]
    kernels: tuple[Annotated[Count, _must(lambda kernel: kernel % 2, "it must be odd")], ...]
    strides: tuple[Count, ...]
    pools: tuple[Count, ...]
    padding: Literal["circular", "zeros"]
    features: Annotated[tuple[Count, ...], NotEmpty]
    head: tuple[Count, ...]


class PhotonicsPretrain(Section):
    steps: Count
    batch: Annotated[Whole, Field(ge=2)]
    optimizer: Literal["adam", "sgd"]
    learning_rate: Positive
    temperature: Positive
    sensitivity_weight: NotNegative
    projector: Annotated[tuple[Count, ...], NotEmpty]
    classifier: tuple[Count, ...]


class PhotonicsFinetune(Section):
    steps: Count
    batch: Annotated[Whole, Field(ge=2)]
    learning_rate: Positive
    weight_decay: NotNegative


class PhotonicsRidge(Section):
    orders: Annotated[tuple[Count, ...], Once, NotEmpty]
    length_scales: Annotated[tuple[Positive, ...], Once, NotEmpty]
    penalties: Annotated[tuple[Positive, ...], Once, NotEmpty]


def _expands(of: PhotonicsLabels) -> bool:
    return of.bands <= of.expansion <= (2 * of.waves + 1) ** 2


def _is_a_network(of: PhotonicsNetwork) -> bool:
    return len(of.channels) == len(of.kernels) == len(of.strides) == len(of.pools)


class Photonics(Section):
    families: Annotated[tuple[Literal["blob", "pm"], ...], Once, NotEmpty]
    size: Annotated[Whole, Field(ge=8), Even]
    data_seed: Natural
    labels: Annotated[PhotonicsLabels, _must(_expands, "it must have bands <= expansion <= (2 waves + 1)²")]
    validation_labels: Annotated[Whole, Field(ge=2)]
    test_labels: Annotated[Whole, Field(ge=10)]
    unlabeled: Count
    training_labels: Annotated[tuple[Annotated[Whole, Field(ge=10)], ...], Once, NotEmpty]
    methods: Annotated[tuple[Learner, ...], Once, NotEmpty]
    seeds: Seeds
    network: Annotated[
        PhotonicsNetwork, _must(_is_a_network, "it must have one kernel, stride and pool for each of its channels")
    ]
    pretrain: PhotonicsPretrain
    finetune: PhotonicsFinetune
    ridge: PhotonicsRidge


class Mimic(Section):
    root: str
    patients: Annotated[Whole, Field(ge=200)]
    seed: Natural


class Run(Section):
    """A run as it is computed: what is trained on what, how often, with which settings, and where it is shown."""

    name: str
    method: Method
    groups: Annotated[tuple[Group, ...], Once]
    seeds: Annotated[tuple[Natural, ...], Once, NotEmpty]
    dataset: Literal[tuple(DATASETS)]
    study: str
    sections: Annotated[tuple[Shown, ...], Once]
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
    **{name: (get_annotations(Run)[name], None) for name in OWN},
    **{name: (rule, None) for part in OVERRIDABLE.values() for name, rule in get_annotations(part).items()},
)


class Cifar(Section):
    images: Annotated[Whole, Field(ge=30)]
    seeds: tuple[Natural, ...]
    contextssl_steps: Count
    baseline_steps: Count
    contextssl: Changes
    train_images: Count
    validation_images: Count
    test_images: Count

    @field_serializer("contextssl")
    def _what_is_set(self, contextssl: Changes) -> dict:
        return contextssl.model_dump(mode="json", exclude_unset=True)


#: An entry of `robustness`: keys of `data`, too, whose names are unlike those of all other sections, seeds, and the
#: entry of which it is a change.
Variation = create_model(
    "Variation",
    __base__=Section,
    base=(str, ""),
    seeds=(get_annotations(Run)["seeds"], None),
    **{
        name: (rule, None)
        for part in (Data, *OVERRIDABLE.values())
        for name, rule in get_annotations(part).items()
        if name not in ("name", "root")
    },
)


class Params(Section):
    """All of params.yaml."""

    profile: Literal[PROFILES]
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
    essl: Essl
    photonics: Photonics
    studies: dict[Name, Literal["3diebench", "augmented"]]
    bases: dict[str, Changes]
    runs: dict[Name, Changes]
    robustness: dict[Name, Variation]

    @field_serializer("robustness")
    def _what_is_changed(self, robustness: dict[str, Variation]) -> dict[str, dict]:
        """Without the keys that a change leaves alone, which are nearly all."""
        return {name: change.model_dump(mode="json", exclude_unset=True) for name, change in robustness.items()}

    def run(self, name: str, **changes: Any) -> Run:
        """A run: its bases, itself and further flat changes, merged.  Raises ValueError as `load` does."""
        _require(name, self.runs, "run")
        key = f"runs.{name}"
        found = self._merged(self.runs[name], key) | self._merged(_validated(Changes, changes, key), key)
        found.setdefault("sections", [found.get("study")])
        if missing := [field for field in OWN if field not in found]:
            raise ValueError(f"{key}.{missing[0]} is missing; write it in the run or in its base.")
        _require(found["study"], (*self.studies, *PEOPLE), f"study in {key}")
        parts = {
            part: getattr(self, part).model_copy(update={k: found[k] for k in kind.model_fields if k in found})
            for part, kind in OVERRIDABLE.items()
        }
        own = {field: found[field] for field in OWN}
        run = _validated(Run, {"name": name, "precision": self.device.precision, **own, **parts}, key)
        _check(self, run)
        return run

    def study(self, name: str) -> tuple[Run, ...]:
        """The runs of a study, in the order of the file.  Raises ValueError if there is no such study."""
        _require(name, (*self.studies, *PEOPLE), "study")
        return tuple(run for run in map(self.run, self.runs) if run.study == name)

    def variation(self, name: str) -> tuple["Params", Run]:
        """The headline's run with the change of an entry of `robustness`, on top of that of its base if it has one, and
        the params with which it is made.

        Raises ValueError as `load` does.
        """
        _require(name, self.robustness, "variation")
        changes = self.robustness[name].model_dump(exclude_unset=True)
        if base := changes.pop("base", ""):
            _require(base, self.robustness, f"base in robustness.{name}")
            below = self.robustness[base].model_dump(exclude_unset=True, exclude={"seeds"})
            if below.get("base"):
                raise ValueError(f"robustness.{name}.base has a base itself; name {below['base']} or write it out.")
            changes = below | changes
        of_data = {key: changes.pop(key) for key in [*changes] if key in Data.model_fields}
        params = self.model_copy(update={"data": self.data.model_copy(update=of_data)})
        seeds = changes.pop("seeds", None)
        run = params.run("contextssl", **changes)
        seeds = seeds or run.seeds[:3]  # with two, an interval is 12.7 standard errors wide
        as_study = {"name": name, "study": "robustness", "sections": ("robustness",), "seeds": seeds}
        return params, run.model_copy(update=as_study)

    def _merged(self, entry: Changes, key: str, path: tuple[str, ...] = ()) -> dict[str, Any]:
        """What an entry of runs or bases and its bases say; `path`: the bases that led to it."""
        below = {}
        if base := entry.base:
            _require(base, self.bases, f"base in {key}")
            if base in path:
                raise ValueError(f"{key}.base goes in a circle, {' > '.join([*path, base])}; give one another base.")
            below = self._merged(self.bases[base], f"bases.{base}", (*path, base))
        return below | entry.model_dump(exclude_unset=True, exclude={"base"})


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
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or "it is no YAML"
        line = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path} cannot be read{line}: {' '.join(problem.split())}.") from None
    try:
        return from_dict(mapping)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def from_dict(mapping: Mapping[str, Any]) -> Params:
    """Params of a file's plain dicts.  Raises ValueError as `load` does."""
    params = _validated(Params, mapping)
    studies = {params.run(name).study for name in params.runs}
    if idle := [name for name in params.studies if name not in studies]:
        raise ValueError(f"studies.{idle[0]} has no run; write `study: {idle[0]}` in a run or take the line out.")
    for name in params.robustness:
        params.variation(name)
    bases = {entry.base for entry in (*params.runs.values(), *params.bases.values())}
    if idle := [name for name in params.bases if name not in bases]:
        raise ValueError(f"bases.{idle[0]} is the base of no run{_hint(idle[0], bases, '; take it out.')}")
    return params


def section(name: str, mapping: Mapping[str, Any]) -> Section:
    """A notebook's plain dict, checked: ``section("data", data).views``.  Raises ValueError as `load` does."""
    _require(name, Params.model_fields, "section")
    return _validated(Params.model_fields[name].annotation, mapping, name)


# ---- What no single field can say


def _rules(params: Params, run: Run) -> Iterator[tuple[Any, str, str]]:
    """Whether a rule holds, the key that it is about, and what its value must be.  A rule may rely on those before."""
    data, model, context, pretrain, evaluate = params.data, run.model, run.context, run.pretrain, run.evaluate
    real = data.name == "3diebench"
    yield real or data.views <= 24, "data.views", "at most 24, the views pinned for the miniature"
    objects = data.parametric_objects or data.real_types
    yield real or objects, "data.parametric_objects", "1 or more where data.real_types is empty"

    folder, actions = DATASETS[run.dataset]
    reads = params.studies.get(run.study, run.study)
    fitting = " or ".join(name for name, (folder, _) in DATASETS.items() if folder == reads)
    yield folder == reads, "dataset", f"{fitting}, which its study {run.study} reads"
    yield folder != "3diebench" or run.dataset == data.name, "dataset", f"{data.name}, as data.name is"
    given = run.dataset != "mimic3" or params.mimic.root
    yield given, "dataset", "mimic3-synthetic, unless mimic.root names the folder of mimic3"
    active, known = run.method in ("contextssl", *EQUIVARIANT), " and ".join(actions)
    yield run.groups or not active, "groups", f"at least one of {known}, as {run.method} is about actions"
    yield active or not run.groups, "groups", f"[], as {run.method} takes no action"
    yield run.method == "contextssl" or "none" not in run.groups, "groups", "without none, which only contextssl knows"
    yield {*run.groups} <= {*actions, "none"}, "groups", f"of {known}, the actions of {run.dataset}"

    yield model.width % model.heads == 0, "model.width", f"a multiple of model.heads = {model.heads}"
    resnet, small = model.encoder == "resnet18", model.encoder == "small-cnn"
    yield not resnet or model.feature_dim == 512, "model.feature_dim", "512, which resnet18 gives"
    yield resnet or not model.pretrained, "model.pretrained", f"false for {model.encoder}, which has none"
    yield not small or data.image_size % 16 == 0, "data.image_size", "a multiple of 16 for small-cnn"

    each, pairs, views = context.pairs_per_object, model.block_size // 2, pretrain.views_per_object
    yield 2 * each <= views, "context.pairs_per_object", f"at most half of pretrain.views_per_object = {views}"
    limits = {"3diebench": ("data.views", data.views), "augmented": ("augment.views", params.augment.views)}
    where, most = limits.get(reads, ("the views of a person", 2))
    yield views <= most, "pretrain.views_per_object", f"at most {where} = {most}"
    yield pairs % each == 0, "context.pairs_per_object", f"a divisor of model.block_size / 2 = {pairs}"
    needed = f"at least {pairs // each}, for a context of {pairs} pairs, {each} of each object"
    yield pairs <= each * pretrain.objects_per_step, "pretrain.objects_per_step", needed

    room = f"at most {2 * pairs - 2}, for model.block_size = {2 * pairs} holds the pair asked about, too"
    yield evaluate.context_lengths[-1] <= 2 * pairs - 2, "evaluate.context_lengths", room
    fits = run.method not in CONTEXTUAL or {*evaluate.context_kinds} <= {*actions, "none"}
    yield fits, "evaluate.context_kinds", f"of {known}, or none, for {run.dataset}"


def _check(params: Params, run: Run) -> None:
    for holds, key, needed in _rules(params, run):
        if not holds:
            first, *rest = key.split(".")
            value = functools.reduce(getattr, rest, (dict(params) | dict(run))[first])
            key = f"runs.{run.name}.{key}" if first in OWN else key
            changed = first in OVERRIDABLE and getattr(run, first) != getattr(params, first)
            where = f" (in run {run.name})" if changed else ""
            raise ValueError(f"{key} is {_found(value)}; it must be {needed}{where}.")


# ---- One sentence for each mistake

#: Type of pydantic's error -> what the value must be; of others, pydantic's own words.
_NEEDED = {
    "int_type": "a whole number",
    **dict.fromkeys(("float_type", "finite_number"), "a number such as 0.5 or 5e-5"),
    "bool_type": "true or false",
    "string_type": 'text; put it in quotes, "" for none',
    "string_pattern_mismatch": "of lower-case letters, digits and single hyphens, for it names stages and files",
    "tuple_type": "a list, in square brackets",
    "too_short": "a list with at least one entry",
    **dict.fromkeys(("dict_type", "model_type"), "a mapping of keys to values"),
}


def _validated(kind: type[Section], mapping: Any, key: str = "") -> Any:
    try:
        return kind.model_validate(mapping)
    except ValidationError as error:
        raise ValueError(_sentence(error.errors(include_url=False)[0], key)) from None


def _sentence(error: Mapping[str, Any], key: str) -> str:
    """The sentence for an error of pydantic; `key` is where what it validated stands in the file."""
    what, value, more = error["type"], error["input"], error.get("ctx", {})
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"] if part != "[key]")
    key = (key + "".join(parts)).removeprefix(".")
    if what == "unknown_key":
        place, name = f"{key}.{more['name']}".removeprefix("."), more["name"]
        if key and name in OVERRIDABLE:
            example = next(iter(OVERRIDABLE[name].model_fields))
            return f"{place!r} is a section; write its keys themselves, for instance {example}."
        return _unknown(place, more["known"], "key")
    if what == "missing":
        return f"{key} is missing; copy its line from one of profiles/*.yaml."
    if what == "literal_error":
        choices = re.findall("'(.*?)'", more["expected"])
        cure = f"choose one of: {', '.join(choices)}" + _hint(value, choices, ".")
    elif what == "value_error":
        cure = f"{more['error']}."
    else:
        unquoted = isinstance(value, str) and what in ("int_type", "float_type", "bool_type")
        needed = _NEEDED.get(what, error["msg"].removeprefix("Input should be "))
        cure = f"it must be {needed}{', without quotes' if unquoted else ''}."
    return f"{key or 'the file'} is {_found(value)}; {cure}"


def _require(name: str, known: Iterable[str], what: str) -> None:
    if name not in known:
        raise ValueError(_unknown(name, known, what))


def _unknown(key: str, known: Iterable[str], what: str) -> str:
    return f"{key!r} is an unknown {what}" + _hint(key.split(".")[-1], known, f"; known are: {', '.join(known)}.")


def _hint(name: Any, known: Iterable[str], otherwise: str) -> str:
    """The end of a sentence about a name."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else otherwise


def _found(value: Any) -> str:
    if value is None:
        return "empty"
    return f"the text {value!r}" if isinstance(value, str) else json.dumps(value, default=str)


# ---- The commands `python -m lib use` and `python -m lib plan`


def use(profile: str) -> None:
    """Makes a profile the params.yaml; a params.yaml with edits of its own is kept as params.yaml.orig."""
    _require(profile, PROFILES, "profile")
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
    params, folder, written = load(), Path("build/plan"), set()
    folder.mkdir(parents=True, exist_ok=True)
    for study in (*params.studies, *PEOPLE):
        data = {"mimic": params.mimic.model_dump()} if study == "mimic" else {}
        for stage, left_out in (("training", {"name", "study", "sections", "evaluate"}), ("evaluation", {"name"})):
            runs = {run.name: run.model_dump(exclude=left_out) for run in params.study(study)}
            written.add(path := folder / f"{study}-{stage}.json")
            path.write_text(json.dumps(data | {"runs": runs}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for path in set(folder.iterdir()) - written:
        path.unlink()
