"""What a work item reads of earlier stages, and whether that still is what their journals list.

Names and sizes are compared before an item is taken up, and the content of what is small. What is large is read once:
the chunks of images, labels, flow fields and end points have checksums of their own, which are compared as they are
read, and a cell table is compared by `read_listed`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from plateflow.errors import ResultsError
from plateflow.files import checksum
from plateflow.project import Plate
from plateflow.stages.job import Item, Job, damage
from plateflow.state.journal import Entry


class LostFileError(ResultsError):
    """A file that a journal lists is gone, or is not what was written.

    Attributes:
        entry: of that stage's journal, which lists it.
        name: the file, as the journal names it.
    """

    def __init__(self, plate: Plate, stage: str, entry: Entry, name: str, why: str) -> None:
        self.stage, self.entry, self.name = stage, entry, name
        place = "/".join(filter(None, (plate.name, entry.well, entry.label_set)))
        super().__init__(
            f"a file that {stage} made can't be used any more",
            where=f"{place}: {plate.paths.path_of(name)}",
            why=why,
            remedy=f"run `snakemake` again: {stage} makes it anew, and all else goes on from there",
        )


def read_listed(plate: Plate, stage: str, entry: Entry, path: Path) -> bytes:
    """Read a file that a stage has made, once and whole, and compare it with what its journal lists.

    Raises:
        LostFileError: it isn't as its journal lists it.
    """
    name = plate.paths.key_of(path)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        data = b""
    stamp = entry.files.get(name)
    if stamp and (len(data), checksum(data)) != tuple(stamp):
        why = damage(plate.paths, name, stamp, content=True) or "it was changed while it was read"
        raise LostFileError(plate, stage, entry, name, why)
    return data


def _compared_later(name: str) -> bool:
    """Whether whoever reads a file compares its content."""
    if name.startswith("plate.zarr/"):
        return "/c/" in name
    return name.startswith("cells/") or name.endswith((".flows", ".ends"))


class Reading:
    """The files that the work items of a job read, each compared once."""

    def __init__(self, job: Job) -> None:
        self.plate = job.plate
        self._seen: set[tuple[str, bool]] = set()
        self._entries: dict[str, dict[str, list[Entry]]] = {}  # by stage and well
        for stage in job.stage.reads:
            by_well = self._entries[stage] = defaultdict(list)
            for entry in job.plate.outcomes(stage).values():
                if entry.label_set in ("", *job.config.segmented):
                    by_well[entry.well].append(entry)

    def check_manifest(self) -> None:
        """Compare the plate-level files that tell a job what there is to do: the manifest, the intensity window.

        Raises:
            LostFileError: one isn't as its journal lists it.
        """
        for stage in ("ingest", "normalise"):
            for entry in self._entries.get(stage, {}).get("", ()):
                self._check(stage, entry, [name for name in entry.files if name.startswith("manifest/")], content=True)

    def check(self, item: Item) -> None:
        """Compare what an item reads: names and sizes, and the content of what isn't compared later.

        Raises:
            LostFileError: a file isn't as its journal lists it.
        """
        for stage, entry, names in self._read_by(item):
            self._check(stage, entry, names, content=None)

    def find(self, items: Sequence[Item]) -> LostFileError | None:
        """What explains an error while these items were done: the first file whose content isn't what was written.

        Without items, all files are compared that an earlier stage has made of the plate as a whole.
        """
        self._seen.clear()
        try:
            self.check_manifest()
            if not items:
                for stage, by_well in self._entries.items():
                    for entry in by_well.get("", ()):
                        self._check(stage, entry, entry.files, content=True)
            for item in items:
                for stage, entry, names in self._read_by(item):
                    self._check(stage, entry, names, content=True)
        except LostFileError as lost:
            return lost
        except ResultsError:  # no journal knows of the manifest
            pass
        return None

    def also_lost(self, items: Sequence[Item]) -> Iterator[LostFileError]:
        """Once a file was lost: of each outcome one that is gone or of another size, for one run to make all again."""
        seen: set[str] = set()
        for item in items:
            for stage, entry, names in self._read_by(item):
                new = [name for name in names if name not in seen]
                seen.update(new)
                for name in new:
                    if why := damage(self.plate.paths, name, entry.files[name], content=False):
                        yield LostFileError(self.plate, stage, entry, name, why)
                        break

    def _read_by(self, item: Item) -> Iterator[tuple[str, Entry, list[str]]]:
        for stage, by_well in self._entries.items():
            keys = item.reads.get(stage)
            for well in ("", item.well) if item.well else ("", *self.plate.wells):
                for entry in by_well.get(well, ()):
                    if keys is not None and entry.key not in keys:
                        continue
                    if item.label_set and entry.label_set not in ("", item.label_set):
                        continue
                    of_well = ""
                    if stage == "ingest" and item.well:
                        of_well = self.plate.paths.key_of(self.plate.paths.image(item.well).parent) + "/"
                    elif stage == "normalise" and item.well:
                        of_well = "manifest/"  # how images are shown is read by nobody
                    names = [name for name in entry.files if name.startswith(of_well)]
                    if stage == "aggregate":  # cell tables in the store are read by other programs alone
                        names = [name for name in names if not name.startswith("plate.zarr/")]
                    yield stage, entry, names

    def _check(self, stage: str, entry: Entry, names: Iterable[str], *, content: bool | None) -> None:
        """Compare files; with `content` None, the content of all that isn't compared later."""
        for name in names:
            whole = not _compared_later(name) if content is None else content
            if (name, whole) not in self._seen:
                why = damage(self.plate.paths, name, entry.files[name], content=whole)
                if why:
                    raise LostFileError(self.plate, stage, entry, name, why)
                self._seen.add((name, whole))
