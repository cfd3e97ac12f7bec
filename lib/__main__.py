"""The one command line: python -m lib <command>; `python -m lib <command> --help` says more.

Each command imports what it needs when it is called, so that `plan` starts without torch.
"""

import argparse
import sys

# jsonschema, which checks notebooks, would compile a grammar of international web addresses: two seconds a stage.
sys.modules.setdefault("rfc3987_syntax", None)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m lib", description="The commands of the compendium.")
    commands = found.add_subparsers(dest="command", required=True, metavar="command")

    use = commands.add_parser("use", help="make profiles/<profile>.yaml the params.yaml")
    use.add_argument("profile", help="ci, course, laptop, full or paper")

    commands.add_parser("plan", help="write build/plan/: the settings that each study's stages depend on")

    run = commands.add_parser("run", help="execute a notebook as a stage does")
    run.add_argument("notebook", help="its name without folder and ending, such as 03_pretrain")
    run.add_argument("item", nargs="*", help="the stage's item, such as study=masking")

    train = commands.add_parser("train", help="train one run with one seed into the store, where `dvc repro` finds it")
    train.add_argument("run", help="a name from `runs` of params.yaml")
    train.add_argument("seed", type=int)

    full = commands.add_parser("full", help="compute what is missing of profiles/full.yaml, into results/full/")
    full.add_argument("minutes", type=float, nargs="?", help="after these no task is started; without them, to the end")

    attempt = commands.add_parser("try", help="a trial of settings on validation objects, into results/trials.csv")
    attempt.add_argument("name", help="what the log calls it")
    attempt.add_argument("run", help="a name from `runs` of params.yaml")
    attempt.add_argument("seed", type=int)
    attempt.add_argument("changes", nargs="*", metavar="key=value", help="flat changes of the run")

    photographs = commands.add_parser("photographs", help="the hand-crafted augmentations on real photographs")
    photographs.add_argument("folder", help="folder or archive of images")

    diagnosis = commands.add_parser("essl-photographs", help="E-SSL's diagnosis on real photographs")
    diagnosis.add_argument("folder", help="folder or archive of images")

    commands.add_parser("book", help="make build/book/ of the executed notebooks")
    commands.add_parser("benchmark", help="measure this machine")
    return found


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    if given.command in ("use", "plan"):
        from lib.pipeline import settings

        settings.plan() if given.command == "plan" else settings.use(given.profile)
    elif given.command == "run":
        from lib.pipeline import run

        run.main([given.notebook, *given.item])
    elif given.command == "train":
        from lib.pipeline import study

        study.train_one(given.run, given.seed)
    elif given.command == "full":
        from lib.pipeline import full

        full.main(given.minutes)
    elif given.command == "try":
        from ruamel.yaml import YAML

        from lib.pipeline import trials

        changes = {key: YAML(typ="safe").load(value) for key, _, value in (c.partition("=") for c in given.changes)}
        for measure, value in trials.attempt(given.name, given.run, given.seed, **changes).items():
            print(f"{measure}: {value}")
    elif given.command == "photographs":
        from lib.pipeline import photographs

        photographs.main(given.folder)
    elif given.command == "essl-photographs":
        from lib.pipeline import essl_photographs

        essl_photographs.main(given.folder)
    elif given.command == "book":
        from lib import book

        book.main()
    elif given.command == "benchmark":
        from lib.pipeline import benchmark

        benchmark.main()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError, FloatingPointError, RuntimeError) as error:
        sys.exit(" ".join(str(error).split()))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on from what is finished.")
