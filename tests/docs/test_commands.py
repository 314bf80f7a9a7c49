"""Every command of the documentation is run, page by page, on a small plate; its few others are checked as typed.

Jobs of `snakemake` are done in this process, which is quicker; then Snakemake itself looks for what is left to do, once
per page.
What `init` configures is changed in two keys: the model is the tests' own, which takes a moment, and features are few.
Commands that name `default` and `fast` run those.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from command_line import plateflow
from pages import PAGES, blocks
from workflow_project import made_quick, run_in_process

from plateflow import cli
from plateflow.errors import PlateflowError
from plateflow.project import Project

GROUP = typer.main.get_command(cli._typer)
RUN = [page for page in PAGES if any(not block.why for block in blocks(page, "sh"))]
NOT_RUN = 12
"""Blocks that aren't run, all pages together: each says why. Fewer is better."""
DEADLINE_S = 60


class Shell:
    """Runs the lines of a page one after another, as a user's shell does."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.cwd, self.data = folder, data
        self.driven = set[Path]()  # projects in which Snakemake itself has run

    def run(self, line: str) -> None:
        """Run a line; it ends with 0, or with the status that its comment says."""
        told = re.search(r"#.*ends with status (\d)", line)
        *first, last = line.replace("/data/", f"{self.data}/").split(" && ")
        for command in first:
            self.command(command, 0)
        self.command(last, int(told[1]) if told else 0)

    def command(self, command: str, status: int) -> None:
        """Run a command without `&&`."""
        name, *words = self.words(command)
        if name == "cd":
            self.cwd = (self.cwd / words[0]).resolve(strict=True)
        elif name == "plateflow" and words[0] == "view":
            self.view(words)
        elif name == "plateflow":
            plateflow(*words, cwd=self.cwd, status=status)
            if words[0] == "init" and "--directory" not in words:
                made_quick(self.cwd)
        elif name == "snakemake":
            os.chdir(self.cwd)
            project = Project.load(Path("config/config.yaml"))
            run_in_process(project)
            if self.cwd in self.driven:
                assert run_in_process(project) == set()
            else:
                self.process([sys.executable, "-m", "snakemake", *words], 0)  # which finds nothing left to do
                self.driven.add(self.cwd)
        else:
            self.process(["bash", "-c", command], status)

    def words(self, command: str) -> list[str]:
        """A command's words, as bash makes them of patterns, quotes and `~`; the comment is none."""
        made = subprocess.run(
            ["bash", "-c", rf"printf '%s\0' {command}"], cwd=self.cwd, check=True, capture_output=True, text=True
        )
        return made.stdout.split("\0")[:-1]

    def process(self, command: list[str], status: int) -> None:
        """Run a program."""
        made = subprocess.run(command, cwd=self.cwd, check=False, capture_output=True, text=True, timeout=DEADLINE_S)
        assert made.returncode == status, made.stdout + made.stderr

    def view(self, words: list[str]) -> None:
        """Start the viewer, and end it as Ctrl-C does once it has said where it is."""
        started, said = [sys.executable, "-c", "from plateflow.cli import app; app()", *words], self.cwd / "said"
        with said.open("w") as output:
            viewer = subprocess.Popen(started, cwd=self.cwd, stdout=output, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + DEADLINE_S
            while "http://127.0.0.1:" not in said.read_text() and viewer.poll() is None and time.monotonic() < end:
                time.sleep(0.1)
            assert "http://127.0.0.1:" in said.read_text(), said.read_text()
        finally:
            viewer.send_signal(signal.SIGINT)
            viewer.wait(DEADLINE_S)


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page(page, home, clone, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setenv("GROUP", str(os.getgid()))
    shell = Shell(home, clone.with_name("data"))
    for block in blocks(page, "sh"):
        for line in block.lines if not block.why else ():
            try:
                shell.run(line)
            except (AssertionError, PlateflowError, OSError, subprocess.SubprocessError) as error:
                pytest.fail(f"{page}: {line}\n{error}")


ELSEWHERE = ("docs/adding-a-reader.md", "docs/tables.md")
"""Pages whose Python has tests of its own."""


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python") and page not in ELSEWHERE])
def test_the_python_of_a_page(page, home, monkeypatch):
    from plateflow.flows import flows_from_labels

    labels = np.zeros((64, 64), np.uint32)
    labels[20:40, 20:40] = 1
    flow, logit = 5 * flows_from_labels(labels), np.where(labels > 0, 6, -6).astype(np.float32)
    space = {"flow": flow, "cell_logit": logit, "field": np.concatenate([flow, logit[None]])}
    monkeypatch.chdir(home)
    for block in blocks(page, "python"):
        if "results/demo" in block.text:
            monkeypatch.chdir(home / "demo")
        exec(compile(block.text, page, "exec"), space)
    if "labels" in space:
        assert (space["labels"] > 0).sum() == (labels > 0).sum()


def check(words: list[str]) -> None:
    """Check the name and the options of a command, as typed; what stands for something else may be anything."""
    command, names = GROUP, list(words)
    while names and hasattr(command, "commands"):
        name = names.pop(0)
        if name.startswith("-"):
            break
        assert name in command.commands, f"there is no command {name}"
        command = command.commands[name]
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    for word in names:
        if re.match(r"--?[a-z]", word):
            assert word.split("=")[0] in known, f"{' '.join(words)}: no option {word}; there are {sorted(known)}"


def test_what_is_not_run_says_why_and_has_the_right_options():
    others = [block for page in PAGES for block in blocks(page, "sh") if block.why]
    assert len(others) <= NOT_RUN, [f"{block.page}: {block.why}" for block in others]
    for block in others:
        for line in block.lines:
            for command in line.partition(" #")[0].split(" && "):
                if command.startswith("plateflow "):
                    check(command.split()[1:])


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_exist(page):
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    for span in re.findall(r"`plateflow ([^`]+)`", text):
        words = span.split()
        if words[0].islower():  # `plateflow COMMAND --help`
            check(words)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_stands_in_a_block_that_is_run(page):
    """Not in an indented one, nor in a fence of another kind."""
    outside = re.sub(r"^ *```sh\n.*?^ *```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^(?: {4,}|\$ )?(?:plateflow|snakemake|make|pip|python) .*\n", outside, re.MULTILINE) == []
