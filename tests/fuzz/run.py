"""Coverage-guided fuzzing of all readers: ``python tests/fuzz/run.py --seconds 1200``.

Each reader runs in a process of its own, guided by atheris (Python 3.10; without it, changes are random). An input has
to end in a network, in data, or in one line of error, within seconds of computing, and its process within 1 GB. What
does not is written to ``--findings``, one file for each place in the code, and the exit code is 1. Files that end the
process that libhdf5 runs in (``contained-...``) are kept there, too, but are no findings.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

BEGAN = time.monotonic()
TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

GIB = 1 << 30
#: Computing that one input may take, in this process; libhdf5 runs in another, with its own limit.
HANG_SECONDS = 5
#: libFuzzer's limit, for what Python cannot interrupt.
STUCK_SECONDS = 120
#: What libFuzzer takes as a share of the time, in readers' order of difficulty.
SHARES = {"yaml": 3, "npz": 4, "npy": 1, "h5": 8, "net": 4, "nir": 4, "pt": 3, "state": 2, "run": 1}


class Hang(BaseException):
    """An input took too long."""


def main() -> int:
    """Run all readers, or be the process of one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1200, help="wall time of the whole run")
    parser.add_argument("--jobs", type=int, default=2, help="readers at a time")
    parser.add_argument("--only", nargs="*", default=[], help="these readers")
    parser.add_argument("--corpus", type=Path, help="where interesting inputs are kept from run to run")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"), help="where findings go")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        _fuzz(options)
        return 0
    return _drive(options)


# The process of one reader


class _Tally:
    """Counts, written down now and then: libFuzzer ends the process without a word."""

    def __init__(self, file: Path, findings: Path, name: str) -> None:
        self.file, self.findings, self.name = file, findings, name
        self.inputs, self.slowest, self.found, self.written = 0, 0.0, 0, 0.0
        self.outcomes: dict[str, int] = {}
        self.places: set[str] = set()

    def add(self, outcome: str, seconds: float) -> None:
        self.inputs += 1
        self.slowest = max(self.slowest, seconds)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if time.monotonic() - self.written > 0.5:
            self.write()

    def write(self) -> None:
        self.written = time.monotonic()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        content = {"inputs": self.inputs, "slowest": self.slowest, "memory": memory, "outcomes": self.outcomes}
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps({**content, "found": self.found}))
        part.replace(self.file)

    def keep(self, outcome: str, content: bytes, suffix: str) -> None:
        """A file that another process did not survive, the first of each reader."""
        if self.outcomes[outcome] <= 5:
            self.findings.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(content).hexdigest()[:8]
            (self.findings / f"contained-{outcome.split()[-1]}-{digest}{suffix}").write_bytes(content)

    def finding(self, error: BaseException, content: bytes, suffix: str) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [
            f"{Path(f.filename).name}:{f.lineno}"
            for f in frames
            if "snn2chip" in f.filename or "exporters" in f.filename
        ]
        place = f"{type(error).__name__} {ours[-1] if ours else '?'}"
        if place in self.places:
            return
        self.places.add(place)
        self.found += 1
        digest = hashlib.sha256(content).hexdigest()[:8]
        name = f"{self.name}-{re.sub('[^A-Za-z0-9]+', '-', place).lower()}-{digest}{suffix.replace('/', '.')}"
        self.findings.mkdir(parents=True, exist_ok=True)
        (self.findings / name).write_bytes(content)
        (self.findings / f"{name}.txt").write_text("".join(traceback.format_exception(error)))


def _fuzz(options: argparse.Namespace) -> None:
    os.environ.setdefault("SNN2CHIP_READER_SECONDS", "2")
    try:
        import atheris
    except ImportError:
        atheris = None
        import fuzz.readers
    else:
        with atheris.instrument_imports(include=["snn2chip", "yaml"]):
            import fuzz.readers

            import snn2chip.exporters.netx
            import snn2chip.frontends.nir
            import snn2chip.long_runs
            import snn2chip.model_file  # noqa: F401
    reader = fuzz.readers.READERS[options.reader]
    folder = Path(tempfile.mkdtemp(prefix="inputs-", dir=options.work))
    tally = _Tally(options.work / f"{options.reader}.json", options.findings, options.reader)
    signal.signal(signal.SIGVTALRM, _hang)

    def one(content: bytes) -> None:
        path = fuzz.readers.lay(reader, folder, content)
        began = time.process_time()
        outcome = "FINDING"
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, HANG_SECONDS)
            outcome = fuzz.readers.outcome(reader, path)
        except (Exception, Hang) as error:
            tally.finding(error, content, reader.suffix)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        tally.add(outcome, time.process_time() - began)
        if outcome in fuzz.readers.CONTAINED:
            tally.keep(outcome, content, reader.suffix)

    def change(content: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if atheris is not None and rng.random() < 0.1:
            return atheris.Mutate(content, size)  # type: ignore[no-any-return]
        if rng.random() < 0.3:  # most of what libFuzzer keeps ends early
            content = rng.choice(sound)
        try:
            return reader.change(rng, content)[:size]
        except Exception:  # of the change, not of the reader: nothing is left to change
            return rng.choice(sound)

    corpus = options.corpus / options.reader if options.corpus else options.work / f"corpus-{options.reader}"
    corpus.mkdir(parents=True, exist_ok=True)
    sound = reader.seeds()
    for i, content in enumerate(sound):
        (corpus / f"seed-{i}").write_bytes(content)
        one(content)
    assert tally.outcomes.get("read", 0) >= 1, tally.outcomes
    if atheris is None:
        rng, kept = random.Random(options.seed), list(sound)
        until = time.monotonic() + options.seconds
        while time.monotonic() < until:
            content = change(rng.choice(kept), 1 << 20, rng.getrandbits(32))
            one(content)
            if rng.random() < 0.05:
                kept[rng.randrange(len(sound), len(kept)) if len(kept) > 300 else len(kept) :] = [content]
        tally.write()
        return
    left = max(1, int(options.seconds - (time.monotonic() - BEGAN)))  # loading everything takes seconds, too
    flags = [
        f"-max_total_time={left}",
        "-max_len=150000",
        f"-timeout={STUCK_SECONDS}",
        "-len_control=0",
    ]
    flags += ["-rss_limit_mb=1000", f"-seed={options.seed}", f"-artifact_prefix={options.work}/{options.reader}-died-"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one, custom_mutator=change)
    atheris.Fuzz()


def _hang(*_: object) -> None:
    raise Hang


# All of them


def _drive(options: argparse.Namespace) -> int:
    names = options.only or list(SHARES)
    shares = {name: SHARES[name] for name in names}
    jobs = min(options.jobs, len(names))
    fast = Path("/dev/shm")
    findings = options.findings.absolute()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="snn2chip-fuzz-", dir=fast if fast.is_dir() else None) as work:
        each = options.seconds * jobs / sum(shares.values())
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        waiting = sorted(names, key=lambda name: -shares[name])
        running: dict[str, tuple[Any, float, Any]] = {}
        ends = time.monotonic() + options.seconds
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    name = waiting.pop(0)
                    seconds = min(each * shares[name], ends - time.monotonic()) - 3
                    running[name] = _start(options, name, max(2.0, seconds), Path(work), findings)
                for name, (process, until, log) in list(running.items()):
                    stuck = time.monotonic() > until + 2 * STUCK_SECONDS
                    if process.poll() is None and not stuck:
                        continue
                    if stuck:
                        process.kill()
                    code = process.wait()
                    log.close()
                    del running[name]
                    _collect(found, name, Path(work), findings, code, stuck)
                    left = until - time.monotonic()
                    if code and left > 10:  # it died: that is a finding, and the others are looked for
                        running[name] = _start(options, name, left, Path(work), findings)
                time.sleep(0.1)
        finally:
            for process, _, _ in running.values():
                process.kill()
                process.wait()
    return _report(found, options.seconds)


def _start(
    options: argparse.Namespace, name: str, seconds: float, work: Path, findings: Path
) -> tuple[Any, float, Any]:
    log = (work / f"{name}.log").open("w")
    command = [sys.executable, __file__, "--reader", name, "--seconds", str(seconds), "--work", str(work)]
    command += ["--findings", str(findings), "--seed", str(options.seed)]
    if options.corpus:
        command += ["--corpus", str(options.corpus.absolute())]
    return subprocess.Popen(command, stdout=log, stderr=log), time.monotonic() + seconds, log


def _collect(found: dict[str, dict[str, Any]], name: str, work: Path, findings: Path, code: int, stuck: bool) -> None:
    file = work / f"{name}.json"
    new = (
        json.loads(file.read_text())
        if file.exists()
        else {"inputs": 0, "slowest": 0, "memory": 0, "outcomes": {}, "found": 0}
    )
    file.unlink(missing_ok=True)
    text = (work / f"{name}.log").read_text(errors="replace")
    covered = [int(n) for n in re.findall(r" cov: (\d+)", text)]
    died = [*work.glob(f"{name}-died-*")]
    if code or stuck or died:
        findings.mkdir(parents=True, exist_ok=True)
        new["found"] += 1
        (findings / f"{name}-died.txt").write_text(text[-20000:])
        for file in died:
            shutil.move(file, findings / file.name)
    old = found.setdefault(name, {"inputs": 0, "slowest": 0.0, "memory": 0, "found": 0, "coverage": 0, "outcomes": {}})
    for key in ("inputs", "found"):
        old[key] += new[key]
    for key in ("slowest", "memory"):
        old[key] = max(old[key], new[key])
    old["coverage"] = max([old["coverage"], *covered])
    for outcome, count in new["outcomes"].items():
        old["outcomes"][outcome] = old["outcomes"].get(outcome, 0) + count


def _report(found: dict[str, dict[str, Any]], seconds: float) -> int:
    from fuzz.readers import READERS

    heads = ("reader", "inputs", "needed", "coverage", "slowest", "memory", "findings")
    lines = ["".join(f"{head:>10}" for head in heads) + "  outcomes"]
    bad = False
    for name, row in sorted(found.items()):
        needed = int(READERS[name].least * min(1.0, seconds / 1200))
        few = row["inputs"] < needed
        bad |= few or bool(row["found"]) or row["memory"] > GIB
        slowest, memory = f"{row['slowest']:.2f} s", f"{row['memory'] >> 20} MiB"
        cells = (name, row["inputs"], needed, row["coverage"], slowest, memory, row["found"])
        ranked = sorted(row["outcomes"].items(), key=lambda pair: -pair[1])
        outcomes = ", ".join(f"{key} {count}" for key, count in ranked)
        lines.append("".join(f"{cell:>10}" for cell in cells) + f"  {outcomes}{'  TOO FEW' if few else ''}")
    sys.stdout.write("\n".join(lines) + "\n")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
