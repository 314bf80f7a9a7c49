"""Profiles as Snakemake reads them; it is imported only where there is one to read, as that takes over a second."""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from plateflow.errors import PlateflowError
from plateflow.installed import installed


def snakefile() -> Path:
    """The Snakefile that a bare `snakemake` takes here, else the installed one."""
    from snakemake.api import resolve_snakefile

    return resolve_snakefile(None, allow_missing=True) or Path(installed("Snakefile"))


def profile_file(profile: Path) -> Path:
    """The file that Snakemake reads for `--workflow-profile`, given as a name, a folder or a file.

    Raises:
        PlateflowError: there is none.
    """
    from snakemake.cli import get_profile_dir

    places = (profile, "profiles" / profile, snakefile().parent / "profiles" / profile)
    found = get_profile_dir(str(next((place for place in places if place.exists()), profile)))
    if found is None:
        raise PlateflowError(
            "there is no profile",
            where=str(profile),
            why="Snakemake finds no config.yaml, config.v9+.yaml or profile.yaml in it",
            remedy="name its folder with --profile; `plateflow init` puts the shipped ones into a project",
        )
    return Path(found[1])


def read_profile(file: Path) -> dict[str, Any]:
    """What a profile sets, by option: a text, or a list of texts such as `gpu=1`.

    Raises:
        PlateflowError: it can't be read.
    """
    from snakemake.profiles import ProfileConfigFileParser

    with errors_of_snakemake(file), file.open() as stream:
        return dict(ProfileConfigFileParser().parse(stream))


@contextmanager
def errors_of_snakemake(file: Path) -> Iterator[None]:
    """What Snakemake says of a profile and raises over it, as one error.

    Raises:
        PlateflowError: Snakemake can't work with the profile.
    """
    from configargparse import ConfigFileParserException
    from snakemake.exceptions import CliException, RuleException, WorkflowError

    said = StringIO()
    try:
        with redirect_stderr(said):
            yield
    except (WorkflowError, RuleException, CliException, ConfigFileParserException, OSError, SystemExit) as error:
        why = said.getvalue().rpartition("error: ")[2] if isinstance(error, SystemExit) else str(error)
        raise PlateflowError(
            "Snakemake can't use the profile", where=str(file), why=" ".join(why.split()), remedy="edit it"
        ) from None
