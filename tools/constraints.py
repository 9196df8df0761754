"""Write constraints.txt from what two environments hold: ``constraints.py .venv/bin/python .venv-3.11/bin/python``."""

import json
import subprocess
import sys
from pathlib import Path

HEAD = """\
# Exact versions that the tests run with; written by `make constraints` from the environments of Python 3.10 (with Lava)
# and 3.11 (without). Lava ends at Python 3.10, numpy 1 and torch 2.3.
"""
BEFORE, SINCE = ' ; python_version < "3.11"', ' ; python_version >= "3.11"'


def versions(python: str) -> dict[str, str]:
    """Name and version of each package; without local labels such as ``+cpu``, which belong to one build."""
    command = [python, "-m", "pip", "list", "--format=json", "--exclude=snn2chip", "--exclude=wheel"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {package["name"]: package["version"].partition("+")[0] for package in found}


def main(old_python: str, new_python: str) -> None:
    """One line per package, two with markers where the environments differ."""
    old, new = versions(old_python), versions(new_python)
    lines = []
    for name in sorted(old.keys() | new.keys(), key=str.lower):
        if old.get(name) == new.get(name):
            lines.append(f"{name}=={old[name]}")
        else:
            lines += [f"{name}=={old[name]}{BEFORE}"] if name in old else []
            lines += [f"{name}=={new[name]}{SINCE}"] if name in new else []
    Path("constraints.txt").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
