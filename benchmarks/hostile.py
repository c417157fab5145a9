"""How many hostile, damaged, stale and odd inputs the tests try, by class, and how many are right.

    python benchmarks/hostile.py          # counts the cases
    python benchmarks/hostile.py run      # and runs them, the slow ones too

Prints the table of docs/promises.md. A case is a test as pytest counts it; many try several values.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import NamedTuple


class Class(NamedTuple):
    """`tests` are pytest's arguments; `before` what was right when the class was first tried."""

    title: str
    before: str
    tests: tuple[str, ...]


CLASSES = (
    Class(
        "silent wrong results: NaN, damaged checkpoints, scales, configurations that cannot be",
        "93 of 162",
        (
            "tests/test_nothing_silent.py",
            "tests/test_damaged_checkpoints.py",
            "tests/test_scales.py",
            "tests/test_lora.py",
            "tests/test_sentencepiece.py",
        ),
    ),
    Class(
        "command lines, YAML, records; files that wait; names; what Python may give",
        "107 of 170 command lines and YAML files, 132 of 166 from Python",
        ("tests/test_bad_values.py", "tests/test_validation.py", "tests/test_config.py"),
    ),
    Class("pictures", "not counted", ("tests/test_media.py",)),
    Class(
        "interrupts, two writers, what kill -9 left",
        "Ctrl-C: 4 of 5 while compiling, 57 of 60 amid imports; the rest not counted",
        ("tests/test_interrupts.py",),
    ),
    Class(
        "folders that may not be written, files that may not be read",
        "33 of 50",
        ("tests/test_read_only.py",),
    ),
    Class(
        "kept results that are stale or damaged",
        "6 of 14",
        ("tests/test_stale_results.py",),
    ),
    Class(
        "the Hub, home folders, tokens",
        "not counted",
        ("tests/test_presence.py", "tests/test_whose_machine.py"),
    ),
    Class("a server's requests", "not counted", ("tests/test_serve_bad_input.py",)),
    Class(
        "made-up input (Hypothesis), fifty examples of each kind, slow ones a thousand",
        "all but 1",
        ("tests/test_made_up_input.py",),
    ),
)
_ALL = ("-m", "slow or not slow", "-q", "-p", "no:cacheprovider")


def main() -> None:
    run = sys.argv[1:] == ["run"]
    print("| class | tests | cases | right before | right now |\n|---|---|---|---|---|")
    for one in CLASSES:
        cases = _count(one, "--collect-only")
        right = f"{_count(one)} of {cases}" if run else "all, in CI"
        files = ", ".join(f"`{test}`" for test in one.tests)
        print(f"| {one.title} | {files} | {cases} | {one.before} | {right} |", flush=True)


def _count(one: Class, *how: str) -> int:
    """The cases that are collected, or that pass."""
    command = [sys.executable, "-m", "pytest", *_ALL, *how, *one.tests, "-o", "addopts="]
    told = subprocess.run(command, capture_output=True, text=True).stdout
    if how:
        return sum("::" in line for line in told.splitlines())
    found = re.search(r"(\d+) passed", told)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()
