"""Made: a class of fields that is also called with a model.

`Objective` is a frozen dataclass, so that `replace` gives another one; people call it with their model.
"""

from __future__ import annotations

from typing import Any

from torch import nn


class MadeOfModel(type):
    """The class of a class with fields and a method `of`: called with a model, it is that method."""

    def __call__(cls, *given: Any, **named: Any) -> Any:
        """An instance: of live code where a model is given, else of the fields."""
        if isinstance(given[0] if given else named.get("model"), nn.Module):
            return cls.of(*given, **named)  # type: ignore[attr-defined]
        return super().__call__(*given, **named)
