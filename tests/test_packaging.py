"""What a user installs: wheel and sdist, built once and tried in an environment that holds nothing else of ours."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import yaml

import snn2chip
from snn2chip._version import NEEDS

ROOT = Path(__file__).parents[1]
#: What an environment, a build or a tool leaves in a checkout.
LEFT = (".git", ".venv*", "__pycache__", "*.egg-info", "build", "dist", "demo", "site", ".hypothesis", ".*_cache")
#: Files at the top of the checkout that the sdist holds.
TOP = {
    *(".gitignore", ".python-version", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in"),
    *("Makefile", "README.md", "constraints.txt", "mkdocs.yml", "pyproject.toml"),
}
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
    """A copy of what git holds: building leaves files behind."""
    copy = tmp_path_factory.mktemp("source") / "checkout"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:  # an unpacked sdist
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*LEFT))
        return copy
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
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


def test_the_wheel_says_that_it_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("snn2chip/py.typed") == b""


def test_the_sdist_is_the_checkout(checkout: Path, distributions: Path) -> None:
    """All that building and testing need: each file of git, but links, and what packaging adds."""
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        names = {str(PurePosixPath(*PurePosixPath(entry.name).parts[1:])) for entry in archive if entry.isfile()}
    elsewhere = ("build/", "snn2chip.egg-info/", "snn2chip/exporters/", "snn2chip/simulators/")
    files = {path.relative_to(checkout).as_posix() for path in checkout.rglob("*/*") if path.is_file()}
    expected = {name for name in files if not name.startswith(elsewhere)} | TOP
    assert {name for name in names if not name.startswith(elsewhere)} == expected | {"PKG-INFO", "setup.cfg"}


def test_one_version(wheel: Path) -> None:
    """In the package, its metadata, the citation, and as semantic versions are."""
    version = snn2chip.__version__
    assert re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?", version)
    assert wheel.name == f"snn2chip-{version}-py3-none-any.whl"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert (
        f"[{version}]" in (ROOT / "CHANGELOG.md").read_text() or "[Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
    )
    assert tuple(map(int, NEEDS.split("."))) <= tuple(map(int, version.split("-")[0].split(".")))


def test_the_citation_is_valid() -> None:
    """What version 1.2.0 of the Citation File Format requires, and the kinds of what we use."""
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    known = {"cff-version", "message", "type", "title", "abstract", "authors", "version", "license", "keywords"}
    assert set(content) == known | {"references"}
    assert (content["cff-version"], content["type"]) == ("1.2.0", "software")
    assert content["authors"] == [{"name": "The snn2chip developers"}]
    assert content["license"] == "BSD-3-Clause"
    assert all(isinstance(word, str) for word in content["keywords"])
    for work in content["references"]:
        assert set(work) == {"type", "title", "authors", "year", "doi"}
        assert (work["type"], type(work["year"])) == ("article", int)
        assert re.fullmatch(r"10\.48550/arXiv\.\d{4}\.\d{5}", work["doi"])
        assert all(set(person) == {"family-names", "given-names"} for person in work["authors"])


def test_the_methods_of_training_are_cited() -> None:
    cited = (ROOT / "CITATION.cff").read_text()
    named = re.findall(r"arXiv (\d{4}\.\d{5})", (ROOT / "docs/training.md").read_text())
    assert len(named) >= 5
    assert all(number in cited for number in named), named


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
