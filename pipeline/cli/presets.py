"""`digits config`: the parameters of a preset, and the presets."""

import json
import math
from dataclasses import fields
from typing import Annotated

import typer

from pipeline import config
from pipeline.cli.options import PRESETS
from pipeline.cli.screen import print_table


def parameters(
    preset: Annotated[str | None, typer.Option("--config", help=PRESETS)] = None,
) -> None:
    """Show a preset's parameters, their meaning and range.

    * marks what is not default. What a preset inherits (base = "fast") is marked with its origin.
    Without --config, shows the defaults, and lists the presets.
    """
    chosen, origins = config.load(preset or "default"), config.origins(preset or "default")
    for table in config.TABLES:
        if table == "about" or (table == "train" and chosen.others):
            continue
        print(f"[{table}]")
        for parameter in fields(getattr(chosen, table)):
            value = getattr(getattr(chosen, table), parameter.name)
            mark = " " if value == parameter.default else "*"
            text = f"{mark} {parameter.name} = {json.dumps(value)}"
            origin = origins.get(f"{table}.{parameter.name}", chosen.name)
            source = f"; from {origin}" if origin != chosen.name else ""
            meaning = f"{parameter.metadata['meaning']} ({config.allowed(parameter)}{source})"
            print(f"{text:<33} # {meaning}")
    if chosen.others:
        members = " ".join(member.name for member in chosen.others)
        print(f"each member has its own [train]: {members}")
    if preset is None:
        _print_presets()


def _print_presets() -> None:
    """Print the presets that come with the pipeline, the quickest first."""
    rows = []
    loaded = [config.load(name) for name in config.preset_names()]
    for preset in sorted(loaded, key=lambda each: (each.about.seconds or math.inf, each.name)):
        about = preset.about
        seconds = f"{about.seconds:,.4g} s" if about.seconds else ""
        rows.append((preset.name, f"{about.accuracy:.5f}", seconds, about.use))
    print_table(("preset", "accuracy", "training", "use it for"), rows)
    print(
        "accuracy: measured on different held-out rows (README.md), so its last digits do not rank "
        "presets; training: two cores with bfloat16; `digits config --config fast` shows one preset"
    )
