"""``snn2chip completion``: what shells ask when the tabulator is pressed."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

from snn2chip.cli import options
from snn2chip.cli.app import COMPLETE, cli, common, print_json
from snn2chip.cli.options import Name, argument

EPILOG = """\b
The line for the file that the shell starts with:
  bash  ~/.bashrc                    eval "$(snn2chip completion bash)"
  zsh   ~/.zshrc, after compinit     eval "$(snn2chip completion zsh)"
  fish  ~/.config/fish/config.fish   snn2chip completion fish | source
"""

_SOURCE = """\
%(complete_func)s() {
    local IFS=$'\\n' line
    COMPREPLY=()
    for line in $(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \
%(complete_var)s=bash_complete "$1" 2>/dev/null); do
        [[ ${line%%%%,*} == name ]] && compopt -o filenames
        COMPREPLY+=("${line#*,}")
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class Bash(BashComplete):
    """bash, which quotes names of files and layers, and is offered only files that fit."""

    source_template = _SOURCE

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Files by name."""
        found: list[CompletionItem[str]] = []
        for item in super().get_completions(args, incomplete):
            found += _files(item) if item.type in ("file", "dir") else [item]
        return found

    def format_completion(self, item: CompletionItem[str]) -> str:
        """Names may need quotes."""
        return f"{'name' if item.quoted else 'plain'},{item.value}"


def _files(item: CompletionItem[str]) -> list[CompletionItem[str]]:
    """Folders, and files of the right kind, that begin as ``item`` does."""
    folder, begin = os.path.split(item.value)
    where = Path(folder).expanduser() if folder else Path()
    suffixes = item.suffixes or ("",)
    try:
        entries = sorted(where.iterdir())
    except OSError:
        return []
    return [
        CompletionItem(os.path.join(folder, path.name), quoted=True)  # noqa: PTH118  # as it was typed: ./a stays ./a
        for path in entries
        if path.name.startswith(begin)
        and (begin.startswith(".") or not path.name.startswith("."))
        and (path.is_dir() or (item.type == "file" and path.name.endswith(tuple(suffixes))))
    ]


@options.command("completion", epilog=EPILOG)
@argument("shell", Name(["bash", "zsh", "fish"]), "The shell: bash (4.4 or newer), zsh or fish.")
@common
def command(shell: str, as_json: bool) -> None:
    """Print the script that lets SHELL complete commands, options, their values, files and layers."""
    kind = get_completion_class(shell)
    assert kind is not None
    source = kind(cli, {}, "snn2chip", COMPLETE).source()
    if as_json:
        print_json({"shell": shell, "script": source})
    else:
        click.echo(source, nl=False)
