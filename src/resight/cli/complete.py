"""What a shell's tab key offers for an option's or argument's value, given what is typed so far.

Where nothing is offered the shell offers files. `tests/cli/test_complete.py` asks as a shell does.
"""

from __future__ import annotations

import glob
import shlex
from collections.abc import Callable
from pathlib import Path

from resight.recipe.nets import NETS

Offer = Callable[[str], list[str]]
RUN_FILES = ("recipe.json", "seeds.json")  # of a run, and of a folder with the runs of seeds
DEPTHS = ("*", "*/*")  # such as RUN and runs/RUN


def words(*known: str) -> Offer:
    def offer(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return offer


def recipe_names(incomplete: str) -> list[str]:
    from resight.recipe.catalog import AUTO, RECIPES

    return words(AUTO, *RECIPES)(incomplete)


def nets_recipes_and_runs(incomplete: str) -> list[str]:
    from resight.recipe.catalog import RECIPES

    names = words(*dict.fromkeys((*NETS, *RECIPES)))(incomplete)
    return names + run_folders(incomplete)


def run_folders(incomplete: str) -> list[str]:
    """Folders of runs up to one level below what is typed; those that need no quotes."""
    start = glob.escape(incomplete)
    found = {
        str(Path(file).parent)
        for depth in DEPTHS
        for name in RUN_FILES
        for file in glob.glob(f"{start}{depth}/{name}")  # noqa: PTH207, which has no escape
    }
    return sorted(folder for folder in found if shlex.quote(folder) == folder)
