"""A small Python 3.10 environment that runs Lava for an interpreter that cannot: ``snn2chip lava-env``.

It holds what :mod:`snn2chip.simulators.lava_worker` imports and no more: lava-dl without its dependencies, among them
a torch of 3 GB that the worker does without.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from snn2chip.errors import EnvironmentFailure, UsageError

#: Environment variable: the folder, where it is not the default one.
FOLDER_VARIABLE = "SNN2CHIP_LAVA_ENV"
VERSION = "3.10"
#: Everything by its exact version, installed without what it asks for itself.
PACKAGES = (
    "lava-nc==0.10.0",
    "lava-dl==0.6.0",
    "numpy==1.26.4",
    "scipy==1.15.3",
    "networkx==2.8.7",
    "asteval==0.9.33",
    "h5py==3.16.0",
)
STAMP = ".snn2chip-lava-env"  # in a folder that is complete, and of these packages
_CHECK = ("-I", "-c", "import runpy, sys; runpy.run_path(sys.argv[1])", str(Path(__file__).with_name("lava_worker.py")))


def default_folder() -> Path:
    """Where the environment is, or would be."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "snn2chip" / "lava-env"


def interpreter(folder: Path | None = None) -> Path | None:
    """The interpreter of the environment in ``folder``, if it is complete."""
    with contextlib.suppress(OSError, RuntimeError):  # no home folder, say
        folder = folder or default_folder()
        if (folder / STAMP).is_file() and os.access(python := folder / "bin" / "python", os.X_OK):
            return python
    return None


def is_current(folder: Path) -> bool:
    """Whether the environment in ``folder`` is complete and holds these packages."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return interpreter(folder) is not None and (folder / STAMP).read_text().split() == list(PACKAGES)
    return False


def find_python(version: str = VERSION) -> str:
    """An interpreter of that version that really runs and can make environments.

    Raises:
        EnvironmentFailure: there is none.
    """
    for candidate in _candidates(version):
        test = 'import ensurepip, sys, venv; print("%d.%d" % sys.version_info[:2], sys.executable)'
        found = _answer([candidate, "-I", "-c", test]).split(" ", 1)  # a pyenv shim may exist and yet fail
        if found[0] == version and len(found) == 2:
            return found[1]
    raise EnvironmentFailure(
        f"no Python {version} found, which Lava needs; get it with 'uv python install {version}', 'pyenv install "
        f"{version}' or 'conda create -n py{version} python={version}', or name one: --python /path/to/python{version}"
    )


def _candidates(version: str) -> Iterator[str]:
    yield sys.executable
    if found := shutil.which(f"python{version}"):
        yield found
    for root in (os.environ.get("PYENV_ROOT"), Path.home() / ".pyenv", _answer(["pyenv", "root"])):
        if root:
            yield from (str(path) for path in sorted(Path(root).glob(f"versions/{version}*/bin/python")))
    if found := _answer(["uv", "python", "find", "--no-project", "--no-python-downloads", version]):
        yield found
    if base := _answer(["conda", "info", "--base"]):
        yield from (
            str(path) for path in [Path(base) / "bin" / "python", *sorted(Path(base).glob("envs/*/bin/python"))]
        )


def _answer(command: list[str]) -> str:
    """What a program prints, nothing where it fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def make(
    folder: Path, python: str | None = None, force: bool = False, tell: Callable[[str], None] = lambda what: None
) -> Path:
    """Make the environment, or leave alone what is complete; its interpreter.

    It is built beside ``folder`` and takes its place when Lava has been imported by it. Nothing in it that this package
    uses knows where it lies, so that it can be renamed.

    Args:
        python: the Python 3.10 to build on; one is looked for otherwise.
        force: make it anew.
        tell: told what is being done.

    Raises:
        UsageError: ``folder`` is something else, or being made by somebody else.
        EnvironmentFailure: no Python 3.10, or the installation failed.
    """
    folder = folder.absolute()
    if is_current(folder) and not force:
        return folder / "bin" / "python"
    if folder.exists() and not (folder / STAMP).is_file() and not _empty(folder):
        raise UsageError(f"{folder}: exists already and is no environment made by lava-env; take another")
    if python is not None and (shutil.which(python) is None or _version(python) != VERSION):
        raise UsageError(f"--python {python}: is not a Python {VERSION}")
    base = python or find_python()
    part = folder.with_name(f"{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent, folder):
            try:
                shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
                tell(f"making an environment with {base}")
                _run([base, "-I", "-m", "venv", str(part)])
                inside = str(part / "bin" / "python")
                tell("installing " + ", ".join(PACKAGES))
                pip = [inside, "-I", "-m", "pip", "--no-input", "--disable-pip-version-check", "install"]
                _run([*pip, "--quiet", "--no-deps", "--only-binary", ":all:", *PACKAGES])
                tell("importing Lava")
                _run([inside, *_CHECK])
                (part / STAMP).write_text("\n".join(PACKAGES) + "\n")
                if folder.exists():
                    shutil.rmtree(folder)
                part.replace(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise EnvironmentFailure(f"{folder}: cannot be written ({error.strerror or error})") from error
    return folder / "bin" / "python"


def size(folder: Path) -> int:
    """Bytes of all files in ``folder``."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _version(python: str) -> str:
    return _answer([python, "-I", "-c", 'import sys; print("%d.%d" % sys.version_info[:2])'])


def _empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


@contextlib.contextmanager
def _locked(parent: Path, folder: Path) -> Iterator[None]:
    handle = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(f"{folder}: is being made by another lava-env right now") from None
    finally:
        os.close(handle)


def _run(command: list[str]) -> None:
    """A program, without a shell; its last words where it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "no message")
        what = "pip" if "pip" in command else "venv" if "venv" in command else "Lava"
        raise EnvironmentFailure(f"lava-env: {what} failed: {said.strip()[:300]}")
