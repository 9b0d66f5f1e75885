"""The house: imports follow the order of the rooms, no modules import each other in a circle.

Every import counts: those under TYPE_CHECKING and inside functions too. `docs/design.md` has the
rooms and why they are in this order.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import resight
from resight.recipe.nets import NETS

ROOMS = (
    *("version", "characters", "errors", "validation", "extras", "records", "intervals"),
    *("findings", "files", "formats", "progress"),
    *("render", "recipe", "data", "inspection", "models", "engine", "machine"),
    *("runs", "look"),
    *("comparison", "diagnosis", "reporting", "training", "deploy", "serving", "cli"),
    *("", "__main__"),  # "": the package itself
)
OPTIONAL = {"onnx", "onnxruntime", "fastapi", "starlette", "uvicorn"}  # of the extras
HEAVY = {"torch", "matplotlib", "sklearn", "scipy", "triton"} | OPTIONAL  # kept out of start-up
START_UP = HEAVY | {"numpy", "pydantic", "rich", "PIL"}  # and these too, of the command's


@dataclass(frozen=True)
class Import:
    """`source` imports `target` (a module's full name); when: "start" with the module itself,
    "types" for the type checker alone, "call" inside a function."""

    source: str
    target: str
    when: str


def module_name(path: Path, root: Path) -> str:
    parts = ["resight", *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_modules() -> dict[str, str]:
    """Every module's name and source."""
    root = Path(resight.__file__).parent
    return {module_name(path, root): path.read_text() for path in sorted(root.rglob("*.py"))}


def imports_of(module: str, source: str, known: Mapping[str, str]) -> tuple[Import, ...]:
    return _imports_of(module, source, frozenset(known))


@functools.cache
def _imports_of(module: str, source: str, known: frozenset[str]) -> tuple[Import, ...]:
    def walk(node: ast.AST, when: str) -> Iterator[Import]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            when = "call"
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        )
        if for_types and when == "start":
            assert isinstance(node, ast.If)
            for part, kind in ((node.body, "types"), (node.orelse, when)):
                for child in part:
                    yield from walk(child, kind)
            return
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports are not used here"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield Import(module, inside if inside in known else str(node.module), when)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, when)

    return tuple(walk(ast.parse(source), "start"))


def by_name(module: str, source: str) -> list[str]:
    """Calls that import what a string names, which `imports_of` does not see."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [ast.unparse(called) for called in calls]
    ways = ("__import__", "import_module", "importlib.import_module", "exec", "eval")
    return [f"{module}: {name}" for name in names if name in ways]


def all_imports(modules: Mapping[str, str]) -> list[Import]:
    return [found for name, text in modules.items() for found in imports_of(name, text, modules)]


def room_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def circle_in(modules: Mapping[str, str]) -> list[str] | None:
    """The modules of a circle, if there is one."""
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for found in all_imports(modules):
        if found.target in modules and found.target != found.source:
            graph[found.source].add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def against_the_flow(modules: Mapping[str, str]) -> list[str]:
    """Imports of a room that comes later in `ROOMS`."""
    place = {room: i for i, room in enumerate(ROOMS)}
    return [
        f"{found.source} imports {found.target}"
        for found in all_imports(modules)
        if found.target in modules and place[room_of(found.target)] > place[room_of(found.source)]
    ]


def loaded_with(module: str, modules: Mapping[str, str]) -> set[str]:
    """What importing `module` loads: modules of the package, top-level names of others."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in modules:
            found = imports_of(name, modules[name], modules)
            waiting += [
                i.target if i.target in modules else i.target.partition(".")[0]
                for i in found
                if i.when == "start"
            ]
    return seen


def needless_local_imports(modules: Mapping[str, str]) -> list[str]:
    """Imports inside functions, or for types alone, that keep nothing out of start-up."""
    needless = []
    for found in all_imports(modules):
        if found.when == "start" or found.source == "resight":  # whose names load on first use
            continue
        if found.target in modules:
            adds = loaded_with(found.target, modules) - loaded_with(found.source, modules)
        else:
            adds = {found.target.partition(".")[0]}
        kept_out = START_UP if room_of(found.source) == "cli" else HEAVY
        if not adds & kept_out:
            needless.append(f"{found.source} imports {found.target} ({found.when})")
    return needless


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle_in(read_modules()) is None


def test_imports_follow_the_order_of_the_rooms() -> None:
    modules = read_modules()
    assert {room_of(name) for name in modules} == set(ROOMS)
    assert against_the_flow(modules) == []


def test_local_imports_only_keep_heavy_libraries_out_of_start_up() -> None:
    assert needless_local_imports(read_modules()) == []


def test_what_strings_import_is_known_and_in_order() -> None:
    modules = read_modules()
    found = [call for name, text in modules.items() for call in by_name(name, text)]
    # the package's own names, which load on first use, an extra's libraries, and a net's function
    # in its own room
    places = ("resight", "resight.extras", "resight.models.build")
    assert found == [f"{name}: importlib.import_module" for name in places]
    assert {f"resight.{home}" for home in resight._HOME.values()} <= set(modules)
    for net in NETS.values():
        assert f"resight.models.{net.build.split('.')[0]}" in modules


@pytest.mark.parametrize(
    "planted",
    [
        "import resight.training.train",
        "def later():\n    from resight.training.train import train",
        "import typing\nif typing.TYPE_CHECKING:\n    from resight.training import train",
    ],
)
def test_a_planted_circle_is_found(planted: str) -> None:
    modules = read_modules()
    modules["resight.engine.step"] += f"\n{planted}\n"
    circle = circle_in(modules)
    assert circle is not None
    assert "resight.training.train" in circle
    assert against_the_flow(modules) == ["resight.engine.step imports resight.training.train"]


def test_an_import_of_the_package_itself_is_found() -> None:
    modules = read_modules()
    modules["resight.runs.run"] += "\nfrom resight import __version__\n"
    assert "resight.runs.run imports resight" in against_the_flow(modules)
    assert circle_in(modules) is not None


@pytest.mark.parametrize(
    "test", ["not TYPE_CHECKING", "TYPE_CHECKING:\n    pass\nelif True"], ids=["not", "else"]
)
def test_an_import_beside_those_for_types_is_one_at_start(test: str) -> None:
    found = list(imports_of("resight.errors", f"if {test}:\n    import torch", {}))
    assert [(i.target, i.when) for i in found] == [("torch", "start")]


def test_a_needless_local_import_is_found() -> None:
    modules = read_modules()
    modules["resight.runs.run"] += "\ndef later():\n    import json\n"
    assert needless_local_imports(modules) == ["resight.runs.run imports json (call)"]


@pytest.mark.parametrize(
    "verb", ["look.evaluate", "reporting.report", "comparison.compare", "diagnosis.diagnose"]
)
def test_looking_at_a_run_loads_nothing_of_the_training(verb: str) -> None:
    modules = read_modules()
    waiting, seen = [f"resight.{verb}", "resight.comparison.page", "resight.cli.look"], set()
    while waiting:  # every import counts, not only those at start
        name = waiting.pop()
        if name in modules and name not in seen:
            seen.add(name)
            waiting += [found.target for found in imports_of(name, modules[name], modules)]
    assert not [name for name in seen if room_of(name) == "training"]


def test_import_resight_and_help_load_no_heavy_library() -> None:
    code = (
        "import sys, resight, resight.cli.app\n"
        f"heavy = {sorted(START_UP)} \n"
        "loaded = [name for name in heavy if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
