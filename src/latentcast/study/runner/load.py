"""Studies by name or file, and one clear error for a file that is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from latentcast.errors import ParameterError
from latentcast.study.runner.config import StudyConfig
from latentcast.study.runner.misspelt import unknown_key

__all__ = ["BUILT_IN", "built_in_text", "load_study", "parse_study"]

BUILT_IN = ("fig2", "fig3", "fig3-model", "limit")
"""Names of the studies that come with the package."""


def built_in_text(name: str) -> str:
    """The TOML file of a built-in study.

    Raises:
        ParameterError: If there is none of this name.

    Example:
        >>> "[link]" in built_in_text("fig3")
        True
    """
    if name not in BUILT_IN:
        raise ParameterError(f"there is no built-in study {name!r}; choose {', '.join(BUILT_IN)}")
    return files("latentcast.study.runner").joinpath("builtin", f"{name}.toml").read_text(encoding="utf-8")


def load_study(
    source: str | Path, *, episodes: int | None = None, pictures: bool = True, **changes: Any
) -> StudyConfig:
    """Read a study.

    Args:
        source: A built-in name, or a TOML file.
        episodes: Episodes to run instead of what the file says; of a validation, its trajectories.
        pictures: False leaves out whatever needs decoded pictures.
        changes: Top-level keys to set instead of what the file says.

    Raises:
        ParameterError: If there is no such study, or something in it is wrong: the key, its place, and what
            would be right.

    Example:
        >>> load_study("fig3", episodes=10).episodes
        10
    """
    if source in BUILT_IN:
        return parse_study(
            built_in_text(str(source)), str(source), episodes=episodes, pictures=pictures, **changes
        )
    path = Path(source)
    try:
        path = path.expanduser()
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is not UTF-8 text; a study is a TOML file") from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParameterError(
            f"cannot read the study {str(source)!r}: {str(reason).lower()}; give a TOML file or one of "
            f"{', '.join(BUILT_IN)}"
        ) from error
    return parse_study(text, str(path), episodes=episodes, pictures=pictures, **changes)


def parse_study(
    text: str,
    name: str = "the study",
    *,
    episodes: int | None = None,
    pictures: bool = True,
    **changes: Any,
) -> StudyConfig:
    r"""A study from the text of its file.

    Args:
        text: TOML.
        name: What errors call it.
        episodes: As `load_study`.
        pictures: As `load_study`.
        changes: As `load_study`.

    Raises:
        ParameterError: As `load_study`.

    Example:
        >>> parse_study("[link]\nsnr_bd = 3")
        Traceback (most recent call last):
        ...
        latentcast.errors.ParameterError: the study: unknown key 'snr_bd' in [link]; did you mean 'snr_db'?
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ParameterError(f"{name} is not valid TOML: {error}") from error
    values |= changes
    validation = values.get("kind") == "validation"
    if episodes is not None:
        if validation:
            _set(values, "trajectories", "count", episodes)
        else:
            values["episodes"] = episodes
    if not pictures:
        if validation:
            _set(values, "validation", "pictures", 0)
        else:
            values.pop("metrics", None)
    try:
        return StudyConfig.model_validate(values)
    except ValidationError as error:
        raise ParameterError(f"{name}: {_explain(error)}") from error


def _set(values: dict[str, Any], table: str, key: str, value: Any) -> None:
    inner = values.get(table, {})
    if isinstance(inner, dict):  # anything else is refused later
        values[table] = {**inner, key: value}


def _explain(error: ValidationError) -> str:
    """The first thing that is wrong; a misspelt key before what is missing because of it."""
    problems = error.errors(include_url=False, include_context=False)
    problem = min(problems, key=lambda item: item["type"] != "extra_forbidden")
    names = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        table = f"[{'.'.join(names[:-1])}]" if names[1:] else "the top level"
        return unknown_key(names[-1], table, tuple(_model_at(names[:-1]).model_fields))
    place = ".".join(names)
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{place} is missing"
    if problem["type"] == "value_error":
        return f"{place}: {reason}" if place else reason
    given = problem["input"]
    shown = "a table" if isinstance(given, Mapping) else repr(given)[:60]
    return f"{place} is {shown}; {reason[:1].lower()}{reason[1:]}"


def _model_at(names: list[str]) -> type[BaseModel]:
    """The table of a dotted name."""
    model: type[BaseModel] = StudyConfig
    for name in filter(str.isidentifier, names):  # not a place in a list
        annotation = model.model_fields[name].annotation
        candidates = (annotation, *get_args(annotation))
        model = next(kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel))
    return model
