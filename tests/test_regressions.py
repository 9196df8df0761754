"""Hostile and damaged files: each ends as ``regressions/outcomes.json`` says, in one line, and runs nothing.

``tests/fuzz/make_regressions.py`` writes them; those whose name begins with ``found-`` are findings of the fuzzer.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.make_regressions import FOLDER, expected

from snn2chip import guarded

OUTCOMES: dict[str, str] = json.loads((FOLDER / "outcomes.json").read_text())
#: What reading any of them may add to the memory of this process.
MEMORY = 600 << 20


def test_every_file_is_listed_and_there_are_enough() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {*OUTCOMES, "outcomes.json"}
    assert len(OUTCOMES) >= 200
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 3 << 20


@pytest.fixture(scope="module", autouse=True)
def soon() -> Iterator[None]:
    """libhdf5 loops for ever on one of them: not for half a minute."""
    guarded.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNN2CHIP_READER_SECONDS", "2")
        yield
        guarded.close()


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcome(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert expected(name, (FOLDER / name).read_bytes(), tmp_path) == OUTCOMES[name]
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before < MEMORY
    assert not (tmp_path / "snn2chip-was-unsafe!").exists()
