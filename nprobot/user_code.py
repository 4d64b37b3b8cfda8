"""Code of the user's own: imported from the folder at hand too, and its errors in one line."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType

from .errors import ConfigError

_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib"))


def import_named(module: str) -> ModuleType:
    """A module that the user has named, from Python's path or the folder at hand.

    The folder comes last on the path: nothing in it takes the place of a library.

    Raises:
        ConfigError: there is no such module, or importing it raised an error; with its place.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(
                f"there is no module {error.name!r}, neither installed nor in {here}"
            ) from error
        raise ConfigError(f"the module {module!r} raised {described(error)}") from error
    # Whatever the user's module does when it is imported.
    except Exception as error:
        raise ConfigError(f"the module {module!r} raised {described(error)}") from error


def described(error: BaseException) -> str:
    """An error in one line, with the place in the user's code where it came up if there is one."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{Path(error.filename).name}, line {error.lineno}"
        return f"{type(error).__name__} ({place}): {error.msg}"
    theirs = [frame for frame in frames if _is_theirs(frame.filename)]
    if not frames:
        return f"{type(error).__name__}: {error}"
    last = (theirs or frames)[-1]
    place = f"{Path(last.filename).name}, line {last.lineno}"
    return f"{type(error).__name__} ({place}): {error}".rstrip(": ")


def _is_theirs(file: str) -> bool:
    ours = [
        sys.modules[n] for n in ("nprobot", "nprobot.envs", "nprobot.policies") if n in sys.modules
    ]
    folders = [folder for module in ours for folder in module.__path__]
    return not file.startswith(("<", *_LIBRARIES, *folders)) and "site-packages" not in file
