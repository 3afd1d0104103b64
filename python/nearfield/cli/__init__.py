"""The command line ``nearfield``; it needs the extra ``cli``."""

from __future__ import annotations

import sys


def main() -> int:
    """
    Run the command that the program's arguments name.

    Returns
    -------
    int
        Exit code: 0 for success, 1 for a failure, 2 for a wrong command line, 130 after Ctrl-C.
    """
    try:
        try:
            from .app import run
        except ImportError as error:
            if (error.name or "").startswith("nearfield"):
                raise
            print("nearfield: the command line needs more packages: pip install 'nearfield[cli]'", file=sys.stderr)
            return 1
        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return 130
