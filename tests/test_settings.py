"""The schema of params.yaml: what it accepts, the one sentence it gives for everything else, and how runs resolve."""

import copy
import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.exceptions import InvalidArgumentError
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from lib.pipeline import settings

ROOT = Path(__file__).parents[1]
PROFILES = {name: ROOT / "profiles" / f"{name}.yaml" for name in settings.PROFILES}


@functools.cache
def loaded(name):
    return settings.load(PROFILES[name])


@functools.cache
def _small():
    """laptop.yaml with few runs, as plain dicts; not to be changed."""
    mapping = YAML(typ="safe", pure=True).load(PROFILES["laptop"].read_text(encoding="utf-8"))
    mapping["runs"] = {name: mapping["runs"][name] for name in ("contextssl", "simclr", "sie-both", "mask-090")}
    used = ("common", "contextssl", "pairs", "baseline", "sie", "ablation", "masking")
    mapping["bases"] = {name: mapping["bases"][name] for name in used}
    mapping["studies"] = {"main": "3diebench", "baselines": "3diebench", "masking": "3diebench"}
    return mapping


def changed(key, value):
    """A small laptop.yaml with one dotted key changed."""
    mapping = copy.deepcopy(_small())
    *path, last = key.split(".")
    functools.reduce(dict.__getitem__, path, mapping)[last] = value
    return mapping


# ---- The profiles


def shape(value):
    """Keys and types, down to the leaves; which entries a list has may differ."""
    return {key: shape(item) for key, item in value.items()} if isinstance(value, dict) else type(value)


def test_profiles_share_keys_and_types():
    varying = {"runs": True, "bases": True, "robustness": True, "cifar": {"contextssl"}, "device": {"jobs"}}
    shapes = [shape(loaded(name).model_dump(exclude=varying)) for name in PROFILES]
    assert all(shape == shapes[0] for shape in shapes)
    assert [loaded(name).profile for name in PROFILES] == [*PROFILES]
    changes = {
        name: {change: of.model_dump(exclude_unset=True, exclude={"base"}) for change, of in of.items()}
        for name, of in ((name, loaded(name).robustness) for name in PROFILES)
    }
    del changes["full"]["laptop"]  # what the others are changes of
    assert all(of == changes["full"] for of in changes.values())


def test_comments_explain_every_key():
    lines = PROFILES["laptop"].read_text(encoding="utf-8").splitlines()
    sections = lines[: next(i for i, line in enumerate(lines) if line.startswith("studies:"))]
    assert [line for line in sections if line.startswith("  ") and "#" not in line] == []


def test_a_run_is_the_same_experiment_in_every_profile():
    """What it is about; how long and on which data may differ. ci leaves some runs out."""

    def about(run):
        return run.label, run.groups, run.study, run.sections, run.evaluate.embedding_tasks

    laptop, full, paper, ci = (
        {n: about(loaded(p).run(n)) for n in loaded(p).runs} for p in ("laptop", "full", "paper", "ci")
    )
    assert laptop == full == paper
    assert ci.items() <= laptop.items()


@pytest.mark.parametrize("name", PROFILES)
def test_a_run_is_what_its_name_says(name):
    for run in map(loaded(name).run, loaded(name).runs):
        start, end = run.context.mask_probability, run.context.mask_probability_end
        if run.sections == ("masking",):
            assert start == end == int(run.name.removeprefix("mask-")) / 100
        if run.method in ("simclr-plus", "vicreg-plus"):
            # At p = 1 every token is alone, c = 0; at p = 0 it sees its whole past.
            assert start == (1 if run.name.endswith("-c0") else 0)
            assert run.name.endswith(run.label)
        if run.trained_group:
            assert run.name == f"{run.method}-{'both' if len(run.groups) == 2 else run.groups[0]}"
        if run.study == "augmentations":
            assert run.name.startswith(run.dataset)
            assert run.groups in ((), run.evaluate.context_kinds)
        assert (run.pretrain.label_weight > 0) == run.name.startswith("labels-")
        assert (run.pretrain.auxiliary_weight == 0) == (run.name == "without-auxiliary")


@pytest.mark.parametrize("name", PROFILES)
def test_the_auxiliary_ablation_changes_one_thing(name):
    params = loaded(name)
    with_it, without = (run for run in map(params.run, params.runs) if "auxiliary" in run.sections)
    pretrain = without.pretrain.model_copy(update={"auxiliary_weight": with_it.pretrain.auxiliary_weight})
    changed = {key: getattr(with_it, key) for key in ("name", "study", "seeds", "sections", "evaluate")}
    assert without.model_copy(update={"pretrain": pretrain} | changed) == with_it


# ---- Mistakes


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        # one key
        ("context.mask_probabilty", 0.5, "'context.mask_probabilty' is an unknown key; did you mean mask_probability?"),
        ("contxt", {}, "'contxt' is an unknown key; did you mean context?"),
        ("pretrain.learning_rate", "5e-5", "pretrain.learning_rate is the text '5e-5'; it must be a number such as"),
        ("pretrain.learning_rate", float("inf"), "pretrain.learning_rate is Infinity; it must be a number such as"),
        ("pretrain.steps", True, "pretrain.steps is true; it must be a whole number."),
        ("pretrain.steps", 10.0, "pretrain.steps is 10.0; it must be a whole number."),
        ("pretrain.steps", None, "pretrain.steps is empty; it must be a whole number."),
        ("pretrain.steps", "10", "pretrain.steps is the text '10'; it must be a whole number, without quotes."),
        ("pretrain.steps", 0, "pretrain.steps is 0; it must be greater than or equal to 1."),
        ("model.pretrained", 0, "model.pretrained is 0; it must be true or false."),
        ("data.root", 3, 'data.root is 3; it must be text; put it in quotes, "" for none.'),
        ("context.mask_probability", 1.5, "context.mask_probability is 1.5; it must be less than or equal to 1."),
        ("context.mask_unit", "tokens", "context.mask_unit is the text 'tokens'; choose one of: token, pair; did you"),
        ("device.jobs", 0, "device.jobs is 0; it must be auto or a whole number from 1 upward."),
        ("device.jobs", "all", "device.jobs is the text 'all'; it must be auto or a whole number from 1 upward."),
        ("device.threads", 2, "'device.threads' is an unknown key"),
        ("baselines.variance", 1.0, "'baselines.variance' is an unknown key; did you mean variance_weight?"),
        ("evaluate.probes", ["mlp"], "evaluate.probes[0] is the text 'mlp'; choose one of: paper, linear, ridge"),
        ("data.split", {"train": 1.0}, "data.split.validation is missing; copy its line from one of profiles/*.yaml."),
        ("model", 3, "model is 3; it must be a mapping of keys to values."),
        ("runs", None, "runs is empty; it must be a mapping of keys to values."),
        ("studies.main", "3diebnch", "studies.main is the text '3diebnch'; choose one of: 3diebench, augmented; did"),
        # one key of a run or base
        ("runs.simclr.seeds", 0, "runs.simclr.seeds is 0; it must be a list, in square brackets."),
        ("runs.simclr.seeds", ["0"], "runs.simclr.seeds[0] is the text '0'; it must be a whole number, without quotes"),
        ("runs.simclr.step", 5, "'runs.simclr.step' is an unknown key; did you mean steps?"),
        ("runs.simclr.zzz", 5, "'runs.simclr.zzz' is an unknown key; known are: base, dataset, method, groups, seeds,"),
        ("runs.simclr.pretrain", {"steps": 5}, "'runs.simclr.pretrain' is a section; write its keys themselves, for"),
        ("bases.masking.steps", 0, "bases.masking.steps is 0; it must be greater than or equal to 1."),
        ("bases.masking.step", 1, "'bases.masking.step' is an unknown key; did you mean steps?"),
        ("runs.simclr.method", "simclr-pluss", "the text 'simclr-pluss'; choose one of: contextssl, simclr, vicreg"),
        ("runs.simclr.sections", ["mian"], "runs.simclr.sections[0] is the text 'mian'; choose one of: main, masking"),
        # bases and studies
        ("runs.mask-090.base", "maskin", "'maskin' is an unknown base in runs.mask-090; did you mean masking?"),
        ("bases.masking.base", "ablaton", "'ablaton' is an unknown base in bases.masking; did you mean ablation?"),
        ("bases.contextssl.base", "masking", "goes in a circle, "),
        ("bases.ablation.study", "maskin", "'maskin' is an unknown study in runs.mask-090; did you mean masking?"),
        ("bases.lonely", {"steps": 1}, "bases.lonely is the base of no run; take it out."),
        ("runs.mask-090.study", "main", "studies.masking has no run; write `study: masking` in a run or take"),
        ("runs.simclr", {"base": "common"}, "runs.simclr.method is missing; write it in the run or in its base."),
        ("bases.baseline.sections", ["baselines"], "bases.baseline.sections[0] is the text 'baselines'; choose one of"),
        ("runs.simclr.study", "baselines", "runs.simclr.sections[0] is the text 'baselines'; choose one of: main, mas"),
        ("runs.Sim_CLR", {"base": "contextssl", "study": "main"}, "it must be of lower-case letters, digits and singl"),
        # a run as a whole
        ("runs.simclr.seeds", [], "runs.simclr.seeds is []; it must be a list with at least one entry."),
        ("runs.contextssl.groups", [], "runs.contextssl.groups is []; it must be at least one of rotation and color,"),
        ("runs.sie-both.groups", ["rotation", "none"], "it must be without none, which only contextssl knows."),
        ("runs.sie-both.groups", ["color", "color"], 'runs.sie-both.groups is ["color", "color"]; name each one once.'),
        ("runs.sie-both.groups", ["blur"], "it must be of rotation and color, the actions of 3diebench-mini."),
        ("runs.simclr.groups", ["color"], "it must be [], as simclr takes no action."),
        ("runs.simclr.dataset", "adult", "it must be 3diebench-mini or 3diebench, which its study main reads."),
        ("data.name", "3diebench", "runs.contextssl.dataset is the text '3diebench-mini'; it must be 3diebench, as da"),
        ("runs.mimic3", {"base": "contextssl", "dataset": "mimic3", "study": "mimic"}, "unless mimic.root names the"),
        # settings that do not fit together
        ("runs.mask-090.context_kinds", ["gender"], "it must be of rotation and color, or none, for 3diebench-mini"),
        ("runs.mask-090.context_kinds", [], "runs.mask-090.context_kinds is []; it must be a list with at least one e"),
        ("evaluate.embedding_tasks", ["classes", "classes"], '["classes", "classes"]; name each one once.'),
        ("evaluate.context_lengths", [0, 2, 128], "is [0, 2, 128]; it must be at most 126, for model.block_size = 128"),
        ("evaluate.context_lengths", [0, 3], "evaluate.context_lengths[1] is 3; it must be a multiple of 2."),
        ("evaluate.context_lengths", [2, 4], "evaluate.context_lengths is [2, 4]; it must start with 0 and rise."),
        ("runs.mask-090.block_size", 16, "model.block_size = 16 holds the pair asked about, too (in run mask-090)."),
        ("model.heads", 3, "model.width is 128; it must be a multiple of model.heads = 3."),
        ("model.block_size", 127, "model.block_size is 127; it must be a multiple of 2."),
        ("model.encoder", "resnet18", "model.feature_dim is 256; it must be 512, which resnet18 gives."),
        ("model.pretrained", True, "model.pretrained is true; it must be false for small-cnn, which has none."),
        ("data.image_size", 40, "data.image_size is 40; it must be a multiple of 16 for small-cnn."),
        ("data.split.train", 0.9, '{"train": 0.9, "validation": 0.1, "test": 0.1}; its shares must sum to 1.'),
        ("data.views", 48, "data.views is 48; it must be at most 24"),
        ("pretrain.views_per_object", 20, "pretrain.views_per_object is 20; it must be at most data.views = 16"),
        ("context.pairs_per_object", 8, "is 8; it must be at most half of pretrain.views_per_object = 2."),
        (
            "runs.contextssl",
            {"base": "contextssl", "study": "main", "pairs_per_object": 3, "views_per_object": 6},
            "context.pairs_per_object is 3; it must be a divisor of model.block_size / 2 = 64",
        ),
        ("pretrain.objects_per_step", 4, "is 4; it must be at least 64, for a context of 64 pairs, 1 of each object"),
    ],
)
def test_what_does_not_hold_is_one_sentence(key, value, sentence):
    with pytest.raises(ValueError) as error:
        settings.from_dict(changed(key, value))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert re.search(r"[^?.][?.]$", str(error.value))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("profile: ci\nprofile: ci\n", "cannot be read in line 2: .*duplicate key"),
        ("profile: \x07", "cannot be read: it is no YAML"),
        ("", "params.yaml: the file is empty; it must be a mapping of keys to values."),
    ],
)
def test_files_that_are_wrong(tmp_path, text, sentence):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        settings.load(tmp_path / "params.yaml")


def test_a_file_that_is_absent(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m lib use"):
        settings.load(tmp_path / "params.yaml")


def test_numbers_are_typed_as_declared(tmp_path):
    file = tmp_path / "params.yaml"
    text = PROFILES["laptop"].read_text(encoding="utf-8")
    file.write_text(text.replace("weight_decay: 0.1 ", "weight_decay: 5e-5 ").replace("fraction: 0.1 ", "fraction: 0 "))
    pretrain = settings.load(file).pretrain
    assert pretrain.weight_decay == 5e-5
    assert isinstance(pretrain.warmup_fraction, float)


def test_a_notebook_checks_the_section_it_was_given():
    assert settings.section("data", _small()["data"]).views == 16
    with pytest.raises(ValueError, match="'data.view' is an unknown key; did you mean views?"):
        settings.section("data", _small()["data"] | {"view": 3})
    with pytest.raises(ValueError, match="'dta' is an unknown section; did you mean data?"):
        settings.section("dta", {})


# ---- Runs


def test_flat_keys_name_one_thing_each():
    sections = [set(kind.model_fields) for kind in settings.OVERRIDABLE.values()]
    own = {"base", "name", "precision", *settings.OWN, *settings.Params.model_fields}
    assert len(set.union(own, *sections)) == len(own) + sum(map(len, sections))


def test_the_run_counts_before_its_base_before_the_bases_base_before_the_section():
    mapping = copy.deepcopy(_small())
    mapping["bases"] |= {"outer": {"base": "contextssl", "study": "main", "steps": 10, "layers": 1, "temperature": 0.9},
                         "inner": {"base": "outer", "steps": 20, "layers": 2}}  # fmt: skip
    mapping["runs"]["tried"] = {"base": "inner", "steps": 30}
    params = settings.from_dict(mapping)
    run = params.run("tried")
    assert (run.pretrain.steps, run.model.layers, run.pretrain.temperature) == (30, 2, 0.9)
    assert run.pretrain.learning_rate == params.pretrain.learning_rate
    assert params.run("contextssl").pretrain.steps == params.pretrain.steps
    assert params.run("tried", steps=40, seeds=[7]).pretrain.steps == 40
    with pytest.raises(ValueError, match="'runs.tried.stepps' is an unknown key; did you mean steps?"):
        params.run("tried", stepps=40)


def test_the_default_has_a_reference():
    ours, (_, there) = loaded("laptop").run("contextssl"), loaded("full").variation("laptop")
    assert {*ours.seeds} < {*there.seeds} and len(loaded("full").variation("width-064")[1].seeds) == 3
    named = {"name", "seeds", "study", "sections"}
    assert ours.model_dump(exclude=named) == there.model_dump(exclude=named)


def test_what_a_run_says_of_itself():
    params = loaded("laptop")
    assert [run.name for run in params.study("main")] == ["contextssl", "simclr", "without-auxiliary"]
    assert params.run("contextssl").images == 1000 * 64 * 2
    assert params.run("contextssl").sections == ("main", "auxiliary")
    assert [params.run(n).label for n in ("simclr-plus-c0", "vicreg-plus")] == ["simclr-plus-c0", "vicreg-plus"]
    assert [params.run(n).trained_group for n in ("sie-both", "contextssl")] == ["rotation+color", None]
    with pytest.raises(ValueError, match="'simcrl' is an unknown run; did you mean simclr?"):
        params.run("simcrl")
    with pytest.raises(ValueError, match="'mian' is an unknown study; did you mean main?"):
        params.study("mian")


# ---- Experiments: one -S each


def experiment(tmp_path, override):
    """The params after `dvc exp run -S <override>`, by DVC's own function."""
    file = tmp_path / "params.yaml"
    shutil.copyfile(PROFILES["laptop"], file)
    apply_overrides(file, [override])
    return settings.load(file)


@pytest.mark.parametrize(
    ("override", "warm", "cold"),
    [
        ("pretrain.temperature=0.5", ["contextssl", "mask-000", "mask-090"], []),
        ("+bases.masking.temperature=0.5", ["mask-000", "mask-090"], ["without-auxiliary", "contextssl"]),
        ("bases.augmented.temperature=0.5", ["crop-blur-contextssl", "color-blur-contextssl"], ["contextssl"]),
        ("+runs.mask-090.temperature=0.5", ["mask-090"], ["mask-000"]),
        ("+runs.new={base: masking, temperature: 0.5}", ["new"], ["mask-090"]),
    ],
)
def test_an_experiment_is_one_override(tmp_path, override, warm, cold):
    params = experiment(tmp_path, override)
    assert [params.run(name).pretrain.temperature for name in warm + cold] == [0.5] * len(warm) + [0.3] * len(cold)


@pytest.mark.parametrize(
    ("override", "error", "sentence"),
    [
        ("pretrain.temprature=0.5", InvalidArgumentError, "Invalid `--set-param` value"),
        ("bases.masking.temperature=0.5", InvalidArgumentError, "Invalid `--set-param` value"),  # no + for a new key
        ("+pretrain.temprature=0.5", ValueError, "'pretrain.temprature' is an unknown key; did you mean temperature?"),
        ("+runs.mask-090.temprature=0.5", ValueError, "'runs.mask-090.temprature' is an unknown key; did you mean"),
        ("+runs.mask-90.temperature=0.5", ValueError, "runs.mask-90.dataset is missing; write it in the run or in"),
        ("+bases.maskng.temperature=0.5", ValueError, "bases.maskng is the base of no run; did you mean masking?"),
    ],
)
def test_a_misspelled_experiment_is_refused(tmp_path, override, error, sentence):
    with pytest.raises(error) as raised:
        experiment(tmp_path, override)
    assert sentence in str(raised.value)


# ---- The commands


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository's folder with the profiles, laptop active."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "profiles", "profiles")
    shutil.copyfile(PROFILES["laptop"], "params.yaml")


def test_use_keeps_edits(folder, capsys):
    Path("params.yaml").write_text("my: edits\n")
    settings.use("ci")
    assert Path("params.yaml").read_bytes() == PROFILES["ci"].read_bytes()
    assert Path("params.yaml.orig").read_text() == "my: edits\n"
    assert "params.yaml.orig" in capsys.readouterr().out
    with pytest.raises(ValueError, match="'labtop' is an unknown profile; did you mean laptop?"):
        settings.use("labtop")


def planned(*overrides):
    """File of build/plan -> its text, after overrides of params.yaml."""
    if overrides:
        apply_overrides("params.yaml", list(overrides))
    settings.plan()
    return {path.name: path.read_text() for path in Path("build/plan").iterdir()}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("+runs.mask-090.temperature=0.5", {"masking-training", "masking-evaluation"}),
        ("+bases.masking.probe_epochs=1", {"masking-evaluation"}),
        ("mimic.patients=300", {"mimic-training", "mimic-evaluation"}),
        ("+runs.mask-090.sections=[masking, main]", {"masking-evaluation"}),
        ("device.jobs=1", set()),
    ],
)
def test_an_edit_changes_the_plan_of_its_study_alone(folder, override, changed):
    before = planned()
    after = planned(override)
    assert {name for name in before | after if before.get(name) != after.get(name)} == {f"{c}.json" for c in changed}


def test_the_plan_holds_what_a_stage_reads_and_nothing_stale(folder):
    Path("build/plan").mkdir(parents=True)
    Path("build/plan/dropped-training.json").write_text("{}")
    files = planned()
    studies = [*loaded("laptop").studies, "adult", "mimic"]
    assert sorted(files) == sorted(f"{s}-{stage}.json" for s in studies for stage in ("training", "evaluation"))
    training, evaluation = (json.loads(files[f"main-{stage}.json"])["runs"]["simclr"]
                            for stage in ("training", "evaluation"))  # fmt: skip
    assert evaluation.pop("evaluate")["retrieval_objects"] == 300
    assert evaluation.pop("sections") == ["main"] and evaluation.pop("study") == "main"
    assert training == evaluation and training["seeds"] == [0, 1, 2]


def test_the_command_line_starts_without_torch(folder):
    def called(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )

    code = "import sys; from lib.__main__ import main; main(['plan']); sys.exit('torch' in sys.modules)"
    assert called("-c", code).returncode == 0
    wrong = called("-m", "lib", "use", "labtop")
    assert (wrong.returncode, wrong.stderr) == (1, "'labtop' is an unknown profile; did you mean laptop?\n")
