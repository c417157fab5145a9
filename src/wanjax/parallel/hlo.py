"""What a compiled program says of itself: which arrays its devices exchange, which kernels run.

XLA's text has a computation (a function) after another, each of lines `%name = type op(...)`.
A loop's body is written once and run `known_trip_count` times, which layers scanned need to be
counted right. No JAX.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_BITS = {"pred": 8, "c64": 64, "c128": 128, "token": 0, "opaque": 0}

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*)$")
_OPERATION = re.compile(r"(?:^|[ )}])([a-z][a-z\-]*)\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_KERNEL_NAME = re.compile(r'"?kernel_name"?\s*[=:]\s*"?\\?"?([\w\-]+)')


@dataclass(frozen=True)
class Collective:
    """`count` exchanges of one kind in a call, and the `bytes` that a device gets in them."""

    count: int
    bytes: int


@dataclass(frozen=True)
class _Instruction:
    operation: str
    result: str  # its type
    line: str

    @property
    def loops(self) -> int:
        """How often what it calls is run."""
        found = _TRIPS.search(self.line)
        return int(found[1]) if self.operation == "while" and found else 1

    @property
    def called(self) -> Iterator[str]:
        for role, name in _CALLED.findall(self.line):
            if role != "condition":
                yield name
        for names in _BRANCHES.findall(self.line):
            yield from (name.strip().lstrip("%") for name in names.split(","))


def collectives(text: str) -> dict[str, Collective]:
    """By kind, of one call on one device; what layers do counts once for each layer."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for instruction, times in _executed(text):
        kind = instruction.operation.removesuffix("-start")
        if kind in _COLLECTIVES:
            counts[kind] += times
            sizes[kind] += times * _received(instruction)
    return {kind: Collective(counts[kind], sizes[kind]) for kind in sorted(counts)}


def kernels(text: str) -> tuple[str, ...]:
    """Names of the fused attention kernels in a program."""
    found = set()
    for line in text.splitlines():
        target = _TARGET.search(line)
        if target is None:
            continue
        if "fmha" in target[1]:
            found.add("cudnn")
        elif target[1] == "tpu_custom_call":
            found.add("splash" if "splash" in line else _kernel_name(line))
    return tuple(sorted(found))


def _kernel_name(line: str) -> str:
    named = _KERNEL_NAME.search(line)
    return named[1] if named else "tpu_custom_call"


def _executed(text: str) -> Iterator[tuple[_Instruction, int]]:
    """Each instruction that a call reaches, and how often it runs."""
    entry, computations = _computations(text)
    times: Counter[str] = Counter({entry: 1})
    for name in _callers_first(entry, computations):
        for instruction in computations[name]:
            yield instruction, times[name]
            for called in instruction.called:
                times[called] += times[name] * instruction.loops


def _computations(text: str) -> tuple[str, Mapping[str, list[_Instruction]]]:
    entry, current = "", None
    found: dict[str, list[_Instruction]] = {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current = found.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (body := _INSTRUCTION.match(line)):
            operation = _OPERATION.search(body[1])
            if operation is not None:
                result = body[1][: operation.start() + 1]
                current.append(_Instruction(operation[1], result, line))
    return entry, found


def _callers_first(entry: str, computations: Mapping[str, list[_Instruction]]) -> list[str]:
    """The computations that a call reaches, each after all that call it."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name not in computations:
            return
        seen.add(name)
        for instruction in computations[name]:
            for called in instruction.called:
                visit(called)
        order.append(name)

    visit(entry)
    return order[::-1]


def _received(instruction: _Instruction) -> int:
    """Bytes of the result; of an asynchronous start, whose type has the operands first, half."""
    arrays = [_bytes(kind, sizes) for kind, sizes in _ARRAY.findall(instruction.result)]
    if not instruction.operation.endswith("-start"):
        return sum(arrays)
    return max(arrays, default=0) if len(arrays) <= 4 else sum(arrays[len(arrays) // 2 :])


def _bytes(kind: str, sizes: str) -> int:
    bits = _BITS.get(kind)
    if bits is None:
        digits = re.search(r"\d+", kind)
        bits = int(digits[0]) if digits else 0
    return math.prod(int(size) for size in sizes.split(",") if size) * bits // 8
