"""`digits`: the command line. Nothing heavy is imported before it is used."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from pipeline import artifacts, config, datasets, endings, stages
from pipeline.cli import (
    bench,
    kaggle,
    pictures,
    presets,
    result,
    runs,
    show,
    status,
    submit,
    watch,
)
from pipeline.cli.options import (
    AcceleratorOption,
    AddressOption,
    DatasetOption,
    EngineOption,
    ForceOption,
    JobsOption,
    PresetOption,
)
from pipeline.cli.screen import print_choice
from pipeline.errors import UserError
from pipeline.stages import STAGES, Stage
from pipeline.train.engines import ACCELERATOR, select, train_folds, train_same

SAME = (
    "After a change of code that should change no result: train one fold of each network again, "
    "and if it comes out the same, record the others as fresh."
)


class Headings(typer.core.TyperGroup):
    """A group whose --help lists the commands under the headings that they were added with."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the lists."""
        commands: list[Any] = [self.commands[name] for name in self.list_commands(ctx)]
        width = max(len(name) for name in self.commands)
        for heading in dict.fromkeys(command.rich_help_panel for command in commands):
            rows = [
                (f"{command.name:{width}}", command.get_short_help_str(formatter.width - width - 6))
                for command in commands
                if command.rich_help_panel == heading
            ]
            with formatter.section(heading):
                formatter.write_dl(rows)


app = typer.Typer(
    cls=Headings,
    help="Digit Recognizer, from the competition's CSVs to a score. Each stage is a command that "
    "does its work if it is due; `make` runs them in order. To start: make demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the command."""
    if debug:
        os.environ["DIGITS_DEBUG"] = "1"


# --- the stages, from their declarations --------------------------------------------------------


def _command(stage: Stage) -> Callable[..., None]:
    """The command of a stage that runs once."""

    def command(
        dataset: DatasetOption = "kaggle",
        preset: PresetOption = "default",
        force: ForceOption = False,
    ) -> None:
        graph = stages.load(dataset, preset)
        artifacts.run(graph.task(stage.name), graph.tasks, force)

    return command


def _command_per_fold(stage: Stage) -> Callable[..., None]:
    """The command of a stage that runs once per fold."""

    def command(
        dataset: DatasetOption = "kaggle",
        preset: PresetOption = "default",
        force: ForceOption = False,
        folds: Annotated[str, typer.Option("--fold", "--folds", help="Such as 2 or 0,2.")] = "all",
        epochs: Annotated[int | None, typer.Option(min=1, help="Fewer epochs: a trial.")] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="Fewer rows: a trial.")] = None,
        same: Annotated[bool, typer.Option("--same", help=SAME)] = False,
        jobs: JobsOption = None,
        engine: EngineOption = "local",
        address: AddressOption = None,
        accelerator: AcceleratorOption = ACCELERATOR,
    ) -> None:
        chosen = config.load(preset)
        if epochs is not None or limit is not None:
            chosen = config.trial(chosen, epochs=epochs, limit=limit)
        graph = stages.graph(datasets.dataset(dataset, stages.ROOT), chosen)
        print_choice(graph)
        wanted = select(graph.all(stage.name), folds)
        if same:
            train_same(wanted, graph.tasks)
            return
        train_folds(wanted, graph.tasks, force, jobs, engine, address, accelerator)

    return command


for number, stage in enumerate(STAGES, start=1):
    more = " A trial with --epochs or --limit goes to data/DATASET/scratch/." * stage.per_fold
    _add = app.command(
        stage.name, help=f"Stage {number}: {stage.help}{more}", rich_help_panel="Stages"
    )
    _add(_command_per_fold(stage) if stage.per_fold else _command(stage))


# --- the other commands -------------------------------------------------------------------------

YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def clean(yes: YesOption = False) -> None:
    """Remove what can be rebuilt; raw data stay.

    Submissions stay too. Asks first if it would remove networks.
    """
    from pipeline import clean

    clean.clean(stages.ROOT, yes)


def distclean(
    yes: YesOption = False,
    venv: Annotated[Path, typer.Option(help="The environment's folder.")] = stages.ROOT / ".venv",
) -> None:
    """Remove all data and the environment.

    Submissions stay, and so does an environment outside the project. Asks first if it would
    remove networks.
    """
    from pipeline import clean

    clean.distclean(stages.ROOT, yes, venv)


# In the order of --help, by their headings.
COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Results": {
        "status": status.status,
        "watch": watch.watch,
        "result": result.result,
        "show": show.show,
        "runs": runs.runs,
    },
    "Your own pictures": {
        "predict": pictures.predict,
        "draw": pictures.draw,
        "export": pictures.export,
    },
    "Kaggle": {
        "check": submit.check,
        "submit": submit.submit,
        "ledger": submit.ledger,
    },
    "Experiments": {
        "config": presets.parameters,
        "compare": bench.compare,
        "sweep": bench.sweep,
        "bench": bench.bench,
        "reproduce": bench.reproduce,
    },
    "Cleaning": {
        "clean": clean,
        "distclean": distclean,
    },
}
for heading, commands in COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=heading)(command)
app.add_typer(kaggle.app, name="kaggle", rich_help_panel="Kaggle")


def _follow_the_user() -> None:
    """Run the code of the clone that the user is in: clones may share an environment."""
    here = Path.cwd()
    clone = next((p for p in (here, *here.parents) if (p / "pipeline/stages.py").exists()), None)
    if clone is None or clone.samefile(stages.ROOT):
        return
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if path[0] == str(clone):  # this has been tried
        raise UserError(f"this command works on {stages.ROOT}, but you are in {clone}; leave it")
    _start_again(PYTHONPATH=os.pathsep.join([str(clone), *filter(None, path)]))


def _start_again(**variables: str) -> None:
    """Replace this process by one with the same words and more variables."""
    os.environ.update(variables)
    os.execv(sys.executable, [sys.executable, "-m", "pipeline", *sys.argv[1:]])  # noqa: S606


def main() -> None:
    """Run the command line; see `endings` for the exit codes."""
    # A terminal that lacks ± or █ shows a question mark.
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    try:
        if sys.getfilesystemencoding() != "utf-8":  # TensorFlow takes every path as UTF-8
            _start_again(PYTHONUTF8="1", PYTHONIOENCODING=sys.stdout.encoding)
        _follow_the_user()
        code = app(standalone_mode=False, prog_name="digits")
        if code == 130:  # Typer's answer to Ctrl-C, without a message
            raise KeyboardInterrupt
    except (Exception, KeyboardInterrupt) as error:
        if "DIGITS_DEBUG" in os.environ:
            traceback.print_exc()
        if type(error).__name__ == "NoArgsIsHelpError":  # commands to choose from, and none chosen
            print(error.format_message(), file=sys.stderr)  # type: ignore[union-attr]
            sys.exit(2)
        line, code = endings.ending(error)
        line = " ".join(line.split()).replace(f"{stages.ROOT}/", "")
        print(f"digits: {line}", file=sys.stderr)
    sys.exit(code)
