"""The code of README.md and docs/ runs as a reader types it: the blocks of a page in order, in one folder.

::

    ```python                  runs; a ```text title="prints" block behind it is what it prints
    ```python title="FILE"     is written to FILE
    ```console                 lines behind "$ " are typed, the lines below are what comes out
    ```bash                    is typed; what comes out is not compared

    <!-- not run: lab -->      before a block (page not run: anywhere, all of the page): for what reason it is not run
    <!-- needs: lava.magma -->   (page needs) it is run where these modules are installed
    <!-- page files: model.net test.npz -->   of a network trained on digits, with which the page starts

In output ``...`` stands for anything, spaces do not count, and numbers that training moves may be a fifth larger or
smaller: those with decimals, and whole ones from 20 on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import snn2chip as s2c
from snn2chip.cli import cli
from snn2chip.demo import build, digits, fit
from snn2chip.early_exit import attach

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))}
#: How many blocks are not run, and why. Another number here is a decision, and so is another reason.
NOT_RUN = {
    "cluster": 2,  # several processes or machines
    "install": 3,  # fetches packages, or is the reader's own folder
    "lab": 1,  # a chip
    "slow": 1,  # minutes
}
RUN = ("python", "console", "bash")
_PART = re.compile(r"^ *<!-- (.+?) -->$|^( *)```([\w-]*) *(.*)\n((?:.*\n)*?)\2```$", re.MULTILINE)
_NUMBER = r"\d[\d,]*(?:\.\d+)?"


@dataclass(frozen=True)
class Block:
    """A fenced block, and what the comments say of it."""

    language: str
    title: str
    text: str
    line: int
    not_run: str
    needs: tuple[str, ...]


def blocks(page: str) -> list[Block]:
    text, found, before = PAGES[page].read_text(), [], {}
    whole = dict(re.findall(r"^<!-- page (not run|needs): (.+) -->$", text, re.MULTILINE))
    for match in _PART.finditer(text):
        comment, indent, language, rest, body = match.groups()
        if comment is not None:
            before |= dict(re.findall(r"^(not run|needs): (.+)$", comment))
            continue
        title = re.search(r'title="(.*?)"', rest)
        line = text.count("\n", 0, match.start()) + 2
        needs = f"{whole.get('needs', '')} {before.get('needs', '')}".split()
        not_run = before.get("not run", whole.get("not run", "")) if language in RUN else ""
        content = re.sub(f"^{indent}", "", body, flags=re.MULTILINE)
        found.append(Block(language, title[1] if title else "", content, line, not_run, tuple(needs)))
        before = {}
    return found


def installed(module: str) -> bool:
    with contextlib.suppress(ImportError), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # what the libraries say when they are imported
        importlib.import_module(module)
        return True
    return False


def close(was: str, now: str) -> bool:
    """Whether a number may stand for the one shown: layers, steps and bits may not, what training moves may."""
    old, new = (float(number.replace(",", "")) for number in (was, now))
    return abs(new - old) <= (0.2 * old if "." in was or old >= 20 else 0)


def same(shown: str, printed: str) -> bool:
    """Whether a line is what the page shows."""
    pattern = ""
    for part in re.split(rf"(\.\.\.|{_NUMBER}|\s+)", shown.strip()):
        special = ".*?" if part == "..." else r"\s+" if part.isspace() else ""
        pattern += special or (f"({_NUMBER})" if re.fullmatch(_NUMBER, part) else re.escape(part))
    match = re.fullmatch(pattern, printed.strip())
    pairs = zip(re.findall(_NUMBER, shown), match.groups(), strict=True) if match else ()
    return match is not None and all(close(was, now) for was, now in pairs)


def compare(shown: str, printed: str, where: str) -> None:
    """Fail unless ``printed`` is what the page shows, line by line; a line of ``...`` is any number of lines."""
    rest, anything = [line for line in printed.splitlines() if line.strip()], False
    for line in filter(str.strip, shown.splitlines()):
        if line.strip() == "...":
            anything = True
            continue
        while anything and rest and not same(line, rest[0]):
            del rest[0]
        assert rest and same(line, rest.pop(0)), f"{where}: this is not printed\n{line}\nbut\n{printed}"
        anything = False
    assert anything or not rest, f"{where}: this is printed as well\n{rest}"


def typed(command: str, where: str, fails: bool = False) -> str:
    """What a command prints; it has to succeed, unless the page shows an error."""
    words = shlex.split(command, comments=True)
    if words[:1] == ["cd"]:
        os.chdir(words[1])
        return ""
    if words[:1] == ["snn2chip"] and not re.search("[|&;<>*]", command.partition("#")[0]):
        result = CliRunner().invoke(cli, words[1:], prog_name="snn2chip")
        code, output = result.exit_code, result.output
    else:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environ = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(["bash", "-ec", command], env=environ, capture_output=True, text=True, check=False)
        code, output = done.returncode, done.stdout + done.stderr
    assert (code != 0) == fails, f"{where}: {command}\nexit code {code}\n{output}"
    return output


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On networks as small as these, more threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has after the tutorial."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    x, y, test_x, test_y = digits()
    network = build()
    fit(network, x[:1100], y[:1100], epochs=3)
    s2c.save(network, folder / "model.pt", calibration=(x[:256], y[:256]))
    net = s2c.convert(folder / "model.pt")
    s2c.export(net, folder / "model.net")
    s2c.export(attach(net, "margin", 300), folder / "exit.net")
    np.savez(folder / "heldout.npz", x=x[1100:], y=y[1100:])
    np.savez(folder / "test.npz", x=test_x, y=test_y)
    return folder


def run_console(text: str, where: str) -> None:
    for command, shown in re.findall(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
        output = typed(command.replace("\\\n", " "), where, shown.startswith("error: "))
        if shown.strip():
            compare(shown, output, f"{where}: {command}")


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.language in RUN for block in blocks(page))])
def test_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    for names in re.findall(r"^<!-- page files: (.+) -->$", PAGES[page].read_text(), re.MULTILINE):
        for name in names.split():
            shutil.copy(request.getfixturevalue("trained") / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = types.ModuleType("docs_page")
    monkeypatch.setitem(sys.modules, "docs_page", module)
    printed, ran, missing = "", 0, set()
    for block in blocks(page):
        where = f"{page}:{block.line}"
        if block.not_run or block.language not in (*RUN, "text"):
            continue
        if absent := [need for need in block.needs if not installed(need)]:
            missing.update(absent)
            continue
        ran += block.language in RUN
        if block.title == "prints":
            compare(block.text, printed, where)
        elif block.language == "python" and block.title:
            Path(block.title).write_text(block.text)
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out, warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python does not show them either
                exec(compile("\n" * (block.line - 1) + block.text, PAGES[page], "exec"), vars(module))
            printed = out.getvalue()
        elif block.language == "console":
            run_console(block.text, where)
        elif block.language == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                typed(line, where) if line.partition("#")[0].strip() else None
    if missing:
        pytest.skip(f"{ran} blocks ran, others need {', '.join(sorted(missing))}")


def test_what_is_not_run() -> None:
    """Nothing is left out silently: neither by a marker, nor by a block that only looks as if it were run."""
    every = {page: blocks(page) for page in PAGES}
    skipped = [(page, block) for page in every for block in every[page] if block.not_run]
    listed = "\n".join(f"{page}:{block.line}: {block.not_run}" for page, block in skipped)
    assert Counter(block.not_run for _, block in skipped) == Counter(NOT_RUN), f"not run:\n{listed}"
    others = [(page, block) for page in every for block in every[page] if block.language not in RUN]
    code = re.compile(r"^(\$ |snn2chip |python |import |from \w+ import )", re.MULTILINE)
    unmarked = [f"{page}:{block.line}" for page, block in others if code.search(block.text)]
    assert not unmarked, f"neither run nor marked: {unmarked}"
