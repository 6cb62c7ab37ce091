"""A model for whose plan only shapes matter is built without drawing its random weights: that is most of the time it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DRAWS = {Tensor.normal_, Tensor.uniform_}


class NoValues(TorchFunctionMode):
    """While it is entered, tensors that were to be filled stay as they are, and take no memory until someone writes."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What fills a tensor returns it."""
        kwargs = kwargs or {}
        is_filling = getattr(function, "__module__", "") == torch.nn.init.__name__ and function.__name__.endswith("_")
        if function in DRAWS or is_filling:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)
