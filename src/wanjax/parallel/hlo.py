"""What a compiled program says of itself: which arrays its devices exchange, which kernels run.

XLA's text has a computation (a function) after another, each of lines `%name = type op(...)`.
A loop's body is written once: how often it runs is said beside it on GPUs, and follows from its
condition on TPUs. No JAX.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
_BITS = {"pred": 8, "c64": 64, "c128": 128}

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPERATION = re.compile(r"(?:^|[ )}])([a-z][a-z\-]*)\(([^)]*)\)")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CHAIN = re.compile(r'\bchain_id="(\d+)"')
_INDEX = re.compile(r"index=(\d+)")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_KERNEL_NAME = re.compile(r'"?kernel_name"?\s*[=:]\s*"?\\?"?([\w\-]+)')


@dataclass(frozen=True)
class Collective:
    """`count` exchanges of one kind in a call, and the `bytes` that a device gets in them."""

    count: int
    bytes: int


def collectives(text: str) -> dict[str, Collective]:
    """By kind, of one call on one device; what layers do counts once for each layer.

    A TPU's compiler hides an exchange behind a chain of fusions, each of which has it inside: it
    counts once.
    """
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    chains: set[str] = set()
    for instruction, times in _Program(text).executed():
        kind = instruction.operation.removesuffix("-start")
        chain = _CHAIN.search(instruction.line)
        if kind not in _COLLECTIVES or (chain is not None and chain[1] in chains):
            continue
        if chain is not None:
            chains.add(chain[1])
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


@dataclass(frozen=True)
class _Instruction:
    operation: str
    operands: list[str]  # names, or what stands there for a constant
    result: str  # its type
    line: str

    @property
    def called(self) -> dict[str, str]:
        """Computations by their role."""
        return dict(_CALLED.findall(self.line))

    @property
    def run(self) -> Iterator[str]:
        """The computations that it runs, but a loop's condition, which has nothing in it."""
        for role, name in _CALLED.findall(self.line):
            if role != "condition":
                yield name
        for names in _BRANCHES.findall(self.line):
            yield from _NAME.findall(names) or (name.strip() for name in names.split(","))


@dataclass
class _Computation:
    instructions: dict[str, _Instruction] = field(default_factory=dict)
    root: str = ""

    def number(self, name: str) -> int | None:
        """The value of a constant, or of a copy of one."""
        instruction = self.instructions.get(name)
        if instruction is None:
            return None
        if instruction.operation == "constant":
            value = instruction.operands[0]
            return int(value) if value.lstrip("-").isdecimal() else None
        copied = instruction.operation in ("copy", "bitcast", "convert")
        return self.number(instruction.operands[0]) if copied else None

    def element(self, name: str) -> int | None:
        """Which element of the computation's argument an instruction is."""
        instruction = self.instructions.get(name)
        if instruction is None or instruction.operation != "get-tuple-element":
            return None
        index = _INDEX.search(instruction.line)
        return None if index is None else int(index[1])


class _Program:
    def __init__(self, text: str):
        self.entry = ""
        self.computations: dict[str, _Computation] = {}
        current = _Computation()
        for line in text.splitlines():
            if head := _HEAD.match(line):
                current = self.computations.setdefault(head[2], _Computation())
                self.entry = head[2] if head[1] else self.entry
            elif found := _INSTRUCTION.match(line):
                _add(current, found)

    def executed(self) -> Iterator[tuple[_Instruction, int]]:
        """Each instruction that a call reaches, and how often it runs."""
        times: Counter[str] = Counter({self.entry: 1})
        for name in self._callers_first():
            for instruction in self.computations[name].instructions.values():
                yield instruction, times[name]
                loops = self.loops(instruction, self.computations[name])
                for called in instruction.run:
                    times[called] += times[name] * loops

    def loops(self, instruction: _Instruction, caller: _Computation) -> int:
        """How often what an instruction calls is run."""
        if instruction.operation != "while":
            return 1
        if known := _TRIPS.search(instruction.line):
            return int(known[1])
        return self._counted(instruction, caller) or 1

    def _counted(self, loop: _Instruction, caller: _Computation) -> int | None:
        """Of a loop `while counter < limit: counter += step`, which all of ours are."""
        condition, body = (self.computations.get(loop.called[c]) for c in ("condition", "body"))
        if condition is None or body is None:
            return None
        test = condition.instructions[condition.root]
        if test.operation != "compare" or "direction=LT" not in test.line:
            return None
        counter, limit = condition.element(test.operands[0]), condition.number(test.operands[1])
        if counter is None or limit is None:
            return None
        start = caller.instructions.get(loop.operands[0])
        first = caller.number(start.operands[counter]) if start and start.operands else 0
        step = _step(body, counter)
        return math.ceil((limit - (first or 0)) / step)

    def _callers_first(self) -> list[str]:
        """The computations that a call reaches, each after all that call it."""
        order: list[str] = []
        seen: set[str] = set()

        def visit(name: str) -> None:
            if name in seen or name not in self.computations:
                return
            seen.add(name)
            for instruction in self.computations[name].instructions.values():
                for called in instruction.run:
                    visit(called)
            order.append(name)

        visit(self.entry)
        return order[::-1]


def _add(computation: _Computation, line: re.Match[str]) -> None:
    operation = _OPERATION.search(line[3])
    if operation is None:
        return
    operands = _NAME.findall(operation[2]) or [operation[2]]
    result = line[3][: operation.start() + 1]
    computation.instructions[line[2]] = _Instruction(operation[1], operands, result, line[0])
    if line[1]:
        computation.root = line[2]


def _step(body: _Computation, counter: int) -> int:
    """What a loop's body adds to its counter."""
    root = body.instructions[body.root]
    added = body.instructions.get(root.operands[counter]) if root.operation == "tuple" else None
    if added is None or added.operation != "add":
        return 1
    steps = (body.number(operand) for operand in added.operands)
    return next((step for step in steps if step), 1)


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
