"""Corrected labels as people give them back: checked, numbered as the objects that they were, and recorded.

Everything is checked before anything is written, and one line records all wells of a plate.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from plateflow.errors import PlateflowError
from plateflow.exchange.drawn import Counts, checked, compared, in_one_piece, object_table
from plateflow.exchange.images import Item, canvas_labels, digest_of
from plateflow.files import checksum, write_atomic
from plateflow.images.canvas import Canvas
from plateflow.images.corrected import CorrectedLabels, packed
from plateflow.images.well import WellImage
from plateflow.project import Plate
from plateflow.state.corrections import Correction, record
from plateflow.state.ledger import now
from plateflow.tables import encoded

Labels = NDArray[np.uint32]


@dataclass
class Imported:
    """What an import has done.

    Attributes:
        lines: a sentence per well, or canvas that wasn't imported.
        wells: how many have new corrections.
    """

    lines: list[str] = field(default_factory=list)
    wells: int = 0


def import_items(plate: Plate, items: Iterable[Item], *, by: str, split: bool) -> Imported:
    """Make corrected labels of wells of a plate its corrections: all that differ from what was exported, or none.

    Args:
        by: who has corrected them.
        split: make pieces of an object objects of their own, and drop those below `min_size_px` of the label set.

    Raises:
        PlateflowError: some can't be used; each is named, with its reason, and nothing is written.
    """
    done, problems, new = Imported(), list[str](), list[tuple[Correction, bytes]]()
    ordered = sorted(items, key=lambda item: (item.well, item.label_set, item.canvas))
    for (well, label_set), of_well in groupby(ordered, key=lambda item: (item.well, item.label_set)):
        try:
            made = _Well(plate, well, label_set).correct(list(of_well), done, problems, by=by, split=split)
        except PlateflowError as error:
            problems.append(f"{well} {label_set}: {_told(error)}")
            continue
        new += [made] if made else []
    if problems:
        raise PlateflowError(
            "corrected labels can't be imported, and none was",
            where=plate.name,
            why="\n  ".join(problems),
            remedy="correct these, or take their files out of the folder, and import it again",
        )
    for correction, data in new:
        write_atomic(correction.file(plate.paths), data)
    if new:
        record(plate.paths, [correction for correction, _ in new])
    done.wells = len(new)
    return done


def _told(error: PlateflowError) -> str:
    return f"{': '.join(filter(None, (error.what, error.why)))}{f' ({error.remedy})' if error.remedy else ''}"


class _Well:
    """A label set of a well: the labels that stand, and the pipeline's."""

    def __init__(self, plate: Plate, well: str, label_set: str) -> None:
        plate.check_well(well)
        if label_set not in plate.config.segmentation or label_set not in plate.label_sets(well):
            sets = ", ".join(plate.label_sets(well))
            raise PlateflowError(f"the well has no label set {label_set!r}", why=f"its label sets are {sets}")
        if plate.config.segmentation[label_set].ring:
            why = "rings follow from the objects that they lie round: correct those"
            raise PlateflowError(f"{label_set} can't be corrected", why=why)
        made = plate.labelled(label_set).required(well, label_set)
        if made.left_out:
            raise PlateflowError("the well was left out since", why=made.reason)
        self.plate, self.well, self.label_set = plate, well, label_set
        self.image, self.canvases = WellImage.open(plate.paths, well), plate.canvases(well, label_set)
        self.made_from, self.images = plate.labels_id(well, label_set), plate.labelled_image(well, label_set)
        self.former = plate.correction(well, label_set)
        self.tables = {False: pq.read_table(plate.paths.objects(label_set, well))}
        self.by_hand: CorrectedLabels | None = None

    def correct(
        self, items: list[Item], done: Imported, problems: list[str], *, by: str, split: bool
    ) -> tuple[Correction, bytes] | None:
        """The correction that these items make, and its file; None where nothing differs, or something can't be used.

        What can't be used goes into `problems`, what isn't imported into `done`.
        """
        with ExitStack() as stack:
            if self.former:
                self.by_hand = stack.enter_context(
                    CorrectedLabels(self.former.file(self.plate.paths), self.former.stamp)
                )
                self.tables[True] = pq.read_table(io.BytesIO(self.by_hand.objects()))
            greatest = max(int(table["label"].to_numpy().max(initial=0)) for table in self.tables.values())
            corrected: dict[int, tuple[Labels, pa.Table]] = {}
            counts, before = Counts(), len(problems)
            for item in items:
                where = f"{self.well} {self.label_set}, canvas {item.canvas}, {item.file.name}"
                try:
                    if item.canvas in corrected:
                        raise PlateflowError("another file holds the same canvas")
                    found = self._canvas(item, greatest, split, done, where)
                except PlateflowError as error:
                    problems.append(f"{where}: {_told(error)}")
                    continue
                if found is not None:
                    labels, table, more = found
                    counts, greatest = counts + more, max(greatest, int(labels.max(initial=0)))
                    corrected[item.canvas] = labels, table
            if not corrected or len(problems) > before:
                return None
            sources = {
                str(item.canvas): {"exported": item.exported, "program": item.program, "file": item.file.name}
                for item in items
                if item.canvas in corrected
            }
            done.lines.append(f"{self.well} {self.label_set}: {counts}")
            if self.former:
                done.lines.append(f"{self.well} {self.label_set}: instead of {self.former}")
            return self._correction(corrected, counts, sources, by)

    def _canvas(
        self, item: Item, greatest: int, split: bool, done: Imported, where: str
    ) -> tuple[Labels, pa.Table, Counts] | None:
        """The labels of a canvas with their final numbers, and the table of their objects; None where none differs."""
        if not 0 <= item.canvas < len(self.canvases):
            why = "its images have changed: export it again"
            raise PlateflowError(f"the well has no canvas {item.canvas}", why=why)
        canvas = self.canvases[item.canvas]
        if item.shape != canvas.shape:  # of outlines, an image of this shape would be made
            why = f"{item.shape} is their shape in the folder's index, {canvas.shape} that of the image"
            raise PlateflowError("the labels are of another image", why=why)
        drawn = checked(item.read(), canvas.owner() < 0, canvas.shape)
        if digest_of(drawn) == item.exported != self._exported_before(canvas):
            done.lines.append(f"{where}: as exported, not imported")
            return None
        base, rows = self._base(canvas, item.exported)
        least = self.plate.config.segmentation[self.label_set].min_size_px if split else None
        found = compared(drawn, base, greatest + 1)
        whole, note = in_one_piece(found, base, least)
        if note:
            found = compared(whole, base, greatest + 1)
            done.lines.append(f"{where}: {note}")
        if not found.counts:
            done.lines.append(f"{where}: no object differs, not imported")
            return None
        return found.labels, object_table(found, canvas, rows), found.counts

    def _base(self, canvas: Canvas, exported: str) -> tuple[Labels, pa.Table]:
        """The labels of a canvas that were exported, and the table of their objects.

        They are the pipeline's, or corrected ones. Who goes on correcting files that were imported before starts from
        what that import has left.
        """
        if self.by_hand:
            labels = self.by_hand.canvas(canvas.index)
            if exported in (self._exported_before(canvas), digest_of(labels)):
                return labels, self._rows(canvas)
        if not self.former or self.former.made_from == self.made_from:  # else numbers of its canvases could be equal
            labels = canvas_labels(self.image, self.label_set, canvas)
            if digest_of(labels) == exported:
                return labels, self._rows(canvas, by_hand=False)
        raise PlateflowError(
            "the labels have changed since they were exported", why="export the well again, and correct that"
        )

    def _exported_before(self, canvas: Canvas) -> str:
        """Of a canvas that was corrected before, the digest of the labels that were exported for it; else empty."""
        return self.former.sources.get(str(canvas.index), {}).get("exported", "") if self.former else ""

    def _standing(self, canvas: Canvas) -> Labels:
        return self.by_hand.canvas(canvas.index) if self.by_hand else canvas_labels(self.image, self.label_set, canvas)

    def _rows(self, canvas: Canvas, *, by_hand: bool | None = None) -> pa.Table:
        table = self.tables[self.by_hand is not None if by_hand is None else by_hand]
        return table.filter(pa.array(table["canvas"].to_numpy() == canvas.index))

    def _correction(
        self,
        corrected: Mapping[int, tuple[Labels, pa.Table]],
        counts: Counts,
        sources: dict[str, dict[str, str]],
        by: str,
    ) -> tuple[Correction, bytes]:
        tables = [corrected[each.index][1] if each.index in corrected else self._rows(each) for each in self.canvases]
        labels = (
            (each.index, corrected[each.index][0] if each.index in corrected else self._standing(each))
            for each in self.canvases
        )
        data = packed(labels, encoded(pa.concat_tables(tables), use_dictionary=False))
        correction = Correction(
            well=self.well,
            label_set=self.label_set,
            name=hashlib.sha256(data).hexdigest()[:20],
            stamp=(len(data), checksum(data)),
            images=self.images,
            made_from=self.former.made_from if self.former else self.made_from,
            by=by,
            at=now(),
            sources={**(self.former.sources if self.former else {}), **sources},
            counts=asdict(counts),
            n_columns=self.plate.n_columns,
        )
        return correction, data
