"""Whether a segmentation fits its images: numbers, flags and what is said of the plate, on arrays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plateflow.config import Config
from plateflow.features import measure
from plateflow.features.brightness import OCTAVE, add_counts, bright_from, brightness
from plateflow.stats.segmentation import (
    LEAST_OBJECTS,
    Expected,
    Found,
    judge,
    plate_doubts,
    unmatched_of,
)

NUCLEI = {"nuclei": Expected.of("DNA", scale=1, diameter=24, diameters=(11, 50))}
SHAPE = (400, 400)


def field(seed: int, *, n: int = 25, level: float = 300, signal: float = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Noise of 10 at a level, and up to 25 blurred discs of 20 px at their half height, with the labels of these."""
    y, x = np.indices(SHAPE)
    cells, labels = np.zeros(SHAPE), np.zeros(SHAPE, np.uint32)
    for k in range(n):
        distance = np.hypot(y - 40 - 80 * (k // 5), x - 40 - 80 * (k % 5))
        cells += signal * (0.6 + 0.8 * (k % 3) / 2) / (1 + np.exp(distance - 10))
        labels[distance < 10] = k + 1
    noise = np.random.default_rng(seed).normal(level, 10, SHAPE)
    return (noise + cells).astype(np.float32), labels


def counts(seed: int = 0, *, labels: np.ndarray | None = None, **kwargs: float) -> np.ndarray:
    pixels, true = field(seed, **kwargs)
    return brightness(pixels, true if labels is None else labels, np.ones(SHAPE, bool))


def well(bright: np.ndarray | None = None, **changed: object) -> dict[str, Found]:
    """A sound well."""
    found = {"objects": 100, "area_px": 31400, "dropped": (6, 300), "diameter_px": 20.0, "unmatched": 4}
    return {"nuclei": Found(bright=bright, **found | changed)}


def flagged(found: dict[str, dict[str, Found]], expected: dict[str, Expected] = NUCLEI) -> dict[str, list[str]]:
    return {name: list(flags) for name, flags in judge(found, expected)[1].items() if flags}


def uncovered(found: dict[str, dict[str, Found]]) -> dict[str, float]:
    numbers, _ = judge(found, NUCLEI)
    return {name: of_well["Metadata_Nuclei_Uncovered"] for name, of_well in numbers.items()}


def test_what_is_bright_is_told_from_the_plate_and_a_brighter_well_is_no_brighter() -> None:
    plain = counts()
    np.testing.assert_allclose(plain, counts(level=5000), atol=2)  # a fluorescent compound
    start = bright_from(plain[0])
    assert start is not None
    threshold = 2 ** ((start - 1) / OCTAVE)
    assert 250 < threshold < 550  # about half of the discs' 1,000, and far above the noise
    _, true = field(0)
    share = (true[::4, ::4] > 0).mean()
    assert plain[0, start:].sum() / plain[0].sum() == pytest.approx(share, rel=0.2)
    assert plain[1, start:].sum() < 0.2 * plain[0, start:].sum()


def test_noise_alone_and_a_plane_of_one_value_have_nothing_bright() -> None:
    assert bright_from(counts(n=0)[0]) is None
    assert bright_from(counts(n=0, level=0)[0]) is None
    assert bright_from(brightness(np.full(SHAPE, 7, np.float32), np.zeros(SHAPE, int), np.ones(SHAPE, bool))[0]) is None
    dust = np.pad(counts(n=0), ((0, 0), (0, 20)))
    dust[:, -10:] += 1  # 10 pixels of 10,000
    assert bright_from(dust[0]) is None or np.isnan(uncovered({"B02": well(dust)})["B02"])


@pytest.mark.parametrize("step", [1, 16, 257])  # files of 8 bits, and such files as 16 bits
def test_few_grey_levels_are_no_bright_area_however_far_apart_they_are(step: int) -> None:
    pixels, labels = field(0, signal=5000)
    pixels = np.round(pixels / 50) * step  # a background of four levels
    bright = brightness(pixels, labels, np.ones(SHAPE, bool))
    assert uncovered({"B02": well(bright)})["B02"] < 0.25


def test_the_haze_of_thick_cells_need_not_be_in_objects() -> None:
    pixels, labels = field(0, n=5, signal=3000)
    pixels[:90] += 150  # around the five
    bright = brightness(pixels, labels, np.ones(SHAPE, bool))
    assert uncovered({"B02": well(bright)})["B02"] < 0.25
    nothing = brightness(pixels, labels * 0, np.ones(SHAPE, bool))
    assert uncovered({"B02": well(nothing)})["B02"] == 1


def test_only_the_pixels_of_the_field_count() -> None:
    pixels, labels = field(0)
    inside = np.zeros(SHAPE, bool)
    inside[:200] = True
    pixels[~inside] = 0
    half = brightness(pixels, labels, inside)
    assert half[0].sum() == 100 / 2 * 100
    np.testing.assert_array_equal(half, brightness(pixels[:200], labels[:200], inside[:200]))
    stack = brightness(np.stack([pixels[:200]] * 3), np.stack([labels[:200]] * 3), inside[:200])
    np.testing.assert_array_equal(stack, 3 * half)


def test_a_well_whose_cells_were_not_found_is_flagged_and_blank_dead_and_fluorescent_ones_are_not() -> None:
    nothing = np.zeros(SHAPE, np.uint32)
    none = {"objects": 0, "area_px": 0, "dropped": (3, 60), "diameter_px": np.nan, "unmatched": 0}
    found = {f"B{n:02d}": well(counts(n)) for n in range(2, 7)}
    found |= {
        "C02": well(counts(11, labels=nothing), **none),
        "C03": well(counts(12, n=0), **none),
        "C04": well(counts(13, n=0, level=4000), **none),
        "C05": well(counts(14, n=2), **none | {"objects": 2, "area_px": 628, "diameter_px": 6.0, "unmatched": 2}),
    }
    assert flagged(found) == {"C02": ["uncovered"]}
    shares = uncovered(found)
    assert shares["C02"] == 1
    assert max(shares[name] for name in found if name.startswith("B")) < 0.2
    assert np.isnan([shares["C03"], shares["C04"], shares["C05"]]).all()


def test_confluent_cells_and_a_plate_of_them_are_not_flagged() -> None:
    rng = np.random.default_rng(0)
    lawn = rng.normal(900, 150, SHAPE).astype(np.float32)
    full = brightness(lawn, np.ones(SHAPE, np.uint32), np.ones(SHAPE, bool))
    assert flagged({"B02": well(full), "B03": well(full)}) == {}
    assert flagged({"B02": well(full)} | {f"C{n:02d}": well(counts(n)) for n in range(1, 5)}) == {}


def test_the_median_diameter_is_compared_with_the_model_or_with_the_one_that_is_given() -> None:
    found = {f"{px}": well(diameter_px=float(px)) for px in (10, 12, 20, 49, 51)}
    assert flagged(found) == {"10": ["size"], "51": ["size"]}
    given = {"nuclei": Expected.of("DNA", scale=24 / 40, diameter=24, diameters=(11, 50))}
    assert flagged(found, given) == {"10": ["size"], "12": ["size"]}  # beyond half of 40 px
    assert flagged({"B02": well(diameter_px=81.0)}, given) == {"B02": ["size"]}
    tuned = {"nuclei": Expected.of("DNA", scale=1, diameter=30, diameters=(24, 37.5))}  # on one image
    assert flagged({f"{px}": well(diameter_px=float(px)) for px in (14, 16, 59, 61)}, tuned) == {
        "14": ["size"],
        "61": ["size"],
    }
    assert flagged({"B02": well(diameter_px=6.0, objects=LEAST_OBJECTS - 1)}) == {}
    assert flagged({"B02": well(diameter_px=6.0)}, {"nuclei": Expected(channel="DNA")}) == {}  # of an unknown model


def test_objects_dropped_count_by_number_and_area_so_that_neither_specks_nor_a_smear_stand_for_them() -> None:
    assert flagged({"B02": well(dropped=(150, 40000))}) == {"B02": ["flow_check"]}
    assert flagged({"B02": well(dropped=(900, 18000))}) == {}  # specks
    assert flagged({"B02": well(dropped=(1, 90000))}) == {}  # a smear
    blank = {"objects": 0, "area_px": 0, "diameter_px": np.nan, "unmatched": 0}
    assert flagged({"B02": well(dropped=(40, 900), **blank)}) == {}
    assert flagged({"B02": well(dropped=None)}) == {}  # of an earlier version


def test_a_well_in_which_all_was_dropped_is_flagged_where_something_is_bright() -> None:
    gone = {"objects": 0, "area_px": 0, "dropped": (90, 28000), "diameter_px": np.nan, "unmatched": 0}
    found = {"B02": well(counts(1, labels=np.zeros(SHAPE, int)), **gone)}
    assert flagged(found) == {"B02": ["uncovered", "flow_check"]}


def squares(edge: int) -> np.ndarray:
    """30 squares in the middle of 40 px each."""
    labels = np.zeros((200, 240), np.uint32)
    for k in range(30):
        top, left = 40 * (k // 6) + 20 - edge // 2, 40 * (k % 6) + 20 - edge // 2
        labels[top : top + edge, left : left + edge] = k + 1
    return labels


@pytest.mark.parametrize("rows", ["nuclei", "cells"])
def test_nuclei_without_cells_and_cells_without_nuclei_are_counted_and_swapped_ones_have_neither(
    rows: str, tmp_path: Path
) -> None:
    segmentation = {"nuclei": {"channels": ["DNA"]}, "cells": {"channels": ["AGP"]}}
    config = Config.model_validate({"segmentation": segmentation, "features": {"rows": rows}})

    def unmatched(nuclei: np.ndarray, cells: np.ndarray) -> dict[str, int]:
        labels = {"Nuclei": nuclei, "Cells": cells}
        image, row = np.zeros((1, *nuclei.shape)), rows.capitalize()
        table = measure(image, labels, channels=["DNA"], pixel_size_um=1, families="minimal", rows=row)
        table.to_parquet(tmp_path / "cells.parquet")
        return unmatched_of(tmp_path / "cells.parquet", config, table.attrs["orphans"])

    nuclei, cells = squares(10), squares(30)
    assert unmatched(nuclei, cells) == {"Nuclei": 0, "Cells": 0}
    assert unmatched(cells, nuclei) == {"Nuclei": 30, "Cells": 30}
    assert unmatched(np.where(nuclei > 12, 0, nuclei), np.where(cells <= 5, 0, cells)) == {"Nuclei": 5, "Cells": 18}


def table(uncovered: list[float], *, roles: str = "", count: int = 100) -> pd.DataFrame:
    """A well table with a share that is uncovered; roles by their first letters."""
    n = len(uncovered)
    wells = {
        "Metadata_Well": [f"B{k + 2:02d}" for k in range(n)],
        "Metadata_FieldsUsed": 4,
        "Count_Nuclei": count,
        "Metadata_Nuclei_Uncovered": uncovered,
    }
    names = {"n": "negative", "p": "positive", "t": "treatment"}
    return pd.DataFrame(wells | ({"Metadata_role": [names[role] for role in roles]} if roles else {}))


def test_the_plate_is_doubted_where_most_of_its_typical_wells_are_flagged_and_the_worst_are_named() -> None:
    (doubt,) = plate_doubts(table([0.1, 0.9, 0.7, 0.8]), NUCLEI)
    assert doubt["flag"] == "uncovered"
    assert doubt["wells"] == [("B03", "90%"), ("B05", "80%"), ("B04", "70%")]
    assert doubt["line"] == ("75% of what is bright in DNA is in none of the nuclei (worst: B03 90%, B05 80%, B04 70%)")
    assert plate_doubts(table([0.1, 0.9, 0.1, 0.8]), NUCLEI) == []
    assert plate_doubts(table([np.nan] * 4), NUCLEI) == []


def test_treatments_that_kill_do_not_make_the_plate_doubtful_nor_do_good_ones_save_it() -> None:
    toxic = [0.1, 0.1, 0.2, *[0.9] * 9]
    assert plate_doubts(table(toxic, roles="nnnppttttttt"), NUCLEI) == []
    assert len(plate_doubts(table(toxic, roles="ttpppttttttt"), NUCLEI)) == 1
    assert plate_doubts(table([0.1, 0.1, 0.9, 0.9, 0.9], roles="ttppp"), NUCLEI) == []
    assert len(plate_doubts(table([0.9, 0.9, 0.8, *[0.1] * 9], roles="nnn" + 9 * "t"), NUCLEI)) == 1


def test_a_plate_on_which_nothing_was_found_is_told_so() -> None:
    blank = [np.nan] * 4
    assert plate_doubts(table(blank, count=0), NUCLEI)[0]["text"] == "no nuclei were found"
    some = plate_doubts(table(blank, count=3), NUCLEI)[0]["text"]
    assert some == "next to no nuclei were found: 12 in 16 fields"
    assert plate_doubts(table(blank, count=4), NUCLEI) == []  # one a field: large cells


def test_counts_of_different_length_are_added() -> None:
    total = add_counts([np.array([[1, 2], [0, 1]]), np.array([[1, 1, 5], [0, 0, 2]])])
    assert total.tolist() == [[2, 3, 5], [0, 1, 2]]
    assert replace(well()["nuclei"], dropped=(0, 0)).dropped_share == 0
