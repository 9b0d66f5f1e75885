"""What pydantic refuses, in plain words."""

from __future__ import annotations

from pydantic_core import ErrorDetails

MAX_SHOWN = 80  # characters of a value
WANTED = {  # pydantic's types of errors, in plain words
    "missing": "is missing",
    "json_invalid": "is not JSON",
    "finite_number": "must be a finite number",
    **dict.fromkeys(("int_type", "int_from_float"), "must be an integer"),
    "float_type": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "must be a table"),
}
SIGNS = {
    "Input should be": "must be",
    "List should have": "must have",
    " after validation": "",
    "greater than or equal to": "≥",
    "greater than": ">",
    "less than or equal to": "≤",
    "less than": "<",
}


def wanted(error: ErrorDetails) -> str:
    """What pydantic wants of a value, in plain words: `must be an integer`, `is missing`."""
    message = error["msg"]
    if error["type"] == "value_error":  # one of ours
        return message.removeprefix("Value error, ")
    for theirs, ours in SIGNS.items():
        message = message.replace(theirs, ours)
    return WANTED.get(error["type"], f"{message[:1].lower()}{message[1:]}")


def fault(error: ErrorDetails) -> str:
    """What pydantic refuses, with key and value: `data.train = 'x' must be an integer`."""
    key = ".".join(str(part) for part in error["loc"]) or "it"
    said = wanted(error)
    if said.startswith("is "):
        return f"{key} {said}"
    if not said.startswith("must "):
        return said  # of several keys together
    simple = isinstance(error["input"], str | int | float | None)
    return f"{key} = {quoted(error['input'])} {said}" if simple else f"{key} {said}"


def quoted(value: object) -> str:
    """A value as Python writes it, cut off where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4,300 digits; nested too deeply
        return "…"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
