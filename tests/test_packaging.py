"""What a user installs: wheel and sdist, built once and tried in an environment that holds nothing else of ours."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
PACKAGING = ("pyproject.toml", "README.md", "LICENSE")
SOURCES = ("snn2chip", "exporters", "simulators")
TARGETS = ("snn2chip.exporters", "snn2chip.simulators")

pytestmark = pytest.mark.xdist_group("packaging")  # one worker, so that everything is built once


def run(*command: str | Path, cwd: Path) -> str:
    """Both outputs of a command that has to succeed; it finds modules by its own environment alone."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged: building leaves files behind."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in PACKAGING:
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="session")
def distributions(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, the wheel built from it, and the log."""
    output = tmp_path_factory.mktemp("dist")
    log = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", output, ".", cwd=checkout)
    (output / "log").write_text(log)
    return output


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    return next(distributions.glob("*.whl"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel alone; other people's packages are lent by the running one.

    Python reads no ``.pth`` files in a folder that a ``.pth`` file names, so the running environment's editable
    installation of snn2chip does not come along.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=folder)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "lent.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return folder


def test_the_build_is_free_of_deprecated_settings(distributions: Path) -> None:
    log = (distributions / "log").read_text()
    assert "deprecat" not in log.lower(), log


def test_the_wheel_holds_each_source_file_once_under_its_package(checkout: Path, wheel: Path) -> None:
    expected = []
    for name in SOURCES:
        files = [path.relative_to(checkout).as_posix() for path in (checkout / name).rglob("*.*") if path.is_file()]
        expected += files if name == "snn2chip" else [f"snn2chip/{file}" for file in files]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert sorted(name for name in names if ".dist-info/" not in name) == sorted(expected)
    assert any(PurePosixPath(name).match("*.dist-info/licenses/LICENSE") for name in names)


def test_the_sdist_holds_the_folders_as_the_checkout_does(distributions: Path) -> None:
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        names = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}
    assert {*PACKAGING, *(f"{name}/__init__.py" for name in SOURCES)} <= names


def test_the_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    assert "Usage: snn2chip" in run(installed / "bin" / "snn2chip", "--help", cwd=tmp_path)


def test_the_installed_package_finds_its_exporters_and_simulators(installed: Path, tmp_path: Path) -> None:
    script = """if True:
        import importlib, importlib.metadata, json, sys
        files, targets = {}, {}
        for group in sys.argv[1:]:
            points = importlib.metadata.entry_points(group=group)
            files[group] = importlib.import_module(group).__file__
            targets[group] = {point.name: point.load().__name__ for point in points}
        print(json.dumps([sys.prefix, files, targets]))
    """
    prefix, files, targets = json.loads(run(installed / "bin" / "python", "-c", script, *TARGETS, cwd=tmp_path))
    assert all(Path(file).is_relative_to(prefix) for file in files.values()), files
    for group in TARGETS:
        folder = ROOT / group.rpartition(".")[2]
        assert targets[group], group
        for name, module in targets[group].items():
            assert module == f"{group}.{name}"
            assert (folder / f"{name}.py").is_file()


@pytest.mark.parametrize("name", ["exporters", "simulators"])
def test_a_bare_folder_refuses_to_be_imported(name: str) -> None:
    command = [sys.executable, "-c", f"import {name}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"ImportError: import snn2chip.{name}, not {name}" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="on Python 3.10 this would fetch torch 2.3.1 with CUDA, some GB")
def test_the_wheel_brings_all_that_it_imports(wheel: Path, tmp_path: Path) -> None:
    """Installed with its declared dependencies and nothing else: every module imports."""
    venv.create(tmp_path / "environment", with_pip=False)
    python = tmp_path / "environment" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--no-input", "--python", python]
    run(*pip, "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    script = """if True:
        import importlib, pkgutil, snn2chip
        for module in pkgutil.walk_packages(snn2chip.__path__, "snn2chip."):
            if not module.name.endswith(("__main__", "lava_worker")):  # a script, not a module
                print(importlib.import_module(module.name).__name__)
    """
    assert "snn2chip.simulators.reference" in run(python, "-c", script, cwd=tmp_path)
