"""What the site needs beyond its pages; MkDocs runs it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
COMMANDS = "<!-- commands -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add benchmarks/RESULTS.md, which stays where it is, as a page whose links lead on within the site."""
    text = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "measured.md", content=text.replace("](../docs/", "](")))
    for picture in BENCHMARKS.glob("*.png"):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Pipes in code within tables as Python reads them; the reference of the command line from what ``--help`` says."""
    markdown = re.sub(r"`[^`\n]*`", lambda code: code[0].replace(r"\|", "|"), markdown)
    return markdown.replace(COMMANDS, "\n\n".join(_commands())) if COMMANDS in markdown else markdown


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Material's search is a dialog without a name, which screen readers cannot announce."""
    dialog = 'data-md-component="search" role="dialog"'
    return output.replace(dialog, f'{dialog} aria-label="Search"')


class _Markdown(click.HelpFormatter):
    """Help as Markdown; what is written as it stands (``\\b``) becomes code."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        self.write(f"```text\n{prog} {args}\n```\n\n")

    def write_heading(self, heading: str) -> None:
        self.write(f"**{heading}**\n\n")

    def write_text(self, text: str) -> None:
        for paragraph in text.strip().split("\n\n"):
            literal = paragraph.startswith("\b")
            self.write(f"```text\n{paragraph[2:]}\n```\n\n" if literal else f"{_plain(paragraph)}\n\n")

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        for name, text in rows:
            self.write(f"`{name}`\n:   {_plain(text) or '&nbsp;'}\n\n")


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("*", r"\*").strip()


def _commands() -> Iterator[str]:
    from snn2chip.cli.app import cli

    top = click.Context(cli, info_name="snn2chip")
    for name in cli.list_commands(top):
        command = cli.get_command(top, name)
        assert command is not None
        ctx, formatter = click.Context(command, top, name), _Markdown()
        for write in (command.format_usage, command.format_help_text, command.format_options):
            write(ctx, formatter)
        yield f"## {name}\n\n{formatter.getvalue()}"
        if command.epilog:
            text = "\n".join(line for line in command.epilog.splitlines() if line != "\b")
            yield f"```text\n{text.strip()}\n```"
