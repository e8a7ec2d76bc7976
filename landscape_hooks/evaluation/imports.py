"""Imports: what "module:function" means, and what such a function returns."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from landscape_hooks.errors import ObjectiveError


def called(function: Callable[[], Any]) -> Any:
    """What a function without arguments returns; what goes wrong inside of it is the caller's own to see."""
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError) as error:
        name = getattr(function, "__qualname__", type(function).__name__)
        raise ObjectiveError(
            f"'{name}' cannot be called without arguments ({error})", expected="a function that takes none"
        ) from error
    return function()


def import_string(text: str) -> Any:
    """The object that "module:name" means; modules of the working directory count.

    Raises
    ------
    ObjectiveError
        no such module, no such name in it, or the text is of another form.
    """
    module, _, attribute = text.partition(":")
    if not module or not attribute:
        raise ObjectiveError(f"Found '{text}'", expected="module:function, like train:make_objective")
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ObjectiveError(
            f"'{text}' cannot be imported ({error})", mend="Run where the module lies, or put it on PYTHONPATH"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    return found
