"""What Snakemake's own switches do here, where that isn't what their names promise: said at both ends of a run.

Snakemake sees receipts alone. It forces, touches, lists and deletes those; what is done with the results is decided by
the journals. docs/switches.md lists all switches that were tried.
"""

import atexit
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from plateflow.errors import number_of
from plateflow.files import stat_of
from plateflow.installed import project_folder

CONFIG = "config/config.yaml"
AGAIN = "`plateflow retry PLATE --stage STAGE`, then `snakemake`, computes again."
FORCING = {"forceall": "--forceall", "forcetargets": "--force", "forcerun": "--forcerun"}
"""Settings of Snakemake's DAG by which jobs run whose receipts are there."""
PARTIAL = {
    "targets": "a target",
    "until": "--until",
    "omit_from": "--omit-from",
    "batch": "--batch",
    "allowed_rules": "--allowed-rules",
}
"""Settings by which jobs that are to do are left for another run."""
UTILITIES = {
    "--cleanup-metadata": f"changes no result and no decision: Snakemake's records aren't asked. {AGAIN}",
    "--delete-all-output": "deletes receipts alone; results and journals stay. The next `snakemake` looks at all work "
    "again, and computes what isn't done. `plateflow clean PLATE --results` removes results.",
    "--delete-temp-output": "deletes nothing: no file is declared temporary. `plateflow clean PLATE` removes leftovers "
    "and, with --flows, the scratch.",
    "--summary": "lists receipts, not results. `plateflow status` says what is done, stale or left out.",
    "--archive": "packs the workflow and its configuration at most: neither raw data nor results.",
    "--unlock": "removes Snakemake's lock alone, whoever holds it. `plateflow retry` removes lock and leases of a "
    "driver that is gone, and lets a live one be.",
}
"""Switches by which Snakemake runs nothing, and what to know of them."""
SHORT = {"-S": "--summary", "-D": "--summary", "--detailed-summary": "--summary"}
"""What else they are called."""


class Switches:
    """The switches of one call of Snakemake. Whatever becomes of it, they are told when the process ends.

    Args:
        snakemake: its workflow. Most settings are there only once the Snakefile was read.

    Attributes:
        receipts, journals: list every receipt that is asked for, and the journals that there are; set once both are
            known.
        lacking: of each stage that the configuration lacks, the reason: Snakemake says only that there is no such rule.
    """

    def __init__(self, snakemake: Any) -> None:
        self._snakemake = snakemake
        self._folder = Path.cwd()
        self._before: dict[Path, Any] | None = None
        self.receipts: Callable[[], list[str]] = list
        self.journals: Callable[[], list[Path]] = list
        self.lacking: dict[str, str] = {}
        if snakemake.is_main_process:
            atexit.register(self._end)

    def forced(self) -> bool:
        """Whether jobs may run whose receipts are there."""
        return self._snakemake.is_main_process and bool(self._forcing())

    def begin(self) -> None:
        """Say at the start of a run what its switches don't do."""
        if self.forced():
            self._before = self._stamps()
        _print(self._notices())

    def to_do(self) -> int:
        """How many of the receipts that are asked for aren't there."""
        return sum(not Path(receipt).exists() for receipt in self.receipts())

    def _stamps(self) -> dict[Path, Any]:
        return {journal: stat_of(journal) for journal in self.journals()}

    def _forcing(self) -> list[str]:
        """The switches by which jobs may run whose receipts are there."""
        from snakemake.settings.enums import RerunTrigger

        dag = self._snakemake.dag_settings
        names = [name for setting, name in FORCING.items() if getattr(dag, setting, None)]
        others = dag and set(dag.rerun_triggers) - {RerunTrigger.MTIME}
        return [*names, "--rerun-triggers"] if others else names

    def _notices(self) -> list[str]:
        """What the switches of a run don't do."""
        snakemake, notices = self._snakemake, []
        if snakemake.touch:
            notices.append("--touch computes nothing and makes nothing up to date: receipts count, not times.")
        elif names := self._forcing():
            work = "jobs look at their work again, and compute only what isn't done as it is asked"
            notices.append(f"{', '.join(names)}: {work}. {AGAIN}")
        for setting in ("forcerun", "until", "omit_from", "allowed_rules"):
            for name in sorted(self.lacking.keys() & set(getattr(snakemake.dag_settings, setting, None) or ())):
                notices.append(f"--{setting.replace('_', '-')} {name}: {self.lacking[name]}")
        if snakemake.config_settings.config:
            notices.append(
                "--config: `plateflow status`, `plateflow retry` and the next plain `snakemake` read the file, so what "
                "this run makes otherwise is stale to them. Change the file, or give all of them `--configfile FILE`."
            )
        files = [os.path.relpath(file) for file in snakemake.config_settings.configfiles]
        if files and files != [CONFIG]:
            one = "" if len(files) == 1 else " `plateflow` takes one file: write a merged one."
            notices.append(
                f"--configfile {' '.join(files)}: give it to `plateflow status`, `plateflow retry` and the next run, "
                f"too; without it they read {CONFIG}.{one}"
            )
        for folder in {project_folder(Path(file)) for file in files} - {self._folder}:
            notices.append(
                f"--configfile: relative paths in it count from {self._folder} in this run, but from {folder} for "
                f"`plateflow`, as it lies in config/ there. Run `snakemake` there, or keep the file elsewhere."
            )
        if snakemake.overwrite_workdir:
            notices.append(
                f"--directory: relative paths in configuration and plate sheet count from {self._folder}. Run "
                "`plateflow status` and all other commands there."
            )
        return notices

    def _outcome(self) -> list[str]:
        """What Snakemake's last lines don't say of a run."""
        snakemake, lines = self._snakemake, []
        if self._before is not None and not snakemake.touch:
            n = sum(self._before.get(journal) != stamp for journal, stamp in self._stamps().items())
            lines.append(
                f"jobs that had something to compute: {n}." if n else "nothing was computed: all work was done."
            )
        names = [name for setting, name in PARTIAL.items() if getattr(snakemake.dag_settings, setting)]
        names += ["--touch"] if snakemake.touch else []
        if names and not snakemake.dryrun and (n := self.to_do()):
            todo = number_of(n, f"of {len(self.receipts())} jobs [are|is] still to do")
            lines.append(f"{todo} ({', '.join(names)}): `snakemake` does them.")
        return lines

    def _end(self) -> None:
        """Say at the end what the switches don't do, and what came of them."""
        os.chdir(self._folder)  # which Snakemake has left, after --directory
        if self._snakemake.execution_settings is None:
            given = {SHORT.get(word, word.partition("=")[0]) for word in sys.argv}
            outcome = [f"{name} {notice}" for name, notice in UTILITIES.items() if name in given]
        else:
            outcome = self._outcome()
        _print([*self._notices(), *outcome])


def _print(notices: Iterable[str]) -> None:
    for notice in notices:
        print(f"plateflow: {notice}", file=sys.stderr, flush=True)
