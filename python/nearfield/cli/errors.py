"""What stops a command: one line on stderr and an exit code, without a traceback."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class CommandError(Exception):
    """A failure that the user can do something about."""

    exit_code = 1


class UsageError(CommandError):
    """A command line that makes no sense whatever the files hold."""

    exit_code = 2


@contextmanager
def reported(subject: object = None, kind: type[CommandError] = CommandError) -> Iterator[None]:
    """
    Turn what the library says about its arguments into a problem of `subject`.

    Only calls of the library stand inside: any other ValueError is a mistake of ours and keeps its traceback.
    """
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise kind(str(error.args[0]) if subject is None else f"{subject}: {error.args[0]}") from error


def optional_module(name: str, path: Path) -> Any:
    """Import a package that only some file formats need."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise CommandError(f"{path}: {path.suffix} files need {package}: pip install 'nearfield[cli]'") from None
