"""What is installed besides Python's modules, and how a folder becomes a project that uses it.

Snakefile, rules, scripts, profiles, envs and constraints.txt lie at the top of a checkout; a wheel brings copies of
them in the folder `share` of the package, which setup.py makes.
"""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
SHARE = PACKAGE / "share"
SNAKEFILES = ("Snakefile", "snakefile", "workflow/Snakefile", "workflow/snakefile")
"""What a bare `snakemake` takes, the first that is there."""
SNAKEFILE = '''\
"""A Plateflow project: `snakemake` here runs the installed workflow, with the profile profiles/default.

It must be the snakemake of the environment in which Plateflow is installed.
"""

from plateflow.installed import installed


include: installed("Snakefile")


workflow.default_target = "all"  # which an include leaves as it was
'''


def installed(name: str) -> str:
    """The path of a file or folder, such as `Snakefile` or `profiles/slurm`."""
    return str((SHARE if SHARE.is_dir() else PACKAGE.parents[1]) / name)


def user_cache() -> Path:
    """The folder of the user in which is kept what takes seconds to make; it may not be there, nor be writable.

    Without a home it is one that can't be made: `~` would become a folder in the project.
    """
    folders = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")  # noqa: PTH111 - the other may raise
    return Path(next(filter(os.path.isabs, folders), os.devnull), "plateflow")


def make_project(folder: Path) -> list[str]:
    """Give a folder, which exists, a Snakefile and profiles, of which each stays that is there already.

    Returns:
        What was written, or is in the way, a line each.
    """
    there = next((folder / name for name in SNAKEFILES if (folder / name).exists()), None)
    written, lines = [], []
    if there is None:
        written.append("Snakefile")
        (folder / "Snakefile").write_text(SNAKEFILE)
    elif "plateflow" not in there.read_text(errors="replace"):
        lines.append(
            f"CHECK: {there} isn't Plateflow's, and a bare `snakemake` takes it: make the project in another folder "
            f"(--directory), or run `snakemake --snakefile {installed('Snakefile')}`"
        )
    for profile in sorted(Path(installed("profiles")).iterdir()):
        target = folder / "profiles" / profile.name
        if not target.exists():
            target.mkdir(parents=True)
            for file in profile.iterdir():  # not its mode: what is installed may be read-only
                (target / file.name).write_bytes(file.read_bytes())
            written.append(f"profiles/{profile.name}")
    return [*lines, *([f"Wrote {', '.join(written)} in {folder.resolve()}"] if written else [])]


def project_folder(configfile: Path) -> Path:
    """The folder from which relative paths in a configuration count: that in which `snakemake` runs.

    It is the one that holds the file's folder config/; of a file that lies elsewhere the working folder.
    """
    folder = Path(os.path.abspath(configfile)).parent  # noqa: PTH100 - links are left as they are, `..` isn't
    return folder.parent if folder.name == "config" else Path.cwd()
