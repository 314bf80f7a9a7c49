"""The cell tables in the plate's store: what ngio finds, and when they are made again, or go away."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from planted_plate import Planted

from plateflow import files
from plateflow.exchange.corrections import import_items
from plateflow.exchange.images import export_images, read_items
from plateflow.files import link_file, read_lines, stamp_of, take_stamps
from plateflow.images import ngff
from plateflow.stages import reading
from plateflow.state.journal import append_outcome


def tables_of(planted: Planted, well: str) -> Path:
    return planted.paths.image(well) / "tables"


def listed(planted: Planted, well: str) -> list[str]:
    found: list[str] = zarr.open_group(tables_of(planted, well), mode="r").attrs["tables"]
    return found


def test_ngio_finds_them_by_itself(measured: Planted) -> None:
    ngio = pytest.importorskip("ngio")
    images = ngio.open_ome_zarr_plate(str(measured.paths.store)).get_images(max_workers=1)
    assert len(images) == 7
    for place, image in images.items():
        well = place.replace("/", "")[:3]
        if well == "C02":  # it is left out
            assert image.list_tables() == ["fields"]
            continue
        assert image.list_tables(filter_types="feature_table") == ["cells"]
        table, wanted = image.get_table("cells"), measured.cells(well).set_index("ObjectNumber")
        assert table.reference_label == "cells"
        assert table.reference_label in image.list_labels()
        pd.testing.assert_frame_equal(table.dataframe, wanted)
        labels = np.unique(image.get_label("cells", path="0").get_as_numpy())
        assert set(labels[labels > 0]) == set(wanted.index)
        assert table.lazy_frame.collect().height == len(wanted)


def test_ngio_puts_those_of_a_plate_together(measured: Planted) -> None:
    ngio = pytest.importorskip("ngio")
    plate = ngio.open_ome_zarr_plate(str(measured.paths.store))
    together = plate.concatenate_image_tables("cells", index_key="cell", strict=False, max_workers=1)
    wells = sorted(measured.paths.cells("B02").parent.iterdir())
    assert len(together.dataframe) == sum(len(pd.read_parquet(path)) for path in wells)


def test_a_table_is_a_second_name_and_its_stamp_is_in_the_journal(measured: Planted) -> None:
    entry = measured.plate.outcomes("aggregate").required()
    for well in ("B02", "B06"):
        table = tables_of(measured, well) / "cells" / "table.parquet"
        assert table.samefile(measured.paths.cells(well))
        for path in (table, table.parent / "zarr.json", tables_of(measured, well) / "zarr.json"):
            assert tuple(entry.files[measured.paths.key_of(path)]) == stamp_of(path)
    ingest = measured.plate.outcomes("ingest").required()
    assert not [name for name in ingest.files if name.endswith("tables/zarr.json")], "each file has one writer"


def test_where_there_are_no_links_it_is_a_copy(
    measured: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("no links here")

    source = measured.paths.cells("B02")
    take_stamps()
    monkeypatch.setattr(os, "link", refused)
    for _ in range(2):
        link_file(source, tmp_path / "tables" / "table.parquet", stamp_of(source))
        copy = tmp_path / "tables" / "table.parquet"
        assert copy.read_bytes() == source.read_bytes()
        assert not copy.samefile(source)
        assert [path.name for path in copy.parent.iterdir()] == ["table.parquet"]
    assert take_stamps() == {copy: stamp_of(source)}


def test_linking_twice_leaves_one_more_name(tmp_path: Path) -> None:
    """Of two names of one file, the system's rename removes neither."""
    source = tmp_path / "source"
    source.write_bytes(b"first")
    for _ in range(2):
        link_file(source, tmp_path / "second", stamp_of(source))
    files.write_atomic(source, b"other")
    assert (tmp_path / "second").read_bytes() == b"first", "what is written anew is another file"
    link_file(source, tmp_path / "second", stamp_of(source))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["second", "source"]
    assert (tmp_path / "second").read_bytes() == b"other"
    take_stamps()


def test_a_well_that_is_left_out_later_loses_its_table(measured: Planted, tmp_path: Path) -> None:
    planted = measured.copy(tmp_path)
    assert listed(planted, "B04") == ["fields", "cells"]
    (journal,) = planted.paths.journals("features")
    entry = planted.plate.outcomes("features").required("B04")
    append_outcome(journal, replace(entry, state="quarantined", reason="crash", files={}, sequence=entry.sequence + 1))
    planted.run("aggregate")
    assert listed(planted, "B04") == ["fields"]
    assert not (tables_of(planted, "B04") / "cells").exists()
    assert listed(planted, "B02") == ["fields", "cells"]


def test_another_label_set_for_the_rows_replaces_the_table(measured: Planted, tmp_path: Path) -> None:
    features = measured.config.features.model_dump() | {"rows": "nuclei", "families": ["area_shape"]}
    planted = measured.copy(tmp_path, features=features)
    planted.run("features", "aggregate")
    assert listed(planted, "B02") == ["fields", "nuclei"]
    assert not (tables_of(planted, "B02") / "cells").exists()
    attributes = zarr.open_group(tables_of(planted, "B02") / "nuclei", mode="r").attrs
    assert attributes["region"] == {"path": "../labels/nuclei"}


def test_corrected_labels_are_the_region(measured: Planted, tmp_path: Path) -> None:
    planted = measured.copy(tmp_path)
    export_images(planted.plate, "napari", "B02", "cells", tmp_path / "out")
    (item,) = read_items(tmp_path / "out")
    labels = item.read()
    tifffile.imwrite(item.file, np.where(labels == labels.max(), 0, labels))
    import_items(planted.plate, [item], by="ada", split=False)
    planted.run("features", "aggregate")
    assert "cells_corrected" in zarr.open_group(planted.paths.image("B02") / "labels", mode="r").attrs["ome"]["labels"]
    for well, labels in (("B02", "cells_corrected"), ("B03", "cells")):
        attributes = zarr.open_group(tables_of(planted, well) / "cells", mode="r").attrs
        assert attributes["region"] == {"path": f"../labels/{labels}"}


def test_ingest_again_leaves_them_and_fixes_a_damaged_list(measured: Planted, tmp_path: Path) -> None:
    planted = measured.copy(tmp_path)
    for journal in planted.paths.journals("ingest"):  # so ingest does its work again, and knows no image
        journal.unlink()
    damaged = tables_of(planted, "B03") / "zarr.json"
    damaged.write_bytes(b"{}")
    planted.run("ingest")
    assert listed(planted, "B02") == ["fields", "cells"]
    assert damaged.read_bytes() == ngff.table_list("cells")


def test_a_table_that_ngio_has_put_there_stays_whatever_runs_again(measured: Planted, tmp_path: Path) -> None:
    ngio = pytest.importorskip("ngio")
    planted = measured.copy(tmp_path)
    image, mine = planted.paths.image("B02"), pd.DataFrame({"mine": [1.5, 2.5]})
    container = ngio.open_ome_zarr_container(str(image))
    container.add_table("mine", ngio.tables.GenericTable(mine))
    for journal in (*planted.paths.journals("ingest"), *planted.paths.journals("aggregate")):
        journal.unlink()
    for stage in ("ingest", "aggregate"):
        planted.run(stage)
        assert listed(planted, "B02") == ["fields", "cells", "mine"]
    pd.testing.assert_frame_equal(container.get_table("mine").dataframe.reset_index(drop=True), mine)


def test_an_image_that_is_replaced_gets_its_table_again(measured: Planted, tmp_path: Path) -> None:
    planted = measured.copy(tmp_path)
    shutil.rmtree(tables_of(planted, "B02"))
    (planted.paths.image("B02") / "0" / "zarr.json").write_bytes(b"{}")
    for journal in planted.paths.journals("ingest"):
        journal.unlink()
    planted.run("ingest")
    assert listed(planted, "B02") == ["fields"]
    planted.run("tile", "normalise")
    planted.label()
    planted.run("features", "aggregate")
    assert listed(planted, "B02") == ["fields", "cells"]


def test_a_page_does_not_read_tables_that_only_other_programs_read(
    measured: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """13 GB of a plate of 384 wells would be read for their checksums."""
    planted = measured.copy(tmp_path)
    seen = list[str]()
    damage = reading.damage
    monkeypatch.setattr(
        reading, "damage", lambda paths, name, stamp, **more: seen.append(name) or damage(paths, name, stamp, **more)
    )
    planted.run("report")
    assert "wells.parquet" in seen
    assert not [name for name in seen if "/tables/cells/" in name]


def test_the_journal_stays_small(measured: Planted) -> None:
    (journal,) = measured.paths.journals("aggregate")
    (line,) = [line for line in read_lines(journal) if line["event"] == "done"]
    assert len([name for name in line["files"] if name.startswith("plate.zarr/")]) == 3 * 6 + 1
