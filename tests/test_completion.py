"""What a shell offers at the end of a line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from wanjax.cli.completion import SCRIPTS, words
from wanjax.cli.main import COMMANDS, main
from wanjax.config.resolve import preset_names


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("wanjax ", list(COMMANDS)),
        ("wanjax ge", ["generate"]),
        ("wanjax generate tiny", ["tiny-i2v", "tiny-t2v"]),
        ("wanjax generate num_i", ["num_inference_steps="]),
        ("wanjax generate --num_f", ["--num_frames="]),
        ("wanjax generate seed=3 see", ["seeds="]),  # what is given already is not offered again
        ("wanjax generate use_magcache=", ["use_magcache=True", "use_magcache=False"]),
        ("wanjax generate tiny-t2v sampler=e", ["sampler=euler"]),
        ("wanjax generate seed=r", ["seed=random"]),
        ("wanjax plan repea", []),  # a key of another command
        ("wanjax compare repea", ["repeats="]),
        ("wanjax show flow", ["flow_shift=", "flow_shift"]),
        ("wanjax generate image=", []),  # the shell's file names
        ("wanjax completion z", ["zsh"]),
        ("wanjax presets ", []),
        ("wanjax nonsense ", []),
    ],
)
def test_words_that_may_follow(line, expected):
    assert words(line) == expected


def test_presets_are_models():
    assert words("wanjax plan model=") == [f"model={name}" for name in preset_names()]


@pytest.mark.parametrize("shell", SCRIPTS)
def test_scripts(shell, capsys):
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == SCRIPTS[shell]


def test_another_shell(capsys):
    assert main(["completion", "fsh"]) == 2
    assert "name a shell: bash, zsh, fish; did you mean fish?" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="No bash here.")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("wanjax generate tiny-t2", ["tiny-t2v"]),
        ("wanjax generate sampler=", ["unipc", "euler"]),  # = parts words in bash
        ("wanjax generate --fl", ["--flow_shift="]),
    ],
)
def test_bash_completes(line, expected, tmp_path):
    command = tmp_path / "wanjax"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wanjax "$@"\n')
    command.chmod(0o755)
    code = f"{SCRIPTS['bash']}\nCOMP_LINE=$1 COMP_POINT=${{#1}}; compopt() {{ :; }}; _wanjax"
    done = subprocess.run(
        ["bash", "-c", code + '; printf "%s\\n" "${COMPREPLY[@]}"', "bash", line],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == expected
