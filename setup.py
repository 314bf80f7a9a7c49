"""What pyproject.toml can't say: a wheel brings the workflow's files, which lie at the top of the checkout, and the
viewer's script, which npm has."""

import runpy
import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = ("Snakefile", "constraints.txt")
FOLDERS = ("rules", "scripts", "profiles", "envs")


class BuildWithWorkflow(build_py):
    """Copies them into the package's folder `share`, where `plateflow.installed` looks for them."""

    def run(self) -> None:
        """Build the package; an editable one is the checkout itself."""
        if self.editable_mode:
            super().run()
            return
        viewer = Path("src/plateflow/viewer")
        try:
            runpy.run_path(str(viewer / "fetch.py"))["fetch"](viewer / "static")
        except RuntimeError as error:  # all else of the package works without it, and `plateflow view` says what to do
            print(f"WARNING: this wheel can't show wells in `plateflow view`: {error}", file=sys.stderr)
        shutil.rmtree(self.build_lib, ignore_errors=True)  # a former build may hold files that are gone since
        super().run()
        share = Path(self.build_lib, "plateflow", "share")
        share.mkdir()
        for name in FILES:
            shutil.copy2(name, share / name)
        for name in FOLDERS:
            shutil.copytree(name, share / name, ignore=shutil.ignore_patterns("__pycache__", "*.sif"))


setup(cmdclass={"build_py": BuildWithWorkflow})
