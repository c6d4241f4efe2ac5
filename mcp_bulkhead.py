"""The `mcp-bulkhead` command: make sure that the package `supervisor` is ours, then run it.

PyPI has another package of that name (a process manager). If it is installed in the same environment, one shadows the
other, and what would follow is an import error that explains nothing.
"""

from __future__ import annotations

import sys

DISTRIBUTION = "mcp-bulkhead"
EXIT_CANNOT_START = 1


def main() -> int:
    """Run the proxy with the arguments of the process and return the exit status."""
    import supervisor

    if getattr(supervisor, "DISTRIBUTION", None) != DISTRIBUTION:
        sys.stderr.write(
            f"{DISTRIBUTION}: the package 'supervisor' in {_folder(supervisor.__file__)} is another one of that name; "
            f"run 'pip uninstall supervisor' and 'pip install --force-reinstall {DISTRIBUTION}', "
            f"or install {DISTRIBUTION} into an environment of its own\n"
        )
        return EXIT_CANNOT_START
    from supervisor.__main__ import main as run

    return run()


def _folder(file: str | None) -> str:
    return file.rpartition("/")[0] if file else "an unknown place"


if __name__ == "__main__":
    sys.exit(main())
