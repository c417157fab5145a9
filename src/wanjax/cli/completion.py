"""
print what makes a shell complete commands, presets, keys and values

usage: wanjax completion bash|zsh|fish

  eval "$(wanjax completion bash)"             # in ~/.bashrc
  eval "$(wanjax completion zsh)"              # in ~/.zshrc, after compinit
  wanjax completion fish > ~/.config/fish/completions/wanjax.fish

The shell then asks `wanjax completion words "LINE"` for the words that may end a line.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any, Literal

from wanjax.cli.main import COMMANDS
from wanjax.config.keys import config_class, keys
from wanjax.config.resolve import preset_names
from wanjax.errors import UsageError
from wanjax.settings import kinds_of, nearest

# File names are the shell's own business: it offers them where there is nothing of ours.
SCRIPTS = {
    "bash": r"""_wanjax() {
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##* }"
    COMPREPLY=($(wanjax completion words "$line" 2>/dev/null))
    # bash takes what stands after = for a word of its own
    [[ $word == *=* && $COMP_WORDBREAKS == *=* ]] &&
        COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o default -F _wanjax wanjax
""",
    "zsh": r"""_wanjax() {
    local -a found
    found=(${(f)"$(wanjax completion words "$LBUFFER" 2>/dev/null)"})
    if (( $#found )); then
        compadd -Q -S '' -- $found
    else
        compset -P '*='
        _files
    fi
}
compdef _wanjax wanjax
""",
    "fish": "complete -c wanjax -a '(wanjax completion words (commandline -cp) 2>/dev/null)'\n",
}


def run(args: Sequence[str]) -> None:
    match args:
        case ["words", line]:
            print("\n".join(words(line)))
        case [shell] if shell in SCRIPTS:
            print(SCRIPTS[shell], end="")
        case _:
            near = nearest(args[0], SCRIPTS) if args else ""
            raise UsageError(f"name a shell: {', '.join(SCRIPTS)}{near}")


def words(line: str) -> list[str]:
    """What may stand in place of the last word of `line`, which is not finished."""
    _, *before, begun = ["wanjax", *line.split(" ")[1:]]
    before = [word for word in before if word]
    if not before:
        return [command for command in COMMANDS if command.startswith(begun)]
    command, dashes = before[0], "--" * begun.startswith("--")
    fields = {n: f for n, f in keys().items() if command in (f.metadata["commands"] or COMMANDS)}
    name, equals, _ = begun.removeprefix("--").partition("=")
    if command == "completion":
        found = list(SCRIPTS)
    elif command not in COMMANDS or command == "presets":
        found = []
    elif equals:
        field = fields.get(name.replace("-", "_"))
        found = [f"{dashes}{name}={value}" for value in _values(field)] if field else []
    else:
        given = {word.partition("=")[0] for word in before}
        found = [f"{dashes}{name}=" for name in fields if name not in given]
        if command == "show":
            found += fields
        found += preset_names()
    return [word for word in found if word.startswith(begun)]


def _values(field: dataclasses.Field[Any]) -> list[str]:
    """The values of a key that are few enough to name."""
    if field.name in ("preset", "model"):
        return list(preset_names())
    found = list(field.metadata["drawn"])
    for kind in kinds_of(config_class(), field):
        if kind is bool:
            found += ["True", "False"]
        elif typing.get_origin(kind) is Literal:
            found += map(str, typing.get_args(kind))
    return found
