"""Importing the functions that a config file names, and why one cannot be imported."""

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from wats.extras import install_command
from wats.telemetry import error_name

_OURS: Final = f"{Path(__file__).parent}{os.sep}"
_IMPORTLIB: Final = f"{Path(importlib.__file__).parent}{os.sep}"

_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")


class ImportFailed(Exception):
    """A reference cannot be imported. Its text is the reason, and names a file and line if any."""


def import_reference(reference: str) -> object:
    """Return the object that *reference*, `package.module:name`, names.

    Raises:
        ImportFailed: The module or the name does not exist, or the module raised any exception.
    """
    module_name, _, path = reference.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except BaseException as error:
        raise ImportFailed(_reason(error, module_name)) from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except BaseException as error:
            raise ImportFailed(_absence(module_name, path)) from error
    return found


def sources_of(reference: str) -> Sequence[Path]:
    """Return the folders, or the file, of the top-level package of *reference*, if it exists.

    Nothing is imported.
    """
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(reference.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):
        return ()
    if spec is None:
        return ()
    if spec.submodule_search_locations is not None:
        return [Path(each) for each in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.has_location and spec.origin is not None else ()


def reason_of(error: BaseException) -> str:
    """Return the class of *error*, and the file and line outside of wats that raised it."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(("<", _OURS, _IMPORTLIB)):
            return f"{error_name(error)} in {frame.filename!r}, line {frame.lineno}"
    return error_name(error)


def _absence(module_name: str, path: str) -> str:
    if module_name.partition(".")[0] in sys.stdlib_module_names:  # a file of this name is hidden
        return f"{module_name!r} is a module of Python, and has no {path!r}"
    return f"{module_name!r} has no {path!r}"


def _reason(error: BaseException, module_name: str) -> str:
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"syntax error in {error.filename!r}, line {error.lineno}"
    if isinstance(error, OSError) and reason_of(error) == error_name(error):
        return f"{error.filename!r} cannot be read: {error_name(error)}"  # the module's own file
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is None or not _MODULE.fullmatch(missing):
        return reason_of(error)
    if f"{module_name}.".startswith(f"{missing}."):
        hint = "; the name of a module has no '.py'" if missing.endswith(".py") else ""
        return f"there is no module {missing!r}{hint}"
    install = install_command(error)
    hint = f"; run: {install}" if install else ""
    return f"it imports the module {missing!r}, which is not installed{hint}"
