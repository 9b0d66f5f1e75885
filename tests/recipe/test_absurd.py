"""Settings and recipe files that are absurd: one line each, at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resight.characters import printable
from resight.errors import ResightError
from resight.recipe.overrides import parse_setting, requested
from resight.recipe.recipe import MAX_FILE_BYTES, Recipe

HUGE = "9" * 5000
WRONG = {
    "model.width": 10**9,
    "data.image_size": 10**6,
    "data.split_seed": 2**128,
    "augment.randaugment": 10**12,
    "augment.erase": float("inf"),
    "optimizer.weight_decay": 10**400,
    "schedule.epochs": 10**12,
    "schedule.lr_max": 10**400,
    "train.batch_size": 10**12,
    "train.seed": 10**4000,
    "train.lookahead": 10**5000,
    "name": "a\ud800b",
    "data.group": "\udcff",
    "model.net": "\udcff",
}


@pytest.mark.parametrize("field", WRONG)
def test_absurd_values_are_one_line(field: str) -> None:
    with pytest.raises(ResightError) as caught:
        requested("fast", {field: WRONG[field]})
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_a_batch_beyond_all_bounds_is_refused_before_its_pieces_are_sought() -> None:
    with pytest.raises(ResightError, match=r"train\.batch_size .* must be ≤ 1000000"):
        requested("fast", {"batch_size": 10**15 + 1})


@pytest.mark.parametrize("value", [HUGE, "[" * 50_000, "{a=" * 5000])
def test_absurd_settings_of_the_command_line(value: str) -> None:
    with pytest.raises(ResightError, match=r"^--set train\.seed: ") as caught:
        parse_setting(f"train.seed={value}")
    assert len(str(caught.value)) < 200


FILES: dict[str, tuple[str, bytes]] = {
    "deep.toml": ("inside each other|in each other", b"a = " + b"[" * 100_000),
    "deep.json": ("in each other", b"[" * 100_000),
    "digits.toml": ("too many digits", f"[train]\nseed = {HUGE}".encode()),
    "digits.json": ("too many digits", f'{{"train": {{"seed": {HUGE}}}}}'.encode()),
    "infinite.json": ("finite", b'{"augment": {"erase": 1e999}}'),
    "surrogate.json": ("not valid Unicode", b'{"name": "a\\ud800b"}'),
    "key.json": ("not valid Unicode", b'{"train": {"\\ud800": 1}}'),
    "latin.toml": ("can't be read as a recipe", b'name = "\xe9"'),
    "large.toml": ("bytes", b"#" * (MAX_FILE_BYTES + 1)),
    "list.json": ("table of sections", b"[]"),
}


@pytest.mark.parametrize("name", FILES)
def test_absurd_files_are_one_line(tmp_path: Path, name: str) -> None:
    words, content = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ResightError, match=words) as caught:
        Recipe.load(tmp_path / name)
    assert str(caught.value).isprintable()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_not_waited_for(tmp_path: Path, linked: bool) -> None:
    path = tmp_path / "recipe.toml"
    pipe = tmp_path / "pipe" if linked else path
    os.mkfifo(pipe)
    if linked:
        path.symlink_to(pipe)
    with pytest.raises(ResightError, match="is not a file"):
        Recipe.load(path)


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
)
NESTED = st.recursive(
    PLAIN, lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside), max_leaves=8
)
SECTIONS = st.dictionaries(st.sampled_from([*Recipe.model_fields]) | st.text(), NESTED)


def check(call: Callable[[], object]) -> None:
    try:
        call()
    except ResightError as refused:
        said = str(refused)
    else:
        said = ""
    assert printable(said) == said


@given(SECTIONS)
def test_any_values_are_a_recipe_or_one_line(values: dict[str, Any]) -> None:
    check(lambda: Recipe.parse(values).to_toml().encode())


@given(st.binary(max_size=200), st.sampled_from(["toml", "json"]))
def test_any_file_is_a_recipe_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"recipe.{suffix}"
    path.write_bytes(content)
    check(lambda: Recipe.load(path))
