"""The schema of params.yaml: what it accepts, and the one sentence it gives for everything else."""

import copy
import dataclasses
import functools
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lib.pipeline import settings as params

ROOT = Path(__file__).parents[1]
PROFILES = {name: ROOT / "profiles" / f"{name}.yaml" for name in params.PROFILES}


@functools.cache
def loaded(name):
    """A profile's params, not to be changed by a test."""
    return params.load(PROFILES[name])


@functools.cache
def _small():
    """laptop.yaml with a registry of few runs, which is faster to read."""
    mapping = YAML(typ="safe", pure=True).load(PROFILES["laptop"].read_text(encoding="utf-8"))
    mapping["runs"] = {name: mapping["runs"][name] for name in ("contextssl", "simclr", "sie-both")}
    mapping["select"] = {section: [] for section in mapping["select"]} | {"runs": list(mapping["runs"])}
    return mapping


def write(tmp_path, key, value, drop=False):
    """A small registry's laptop.yaml with one dotted key changed or taken out."""
    mapping = copy.deepcopy(_small())
    *path, last = key.split(".")
    inner = mapping
    for part in path:
        inner = inner[part]
    if drop:
        del inner[last]
    else:
        inner[last] = value
    file = tmp_path / "params.yaml"
    YAML(pure=True).dump(mapping, file)
    return file


def shape(value):
    """Keys and types, down to the leaves; which entries a list or a run's overrides have may differ."""
    if isinstance(value, dict):
        return {key: dict if key == "overrides" else shape(item) for key, item in value.items()}
    return type(value)


def test_profiles_share_keys_and_types():
    shapes = {name: shape(params.to_dict(loaded(name))) for name in PROFILES}
    assert shapes["ci"] == shapes["laptop"] == shapes["paper"]


@pytest.mark.parametrize("name", params.PROFILES)
def test_profile_names_itself(name):
    assert loaded(name).profile == name


def test_runs_have_one_method_and_one_choice_of_groups_in_every_profile():
    about = [{name: (run.method, run.groups) for name, run in loaded(profile).runs.items()} for profile in PROFILES]
    assert about[0] == about[1] == about[2]


@pytest.mark.parametrize("name", params.PROFILES)
def test_every_run_that_is_computed_is_shown(name):
    select = params.to_dict(loaded(name))["select"]
    assert set(select.pop("runs")) == {run for runs in select.values() for run in runs}


@pytest.mark.parametrize("name", params.PROFILES)
def test_a_run_is_what_its_name_says(name):
    for run, spec in loaded(name).runs.items():
        resolved = params.resolve(loaded(name), run)
        start, end = resolved.context.mask_probability, resolved.context.mask_probability_end
        if run.startswith("mask-"):
            assert start == end == int(run.removeprefix("mask-")) / 100
        if spec.method in ("simclr-plus", "vicreg-plus"):
            # At p = 1 every token is alone, c = 0; at p = 0 it sees its whole past.
            assert start == (1 if run.endswith("-c0") else 0)
        assert (resolved.pretrain.label_weight > 0) == run.startswith("labels-")
        assert (resolved.pretrain.auxiliary_weight == 0) == (run == "without-auxiliary")


@pytest.mark.parametrize("name", params.PROFILES)
def test_the_auxiliary_ablation_changes_one_thing(name):
    with_it, without = (params.resolve(loaded(name), run) for run in loaded(name).select.auxiliary)
    pretrain = dataclasses.replace(without.pretrain, auxiliary_weight=with_it.pretrain.auxiliary_weight)
    assert dataclasses.replace(without, pretrain=pretrain) == with_it


def test_params_equal_the_laptop_profile():
    assert (ROOT / "params.yaml").read_bytes() == PROFILES["laptop"].read_bytes()


def test_comments_explain_every_key():
    lines = PROFILES["laptop"].read_text(encoding="utf-8").splitlines()
    sections = lines[: next(i for i, line in enumerate(lines) if line.startswith("runs:"))]
    assert [line for line in sections if line.startswith("  ") and "#" not in line] == []


def test_numbers_are_typed_as_declared(tmp_path):
    file = tmp_path / "params.yaml"
    text = PROFILES["laptop"].read_text(encoding="utf-8")
    file.write_text(
        text.replace("weight_decay: 0.3 ", "weight_decay: 5e-5 ").replace("fraction: 0.1 ", "fraction: 0 ")
    )
    pretrain = params.load(file).pretrain
    assert pretrain.weight_decay == 5e-5
    assert isinstance(pretrain.warmup_fraction, float)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("context.mask_probabilty", 0.5, "'context.mask_probabilty' is an unknown key; did you mean mask_probability?"),
        ("contxt", {}, "'contxt' is an unknown key; did you mean context?"),
        ("pretrain.learning_rate", "5e-5", "pretrain.learning_rate is the text '5e-5'; it must be a number"),
        ("pretrain.learning_rate", float("nan"), "pretrain.learning_rate is nan; it must be a number"),
        ("pretrain.steps", True, "pretrain.steps is true; it must be a whole number."),
        ("pretrain.steps", 10.0, "pretrain.steps is 10.0; it must be a whole number."),
        ("pretrain.steps", None, "pretrain.steps is empty; it must be a whole number."),
        ("pretrain.steps", 0, "pretrain.steps is 0; it must be at least 1."),
        ("model.pretrained", 0, "model.pretrained is 0; it must be true or false."),
        ("context.mask_probability", 1.5, "context.mask_probability is 1.5; it must be at least 0 and at most 1."),
        ("context.mask_unit", "tokens", "choose one of: token, pair; did you mean token?"),
        ("model.projector_out", 1, "model.projector_out is 1; it must be at least 2."),
        ("pretrain.label_weight", -1.0, "pretrain.label_weight is -1; it must be at least 0."),
        ("pretrain.label_shift", 0, "pretrain.label_shift is 0; it must be at least 1."),
        ("baselines.variance_weight", -0.1, "baselines.variance_weight is -0.1; it must be at least 0."),
        ("baselines.variance", 1.0, "'baselines.variance' is an unknown key; did you mean variance_weight?"),
        ("evaluate.probes", ["mlp"], "evaluate.probes[0] is the text 'mlp'; choose one of: paper, linear, ridge"),
        ("evaluate.probes", [], "evaluate.probes is []; name at least one, and each once."),
        ("evaluate.context_kinds", ["none", "none"], "evaluate.context_kinds is ['none', 'none']; name at least one"),
        ("model", 3, "model is 3; it must be a mapping of keys to values."),
        ("runs.simclr.seeds", 0, "runs.simclr.seeds is 0; it must be a list, in square brackets."),
        ("runs.simclr.seeds", [0, 0], "runs.simclr.seeds is [0, 0]; name each one once."),
        (
            "runs.simclr.seeds",
            ["0"],
            "runs.simclr.seeds[0] is the text '0'; it must be a whole number, without quotes.",
        ),
        ("runs.simclr.method", "simclr-pluss", "the text 'simclr-pluss'; choose one of: contextssl, simclr, vicreg"),
        ("runs.contextssl.groups", [], "runs.contextssl.groups is empty; contextssl needs at least one"),
        ("runs.sie-both.groups", [], "runs.sie-both.groups is empty; sie needs at least one of rotation, color."),
        ("runs.sie-both.groups", ["rotation", "none"], "runs.sie-both.groups has none, the group of contexts without"),
        ("runs.simclr.groups", ["color"], "runs.simclr.groups is ['color']; simclr takes no action, so give []."),
        ("runs.sie-both.groups", ["color", "color"], "runs.sie-both.groups is ['color', 'color']; name each one once."),
        (
            "runs.sie-both.overrides",
            {"baselines": {"equivariance": 4.5}},
            "'runs.sie-both.overrides.baselines.equivariance' is an unknown key; did you mean equivariance_weight?",
        ),
        ("runs.simclr.overrides", {"contxt": {}}, "'runs.simclr.overrides.contxt' is an unknown section to override"),
        (
            "runs.simclr.overrides",
            {"pretrain": {"step": 5}},
            "'runs.simclr.overrides.pretrain.step' is an unknown key; did you mean steps?",
        ),
        (
            "runs.simclr.overrides",
            {"pretrain": {"steps": "5"}},
            "runs.simclr.overrides.pretrain.steps is the text '5'; it must be a whole number, without quotes.",
        ),
        (
            "runs.simclr.overrides",
            {"model": {"block_size": 16}},
            "evaluate.context_lengths has 126, but model.block_size = 16 leaves room for at most 14 tokens",
        ),
        ("select.main", ["vicreg"], "select.main has vicreg, which select.runs lacks; add it there."),
        ("select.labels", ["simclr", "simclr"], "select.labels is ['simclr', 'simclr']; name each run once."),
        ("select.runs", [], "select.runs is empty; name at least one of: contextssl, simclr, sie-both."),
        ("select.runs", ["simclrr"], "'simclrr' is an unknown run in select.runs; did you mean simclr?"),
        ("evaluate.context_lengths", [0, 2, 128], "model.block_size = 128 leaves room for at most 126 tokens"),
        ("evaluate.context_lengths", [0, 3], "evaluate.context_lengths has 3; a context is made of pairs"),
        ("evaluate.context_lengths", [2, 4], "evaluate.context_lengths is [2, 4]; it must start with 0 and rise."),
        ("model.heads", 3, "model.width is 128; it must be a multiple of model.heads = 3."),
        ("data.split.train", 0.9, "data.split sums to 1.1; it must sum to 1."),
        ("data.views", 48, "data.views is 48; it must be at most 24"),
        ("data.name", "3diebench", "runs.contextssl.dataset is 3diebench-mini, but data.name is 3diebench"),
        ("context.pairs_per_object", 8, "pretrain.views_per_object is 8; lower one or raise the other."),
        ("pretrain.objects_per_step", 4, "pretrain.objects_per_step is 4, but a context of 64 pairs"),
    ],
)
def test_what_does_not_hold_is_one_sentence(tmp_path, key, value, sentence):
    file = write(tmp_path, key, value)
    with pytest.raises(ValueError) as error:
        params.load(file)
    assert sentence in str(error.value)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_missing_key(tmp_path):
    with pytest.raises(ValueError, match="context.negatives is missing; copy its line"):
        params.load(write(tmp_path, "context.negatives", None, drop=True))


def test_files_that_are_absent_or_no_yaml(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m lib.pipeline.settings use"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("profile: ci\nprofile: ci\n")
    with pytest.raises(ValueError, match="cannot be read in line 2: .*duplicate key"):
        params.load(tmp_path / "params.yaml")


def test_names_of_runs(tmp_path):
    """They become names of stages, files and folders."""
    with pytest.raises(ValueError, match="runs.Sim_CLR: the name names stages and files; use lower-case letters"):
        params.load(write(tmp_path, "runs.Sim_CLR", _small()["runs"]["simclr"]))


def test_overrides_are_merged_for_their_run_alone(tmp_path):
    settings = params.load(write(tmp_path, "profile", "laptop"))
    settings.runs["simclr"].overrides["context"]["mask_probability"] = 0.9
    assert params.resolve(settings, "simclr").context.mask_probability == 0.9
    assert params.resolve(settings, "contextssl").context.mask_probability == 0.5
    with pytest.raises(ValueError, match="'simcrl' is an unknown run; did you mean simclr?"):
        params.resolve(settings, "simcrl")


def test_a_notebook_needs_only_its_own_sections():
    mapping = copy.deepcopy(_small())
    given = {"pretrain": mapping["pretrain"], "runs": {"simclr": mapping["runs"]["simclr"]}}
    given["runs"]["simclr"]["overrides"] = {"pretrain": {"steps": 7}, "evaluate": {"probe_epochs": 3}}
    resolved = params.resolve(params.from_dict(given), "simclr")
    assert (resolved.pretrain.steps, resolved.evaluate) == (7, None)


def test_use_keeps_edits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "profiles", "profiles")
    Path("params.yaml").write_text("my: edits\n")
    params.main(["use", "ci"])
    assert Path("params.yaml").read_bytes() == PROFILES["ci"].read_bytes()
    assert Path("params.yaml.orig").read_text() == "my: edits\n"
    assert "params.yaml.orig" in capsys.readouterr().out
