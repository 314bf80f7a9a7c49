"""The doses of plate maps: columns, units, rounding."""

import math
from pathlib import Path

import numpy as np
import pytest

from plateflow.errors import RawDataError
from plateflow.plates.check import pooled_wells
from plateflow.plates.doses import same_doses
from plateflow.plates.platemap import read_plate_map


def read(tmp_path: Path, text: str) -> tuple[list[float], str]:
    path = tmp_path / "map.csv"
    path.write_text(text)
    table = read_plate_map(path)
    return table["dose"].tolist(), " ".join(dict.fromkeys(table.get("dose_unit", [""])))


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("dose", ""),
        ("Doses", ""),
        ("dose_uM", "uM"),
        ("Dose (µM)", "uM"),
        ("Dose [μM]", "uM"),
        ("dose.nM", "nM"),
        ("doseuM", "uM"),
        ("dose in mM", "mM"),
        ("dose_M", "M"),
        ("conc", ""),
        ("Conc. (nM)", "nM"),
        ("conc_um", "uM"),
        ("Metadata_concentration", ""),
        ("Concentration (uM)", "uM"),
        ("concentration_ug_per_ml", "ug/ml"),
        ("Concentration [µg/mL]", "ug/ml"),
        ("Konzentration (µmol/l)", "uM"),
        ("drug_dose", ""),
        ("SBS_Doses", ""),
        ("final conc_nanomolar", "nM"),
        ("mmoles_per_liter", "mM"),
        ("uM", "uM"),
        ("uM_dose", "uM"),
        ("mg/kg dose", "mg/kg"),
        ("dose (Gy)", "Gy"),
        ("dose_iu/ml", "IU/ml"),
        ("dose (% v/v)", "% v/v"),
        ("dose (arbitrary)", "arbitrary"),
    ],
)
def test_a_column_is_the_dose_by_its_name_and_has_its_unit(tmp_path: Path, name: str, unit: str) -> None:
    assert read(tmp_path, f"well,treatment,{name}\nA1,x,100\nA2,x,0.5\n") == ([100, 0.5], unit)
    drawn = f"treatment,1,2\nA,x,x\n\n{name},1,2\nA,100,0.5\n"
    assert read(tmp_path, drawn) == ([100, 0.5], unit)


@pytest.mark.parametrize(
    "name",
    [
        *("log_dose", "log10(conc)", "dose (log10 M)", "dose_rank", "concerto", "um_size", "overdosed"),
        *("stock_conc", "cell_concentration", "Serum Concentration", "DMSO concentration (%)", "solvent_conc_uM"),
        *("days_after_dose", "hours post-dose", "time_of_dose", "concentration (cells/ml)", "dose (min)"),
    ],
)
def test_other_columns_are_no_dose(tmp_path: Path, name: str) -> None:
    doses, unit = read(tmp_path, f"well,treatment,{name}\nA1,x,100\nA2,x,0.5\n")
    assert np.isnan(doses).all()
    assert unit == ""


def test_units_of_a_column_are_converted_where_they_are_molar(tmp_path: Path) -> None:
    text = "well,role,treatment,dose,dose_unit\n" + "".join(
        f"A{n},{role},x,{dose},{unit}\n"
        for n, (role, dose, unit) in enumerate(
            [
                ("negative", 0, ""),
                ("treatment", 100, "nM"),
                ("treatment", 1, "µM"),
                ("treatment", 0.01, "millimolar"),
                ("treatment", 3e-6, "mol/l"),
                ("empty", "", ""),
            ],
            1,
        )
    )
    doses, unit = read(tmp_path, text)
    assert doses[:5] == [0, 100, 1000, 10_000, 3000]
    assert math.isnan(doses[5])
    assert unit == "nM "
    assert read(tmp_path, "well,treatment,dose,unit\nA1,x,1,uM\nA2,x,100,nM\n") == ([1, 0.1], "uM")
    assert read(tmp_path, "well,treatment,dose,units\nA1,x,1,ug/ml\nA2,x,2,µg per mL\n") == ([1, 2], "ug/ml")


@pytest.mark.parametrize(
    "columns",
    [
        *("pert_dose,pert_dose_unit", "drug_conc,drug_conc_units", "Conc.,Conc. Units", "final conc,dose_unit"),
        *("Dosis,Einheit", "conc,Metadata_Conc Unit", "drug_dose,UOM"),
    ],
)
def test_the_column_of_units_is_known_by_the_name_of_the_dose(tmp_path: Path, columns: str) -> None:
    assert read(tmp_path, f"well,treatment,{columns}\nA1,x,1,uM\nA2,x,100,nM\n") == ([1, 0.1], "uM")
    table = read_plate_map(tmp_path / "map.csv")  # what is kept as written keeps its unit
    assert columns.endswith(",dose_unit") or table[columns.replace("Metadata_", "").split(",")[1]].tolist() == [
        "uM",
        "nM",
    ]


def test_a_unit_of_something_else_is_not_that_of_the_dose(tmp_path: Path) -> None:
    text = "well,volume,unit,dose,dose_unit\nA1,5,ul,1,uM\nA2,5,ul,100,nM\n"
    assert read(tmp_path, text) == ([1, 0.1], "uM")
    assert read_plate_map(tmp_path / "map.csv")["unit"].tolist() == ["ul", "ul"]
    assert read(tmp_path, "well,dose,dose_unit,unit\nA1,1,,uM\nA2,100,,nM\n") == ([1, 0.1], "uM")
    assert read(tmp_path, "well,dose_uM,volume,unit\nA1,1,5,ul\nA2,2,5,ul\n") == ([1, 2], "uM")
    assert read(tmp_path, "well,dose,volume,unit\nA1,1,5,ul\nA2,2,5,ul\n") == ([1, 2], "")
    assert read(tmp_path, "well,dose_uM,time,unit\nA1,1,5,h\nA2,2,5,h\n") == ([1, 2], "uM")
    assert read(tmp_path, "well,dose,volume,unit\nA1,1,5,J/m2\nA2,2,5,J/m2\n") == ([1, 2], "J/m2")
    assert read(tmp_path, "well,dose_uM,pert_dose,pert_dose_unit\nA1,1,1000,nM\n") == ([1], "uM")
    assert read(tmp_path, "well,dose,stock_conc,stock_conc_unit,unit\nA1,1,5,mM,uM\n") == ([1], "uM")


def test_percent_is_one_unit_in_each_spelling(tmp_path: Path) -> None:
    assert read(tmp_path, "well,dose,unit\nA1,1,percent\nA2,2,%\n") == ([1, 2], "%")


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("well,dose,dose_unit\nA1,1,uM\nA2,1,ug/ml\n", "uM and ug/ml", 3),
        ("well,dose,dose_unit\nA1,1,uM\nA2,1,\n", "uM and none", 3),
        ("well,dose_uM,dose_unit\nA1,1,nM\n", "two units of a dose: uM and nM", 2),
        ("well,dose_uM,unit\nA1,1,nM\n", "two units of a dose: uM and nM", 2),
        ("well,dose,dose_unit\nA1,1,uM\nA2,1,aM\n", "uM and aM", 3),
        ("well,dose,unit,units\nA1,1,uM,nM\n", "unit of dose: unit and units", 2),
        ("well,pre_dose,drug_dose\nA1,5,1\n", "pre_dose and drug_dose", 2),
        ("well,dose,conc\nA1,1,2\n", "dose and conc", 2),
        ("well,dose,dose_nM\nA1,1,2\n", "dose and dose_nM", 2),
        ("well,conc (mM),final conc (uM)\nA1,10,2\n", r"conc \(mM\) and final conc \(uM\)", 2),
        ("well,dose_uM,dose (ug/ml)\nA1,1,1\n", r"dose_uM and dose \(ug/ml\)", 2),
        ("well,dose\nA1,1\nA2,1_000\n", "'1_000'", 3),
        ("well,conc_uM\nA1,10 nM\n", "'10 nM'", 2),
        ('well,dose\nA1,"1,000"\n', "'1,000'", 2),
        ("well,dose\nA1,inf\n", "'inf'", 2),
        ("well,dose\nA1,1e999\n", "'1e999'", 2),
        ("well,dose\nA1,٣\n", "'٣'", 2),
    ],
)
def test_what_can_not_be_told_is_refused(tmp_path: Path, text: str, message: str, line: int) -> None:
    with pytest.raises(RawDataError, match=message) as error:
        read(tmp_path, text)
    assert error.value.where.endswith(f"line {line}")


def test_columns_that_hold_the_same_doses_and_those_of_something_else_do_no_harm(tmp_path: Path) -> None:
    assert read(tmp_path, "well,dose_nM,dose_uM\nA1,1000,1\nA2,3333,3.33\n") == ([1000, 3333], "nM")
    assert read(tmp_path, "well,dose,conc (uM)\nA1,1,1\nA2,,\n")[1] == "uM "
    assert read(tmp_path, "well,dose,stock_concentration_mM\nA1,1,10\nA2,2,10\n") == ([1, 2], "")
    assert read(tmp_path, "well,dose,conc\nA1,1,\nA2,2,NA\n") == ([1, 2], "")
    assert read(tmp_path, "well,final_conc_uM,dmso_conc\nA1,1,0.1\nA2,10,0.1\n") == ([1, 10], "uM")
    with pytest.raises(RawDataError, match="leave it empty, or write NA"):
        read(tmp_path, "well,dose\nA1,none\nA2,1\n")


def test_doses_of_a_treatment_that_differ_by_rounding_are_one() -> None:
    names = ["x"] * 6 + ["y", "x", "x", "y"]
    doses = [3.33, 3.333, 3.33, 0.1 + 0.2, 0.3, 0, 3.333, 3.4, math.nan, -666]
    expected = [3.33, 3.33, 3.33, 0.3, 0.3, 0, 3.333, 3.4, math.nan, -666]
    np.testing.assert_equal(same_doses(names, doses), expected)


def test_spellings_are_one_dose_by_each_other_up_to_twice_the_rounding() -> None:
    assert same_doses("xxxx", [3.333, 3.33, 3.3, 10]) == [3.3, 3.3, 3.3, 10]
    assert same_doses("xxxx", [100, 100.9, 101.8, 102.7]) == [100, 100, 100, 102.7]


def test_the_doses_of_a_map_are_read_as_one_where_they_differ_by_rounding(tmp_path: Path) -> None:
    text = "well,treatment,conc_uM\nA1,x,33.3\nA2,x,33.3\nA3,x,33.33\nA4,y,33.33\nA5,x,34\n"
    assert read(tmp_path, text)[0] == [33.3, 33.3, 33.3, 33.33, 34]


def test_a_well_with_nothing_but_plate_and_unit_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("plate,well,treatment,dose,dose_unit\np1,A1,x,1,uM\np1,A2,,,uM\n")
    assert read_plate_map(path, "p1")["role"].tolist() == ["treatment", "empty"]


def pooled(tmp_path: Path, columns: str, wells: list[str]) -> list[str]:
    path = tmp_path / "map.csv"
    path.write_text("\n".join([f"well,role,treatment,{columns}", *(f"A{n},{well}" for n, well in enumerate(wells, 1))]))
    return list(pooled_wells(read_plate_map(path)))


def test_a_column_of_numbers_that_splits_a_treatment_is_named(tmp_path: Path) -> None:
    """Five amounts of one compound in duplicate, in a column that can't be told to be the dose."""
    wells = [f"treatment,x,{amount},{n},{n % 2}" for n, amount in enumerate([1, 1, 2, 2, 4, 4, 8, 8, 16, 16])]
    (text,) = pooled(tmp_path, "amount,index,Replicate", wells)
    assert text.startswith("amount is not read, but tells wells of x apart")
    assert not pooled(tmp_path, "dose_uM,index,Replicate", wells)
    (text,) = pooled(tmp_path, "amount", ["treatment,x,10 nM", "treatment,x,10 nM", "treatment,x,0.1 µM"])
    assert text.startswith("amount is not read, but tells wells of x apart, which count together: 0.1 µM, 10 nM")
    assert not pooled(tmp_path, "amount", ["treatment,x,100 nM", "treatment,x,100 nM", "treatment,x,0.1 µM"])
    assert not pooled(tmp_path, "amount,mw", ["treatment,x,1,300", "treatment,x,1.001,300", "treatment,y,5,200"])


def test_a_column_that_splits_the_negative_controls_is_named(tmp_path: Path) -> None:
    lines = ["negative,DMSO,HeLa", "negative,DMSO,HeLa", "negative,DMSO,U2OS", "treatment,x,U2OS"]
    assert pooled(tmp_path, "cell line", lines) == [
        "cell line tells negative controls apart, which all count together: HeLa, U2OS"
    ]
    assert not pooled(tmp_path, "cell line", [line.replace("HeLa", "U2OS") for line in lines])
    assert not pooled(tmp_path, "remark", ["negative,DMSO,", "negative,DMSO,a hair", "negative,DMSO,", "treatment,x,"])
    several = ["negative,DMSO,1", "negative,DMSO,1", "negative,none,1", "negative,none,1", "treatment,x,1"]
    assert pooled(tmp_path, "batch", several) == [
        "treatment tells negative controls apart, which all count together: DMSO, none"
    ]
