"""Checks of single values among Respan's parameters: each returns what is meant, or refuses and names the parameter.

Never knows which parameters there are (`params.py`, `routing_params.py`, `execution_params.py`), never repeats a value
in a message: it may be a provider's key.
"""

from collections.abc import Collection, Mapping
from typing import Any

from respan.errors import Error

MAX_NAME = 256
_MAX_LISTED = 64


class InvalidRequest(Error):
    """A body the caller has to mend; `param` names the member."""

    status = 400
    code = "invalid_request"


def flag(value: Any, name: str) -> bool | None:
    """Return true or false, None for nothing. Raises: InvalidRequest."""
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false.", param=name)
    return value


def whole(value: Any, name: str, *, least: int, most: int) -> int | None:
    """Return a whole number within bounds, None for nothing. Raises: InvalidRequest."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidRequest(f"{name} must be a whole number from {least} to {most}.", param=name)
    return value


def seconds(value: Any, name: str, *, least: float, most: float, warnings: list[str]) -> float | None:
    """Return positive seconds, taken to the nearest bound with a warning; None for nothing. Raises: InvalidRequest."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InvalidRequest(f"{name} must be a number of seconds above 0.", param=name)
    bounded = float(min(max(value, least), most))
    if bounded != value:
        warnings.append(f"{name} was set to {bounded:g}: it can be {least:g} to {most:g} seconds")
    return bounded


def members_of(value: Any, name: str, known: Collection[str]) -> Mapping[str, Any]:
    """Return an object of Respan's, none of whose members is unknown; empty for nothing. Raises: InvalidRequest."""
    given = an_object(value, name)
    if unknown := sorted(given.keys() - set(known)):
        raise InvalidRequest(
            f"{name} has unknown members: {', '.join(each[:60] for each in unknown[:5])}. "
            f"It can have {', '.join(known)}.",
            param=name,
        )
    return given


def an_object(value: Any, name: str) -> Mapping[str, Any]:
    """Return an object, an empty one for nothing. Raises: InvalidRequest."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be an object.", param=name)
    return value


def a_list(value: Any, name: str) -> list[Any]:
    """Return a list that is not too long, an empty one for nothing. Raises: InvalidRequest."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest(f"{name} must be a list.", param=name)
    if len(value) > _MAX_LISTED:
        raise InvalidRequest(f"{name} must have at most {_MAX_LISTED} entries.", param=name)
    return value


def words(value: Any, name: str) -> tuple[str, ...]:
    """Return names of models, providers or keys, each once, in order. Raises: InvalidRequest."""
    return tuple(dict.fromkeys(word(each, name) for each in a_list(value, name)))


def word(value: Any, name: str) -> str:
    """Return one name. Raises: InvalidRequest."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise InvalidRequest(f"{name} must hold names of 1 to {MAX_NAME} characters.", param=name)
    return value
