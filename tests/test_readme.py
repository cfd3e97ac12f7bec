"""The numbers of README.md are those of the committed results: a sentence that tells them is put together from these.

Your own run changes results, so what counts is what was committed.
"""

import gzip
import json
import re
import subprocess
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from lib.report import claims

ROOT = Path(__file__).parents[1]


def committed(path, read=bytes.decode):
    """A file as it was committed."""
    found = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True)
    return read(found.stdout) if found.returncode == 0 else pytest.skip("no git repository")


def table(path):
    return pd.read_csv(StringIO(committed(path)))


def short(value: float) -> str:
    """.73, and 0 for what rounds to it."""
    told = re.sub(r"^(-?)0\.", r"\1.", f"{value:.2f}")
    return "0" if told.strip("-") == ".00" else told


def mean(values: Iterable[float]) -> str:
    return short(pd.Series([*values]).mean())


def reach(values: Iterable[float]) -> str:
    """The lowest and the highest seed."""
    low, high = short(min(values)), short(max(values))
    return low if low == high else f"{low} to {high}"


def assert_told(*sentences):
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    missing = [sentence for sentence in sentences if sentence not in text]
    assert not missing, "README.md does not say:\n" + "\n".join(missing)


@pytest.fixture(scope="module")
def metrics():
    """Each number of the default and of full, a list over seeds of means over contexts."""

    def flat(tree, path=""):
        for key, value in tree.items():
            yield from flat(value, f"{path}{key}.") if isinstance(value, dict) else [(path + key, value)]

    return {
        name: dict(flat(json.loads(committed(f"{folder}/metrics.json"))))
        for name, folder in {"default": "results", "full": "results/full"}.items()
    }


def test_verdicts():
    found = {}
    for name, folder in {"default": "results", "full": "results/full"}.items():
        told = table(f"{folder}/20_compare/claims.csv")
        told["word"] = told["verdict"].str.replace(r" \(.*", "", regex=True)
        found[name] = {whose: of["word"].value_counts() for whose, of in told.groupby("whose")}
        several = (told["whose"] == "paper") & (told["word"] == "holds") & (told["n seeds"] > 1)
        found[name]["several"] = several.sum()
    own, paper, full = found["default"]["ours"], found["default"]["paper"], found["full"]["paper"]
    done = re.search(r"\*\*(\d+ of \d+ checkpoints)\*\*", committed("results/full/README.md"))[1]
    assert_told(
        f"Of {paper.sum()} claims of the paper, {paper['holds']} hold on these stand-in data "
        f"({found['default']['several']} of them with several seeds), {paper['mixed']} are mixed, "
        f"{paper['does not']} do not hold and {paper['not testable']} are not testable",
        f"of {own.sum()} claims of our own {own['holds']} hold",
        f"{full['holds']} hold ({found['full']['several']} of them with several seeds), {full['mixed']} are mixed, "
        f"{full['does not']} do not hold, and {full['not testable']} are not testable",
        f"`results/full/rows` has {done}",
    )


@pytest.mark.parametrize("folder", ["results", "results/full"])
def test_verdicts_in_git_are_about_claims_that_exist(folder):
    """Else the book, the last stage of a reader's first `make`, refuses them."""
    told = table(f"{folder}/20_compare/claims.csv")
    assert set(told["id"]) == {claim["id"] for claim in claims.load(ROOT / "paper/claims.yaml")}


def test_headline(metrics):
    def gone(of, kind="relative", read=mean):
        """What is left of the other group: (of, to) of rotation in a color context, then of color in the other one."""
        pairs = (f"{kind}.color.r2_rotation", f"{kind}.rotation.r2_color")
        return [(read(of[f"{name}.c0"]), read(of[f"{name}.c126"])) for name in pairs]

    ours, full = metrics["default"], metrics["full"]
    (rotation, color), (rotation_full, color_full) = gone(ours), gone(full)
    rotation_real, color_real = gone(ours, "relative_real_meshes")
    single = [of["individual.color.r2_rotation.c0"] for of in (ours, full)]
    single_left = [of["individual.color.r2_rotation.c126"] for of in (ours, full)]
    assert_told(
        "the color context takes rotation from {} to {}, the rotation context takes color from {} to {}.".format(
            *rotation, *color
        ),
        "it is {} to {} and {} to {}, and each keeps its own group".format(*rotation_full, *color_full),
        "(rotation {} to {}, color {} to {})".format(*rotation_real, *color_real),
        f"a probe still reads {reach(single_left[0])} of rotation (of {mean(single[0])}) in the default, of "
        f"{mean(single[1])} {reach(single_left[1])} in `full`",
        f"finds it in {mean(ours['shortcut.m010.foreign'])} of cases, chance .016",
    )


def test_masking(metrics):
    full = metrics["full"]

    def left(p, context, metric, length):
        return reach(full[f"masking.p{p}.{context}.{metric}.c{length}"])

    color, rotation = ("rotation", "r2_color", 126), ("color", "r2_rotation", 126)
    at_14 = ("color", "r2_rotation", 14)
    assert_told(
        f"of color it leaves {left('090', *color)}, p = 0 {left('000', *color)}, p = .98 {left('098', *color)}; of "
        f"rotation {left('090', *rotation)}, {left('000', *rotation)} and {left('098', *rotation)}",
        f"ahead of p = 0 (rotation: {left('090', *at_14)} against {left('000', *at_14)})",
    )


def test_labels_and_people(metrics):
    def obeyed(context, length):
        of = pd.Series(metrics["full"][f"labels.contextssl.{context}.c{length}"])
        return 100 * of.mean()

    adult = table("results/full/31_adult/verdicts.csv").set_index("id")
    table_17 = table("results/full/31_adult/table-17.csv").set_index(["environment", "context", "source"])["income AUC"]
    gain = adult.loc["adult-equivariant-income-is-read-better", "estimate"]
    flipped, standardized = (
        short(adult.loc[f"adult-invariant-gender-column-is-forgotten-{of}", "estimate"])
        for of in ("flipped", "standardized")
    )
    before, after = adult.loc["adult-invariant-true-positive-gap-shrinks", "because"].split(",")[0].split(" → ")
    assert_told(
        f"in {obeyed('rotation', 126):.1f} % of cases with 126 tokens (without context in {obeyed('rotation', 0):.0f} "
        f"and {obeyed('color', 0):.0f} %)",
        f"flipped in {flipped} of cases, on standardized embeddings in {standardized},",
        f"income stays (AUC {short(float(table_17['invariant', 126, 'ours'].split()[0]))};",
        f"gains {gain:.3f} in the equivariant".replace(" 0.", " ."),
        f"the true-positive gap shrinks from {short(float(before))} to {short(float(after))} and",
    )


def test_baselines(metrics):
    read = table("results/full/10_main_results/baselines.csv").set_index(["method", "trained for", "group"])
    ours, simclr = (float(read.loc[("EquiMod", "rotation", "rotation"), of].split()[0]) for of in ("R²", "SimCLR"))
    without = metrics["full"]["relative.rotation.r2_rotation.c0"]
    assert_told(f"(R² {short(ours)} against {short(simclr)}; ContextSSL without a context {mean(without)})")


def test_photographs():
    told = table("results/cifar10-jpeg/augmentations.csv")
    word = told["verdict"].str.replace(r" \(.*", "", regex=True)

    def counts(asked):
        return word[told["claim"].str.contains(asked)].value_counts()

    kept, down, above = counts("in its own context"), counts(r"falls by more"), counts("better than by SimCLR")
    numbers = {1: "one", 2: "two", 4: "four", 6: "six"}

    def r2(pair, group, context, length):
        at = table(f"results/cifar10-jpeg/table-{pair}.csv").set_index(["measure", "method", "environment", "whose"])
        of = at.loc[(f"{group} R²", "ContextSSL", context, "ours, per component"), str(length)]
        return short(float(of.split()[0]))

    assert (kept.sum(), down.sum(), above.sum()) == (12, 12, 6)
    assert_told(
        f"keeps its own group (in {numbers[kept['mixed']]} of twelve cases *mixed*) and is above SimCLR on it in "
        f"{numbers[above['holds']]} of six. The other group is turned down in {numbers[down['holds']]} of twelve cases "
        f"(blur beside color: R² {r2(12, 'blur', 'color', 0)} to {r2(12, 'blur', 'color', 126)} of relative latents) "
        f"and in {numbers[down['mixed']]} *mixed* (blur beside crop {r2('02', 'blur', 'crop', 0)} to "
        f"{r2('02', 'blur', 'crop', 126)}, color beside blur {r2(12, 'color', 'blur', 0)} to "
        f"{r2(12, 'color', 'blur', 126)})",
        f"with R² {r2('02', 'crop', 'crop', 0)} beside blur and {r2(13, 'crop', 'crop', 0)} beside color",
    )


def test_single_changes():
    rows = pd.read_csv(
        StringIO(committed("results/full/rows/robustness/rows.csv.gz", lambda data: gzip.decompress(data).decode())),
        keep_default_na=False,
    )
    rows = rows[(rows["space"] == "embedding") & (rows["objects"] == "parametric") & (rows["variant"] == "")]

    def read(run, target, context, group, length, probe="paper"):
        """R² per component of each seed, a mean over its contexts."""
        found = rows[
            (rows["run"] == run) & (rows["target"] == target) & (rows["environment"] == context)
            & (rows["metric"] == f"r2_{group}_per_component") & (rows["context_length"].astype(str) == str(length))
            & (rows["probe"] == probe)
        ]  # fmt: skip
        return found.groupby("seed")["value"].mean()

    def share(run, context, group):
        of = [read(run, "individual", context, group, length, "strong").mean() for length in (126, 0)]
        return short(of[0] / of[1])

    single = "individual", "color", "rotation"
    longer = "steps-2000"
    assert_told(
        f"of single images {reach(read(longer, *single, 126))} of rotation (of {mean(read(longer, *single, 0))}) and "
        f"{mean(read(longer, 'individual', 'rotation', 'color', 126))} of color are left, and a strong probe reads "
        f"{share(longer, 'color', 'rotation')} of the rotation and {share(longer, 'rotation', 'color')} of the color",
        f"it is {reach(read('laptop', *single, 126))} of {mean(read('laptop', *single, 0))}",
    )


def test_essl():
    def signs(folder):
        told = table(f"{folder}/verdicts.csv")
        signs = told[told["paper"].str.contains("sign") & told["id"].str.contains("helps|hurts|harm")]
        return signs["verdict"].str.replace(r" \(.*", "", regex=True).value_counts(), len(signs)

    (photographs, of), (scenes, _) = signs("results/essl-cifar10-jpeg"), signs("results/full/41_diagnosis")
    bridge = table("results/full/44_bridge/table.csv").set_index(["dataset", "way", "choice", "measure"])["mean"]

    def r2(choice, group, dataset="3diebench-mini", way="E-SSL"):
        return re.sub("^0", ".0", short(bridge[dataset, way, choice, f"R² of {group}"]))

    assert_told(
        f"These {photographs['holds']} of {of} published signs *hold*",
        f"{scenes['holds']} of {of} signs hold, {scenes['mixed']} are mixed",
        f"(R² {r2('invariant', 'rotation')} to {r2('sensitive to rotation', 'rotation')})",
        f"{r2('sensitive to color', 'color')}) and costs rotation ({r2('sensitive to color', 'rotation')} is left)",
        f"color wins ({r2('sensitive to rotation and color', 'color')}; rotation "
        f"{r2('sensitive to rotation and color', 'rotation')})",
        f"({r2('no context', 'rotation', way='ContextSSL')} and {r2('no context', 'color', way='ContextSSL')} without "
        f"a context)",
        f"brings crop ({r2('invariant', 'crop', 'crop-blur')} to {r2('sensitive to crop', 'crop', 'crop-blur')})",
    )
