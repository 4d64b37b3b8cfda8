"""Packages of the `data` extra, imported when a loader needs them."""

from __future__ import annotations

import importlib
from typing import Any

from ...errors import MissingPackageError


def optional(module: str, purpose: str) -> Any:  # noqa: ANN401 - a module
    """Import `module`, or say how to install it.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingPackageError(
            f"{purpose} needs {package}, which cannot be imported ({error}); install it with "
            "`pip install 'nprobot[data]'`."
        ) from error
