"""The completion scripts, as a shell runs them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from gpuvox.cli import main
from gpuvox.cli.completion import SHELLS, command_parser
from gpuvox.cli.main import COMMANDS

ASK = """
source completion
complete_word() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    "$(complete -p "$1" | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
    echo "${COMPREPLY[@]}"
}
complete_word gpuvox rand
complete_word gpuvox ""
complete_word gpuvox voxelwise --mod
complete_word gpuvox randomise -i mas
complete_word gpuvox-randomise --tfce_
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_bash_completes_commands_options_and_files(tmp_path, capsys):
    assert main(["--completion", "bash"]) == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    (tmp_path / "mask.nii").touch()
    answer = subprocess.run(["bash", "-c", ASK], cwd=tmp_path, capture_output=True, text=True, check=True)
    command, commands, option, file, own = answer.stdout.splitlines()
    assert command == "randomise"
    assert set(COMMANDS) <= set(commands.split())
    assert "--model" in option.split()
    assert file == "mask.nii"
    assert set(own.split()) == {"--tfce_H", "--tfce_E", "--tfce_C", "--tfce_D"}


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_is_in_the_script(shell, capsys):
    assert main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in COMMANDS)


def test_every_command_has_a_parser_of_its_name():
    for command in COMMANDS:
        assert command_parser(command).prog == f"gpuvox {command}"


@pytest.mark.parametrize(("arguments", "said"), [(["fish"], "fish"), ([], "missing its value")])
def test_other_shells_are_refused(arguments, said, capsys):
    assert main(["--completion", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err == f"gpuvox: --completion is {said}; expected bash, zsh or tcsh\n"
