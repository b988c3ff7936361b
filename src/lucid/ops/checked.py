"""Functions that need tensors, refusing what is none by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from inspect import signature
from types import FunctionType
from typing import Any, TypeVar

from lucid.tensor.tensor import Tensor

F = TypeVar("F", bound=Any)


def check_tensor(caller: str, name: str, value: Any) -> None:
    """Raises: TypeError if ``value`` is no tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{caller}: the {name} must be a Tensor, not {type(value).__name__}; lucid.tensor(...) makes one"
        ) from None


def tensor_names(function: Callable[..., Any]) -> list[str]:
    """The parameters of a function that its annotations say are tensors."""
    return [name for name, of in function.__annotations__.items() if of == "Tensor" and name != "return"]


def checked(function: F, name: str, given: int = 0) -> F:
    """The function under a ``name``, looking first at the arguments that its annotations say are tensors.

    The first ``given`` arguments are known to be tensors. A function that takes no others is returned as it is.

    >>> def twice(x: Tensor) -> Tensor:
    ...     return x + x
    >>> checked(twice, "twice")(2)
    Traceback (most recent call last):
    TypeError: twice: the x must be a Tensor, not int; lucid.tensor(...) makes one
    """
    wanted = tensor_names(function)
    code = function.__code__
    places = [i for i, of in enumerate(code.co_varnames[: code.co_argcount]) if of in wanted and i >= given]
    if not places:
        return function

    @wraps(function)
    def looking(*args: Any, **keywords: Any) -> Any:
        for i in places:
            if i >= len(args) or not isinstance(args[i], Tensor):
                _check_all(function, name, wanted, args, keywords)
                break
        return function(*args, **keywords)

    looking.__name__ = name
    return looking  # type: ignore[return-value]


def _check_all(
    function: Callable[..., Any], name: str, wanted: list[str], args: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    """The same for arguments of which some were given by name, or are missing: then Python says so."""
    found = signature(function).bind(*args, **keywords).arguments
    for parameter in wanted:
        if parameter in found:
            check_tensor(name, parameter, found[parameter])


def public(module: str, names: Iterable[str], page: Mapping[str, Any]) -> dict[str, Any]:
    """A module's functions as users meet them: ``checked`` under the names they have there, and pickled by those."""
    functions = {}
    for name in names:
        if isinstance(page[name], FunctionType):
            functions[name] = found = checked(page[name], name)
            if found is not page[name]:
                found.__module__, found.__qualname__ = module, name
    return functions
