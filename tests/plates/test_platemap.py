import math
import shutil
import zipfile
from pathlib import Path

import openpyxl
import pytest

from plateflow.config import Config, Stats
from plateflow.errors import RawDataError
from plateflow.plates.check import unread
from plateflow.plates.platemap import read_plate_map
from plateflow.workflow import Workflow

PLATE_ROBUST = Config(stats=Stats(normalise="plate robust"))


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "map.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_map_with_free_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "Well,Role,treatment,dose,batch\nb3,negative,DMSO,0,7\nA001,positive,x,1.5e-3,\nAF48,,,,\n\nc1,,y,,\n",
    )
    table = read_plate_map(path)
    assert list(table.columns) == ["well", "role", "treatment", "dose", "batch"]
    assert list(table["well"]) == ["B03", "A01", "AF48", "C01"]
    assert list(table["role"]) == ["negative", "positive", "empty", "treatment"]
    assert table["dose"].tolist()[:2] == [0.0, 0.0015]
    assert math.isnan(table["dose"][2])
    assert list(table["batch"]) == ["7", "", "", ""]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be"])
def test_delimiters_and_encodings(tmp_path: Path, delimiter: str, encoding: str) -> None:
    text = "well,role,treatment\r\nA1,treatment,Ätzung µM\r\n".replace(",", delimiter)
    table = read_plate_map(write(tmp_path, text, encoding))
    assert table.iloc[0].tolist()[:3] == ["A01", "treatment", "Ätzung µM"]
    assert list(table.columns) == ["well", "role", "treatment", "dose"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't be used"),
        ("well,role\n", "can't be used"),
        ("well,role\n,,\n,\n", "can't be used"),
        ("role,well\nnegative\n", "no well"),
        ("position,role\nA1,negative\n", "can't be used"),
        ("well,role,role\nA1,negative,positive\n", "occurs twice"),
        ("well,role\nA1,negative\na01,positive\n", "A01 twice"),
        ("well,role\nA1,control\n", "unknown role 'control'"),
        ("well,role\nAG1,negative\n", "no well"),
        ("well,dose\nA1,10 uM\n", "not a number"),
        ("well,treatment,dose\nA1,1,2-dichloroethane,5\n", r"4 cells, and its header 3[\s\S]*line 2"),
        ("\n,1,2\nA,1,2\nB,1,2,x\n", r"4 cells, and its header 3[\s\S]*line 4"),
        ('well,treatment\nA1,"x\nA2,y\nA3,z\n', "quoted cell of line 2 reaches to line 4"),
        ('well,treatment,role\nA1,"x,negative\nA2,y",negative\n', "quoted cell of line 2 reaches to line 3"),
        ('well,treatment\nA1,"x" y\n', "quoted cell of line 2 is not as it should be"),
        ("well,role\nA1,negative\0\n", "line 2 holds a NUL"),
        ("well,role\n\n# \nA1,odd\n", r"no well[\s\S]*line 3"),
    ],
)
def test_a_bad_map_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RawDataError, match=message) as error:
        read_plate_map(path)
    assert str(path) in error.value.where
    assert error.value.remedy


def test_empty_cells_at_the_end_and_lines_in_quotes_are_no_fault(tmp_path: Path) -> None:
    """As Excel writes them: delimiters too many or too few, and a line break within a cell."""
    text = 'well,"Dose\n(µM)",note,,\nA1,1,"two\nlines, with ""quotes""",,\nA2,2\n'
    table = read_plate_map(write(tmp_path, text))
    assert table["note"].tolist() == ['two\nlines, with "quotes"', ""]
    assert table["Dose\n(µM)"].tolist() == ["1", "2"]


def test_a_map_in_no_known_encoding_is_one_error(tmp_path: Path) -> None:
    path = write(tmp_path, "well,treatment\nA1,水\n", "shift-jis")
    path.write_bytes(path.read_bytes().replace(b"A1,", b"A1,\x81"))
    with pytest.raises(RawDataError, match=r"neither UTF-8 nor Windows'.*line 2[\s\S]*save it as UTF-8") as error:
        read_plate_map(path)
    assert error.value.where == str(path)


def test_no_map(tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match="does not exist"):
        read_plate_map(tmp_path / "map.csv")


def test_a_folder_for_a_map(tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match="can't be read") as error:
        read_plate_map(tmp_path)
    assert error.value.where == str(tmp_path)


def book(path: Path, sheets: dict[str, list[list[object]]]) -> Path:
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for title, rows in sheets.items():
        sheet = workbook.create_sheet(title)
        for row in rows:
            sheet.append(row)
    workbook.save(path)
    return path


LONG: list[list[object]] = [["Well", "role", "dose", "batch"], ["a1", "negative", 0.5, 3.0], [], ["B02", None, 2, "x"]]


def test_a_workbook(tmp_path: Path) -> None:
    table = read_plate_map(book(tmp_path / "map.xlsx", {"Notes": [["by me"]], "Map": LONG}))
    assert table.to_dict("list") == {
        "well": ["A01", "B02"],
        "role": ["negative", "treatment"],
        "treatment": ["", ""],
        "dose": [0.5, 2.0],
        "batch": ["3", "x"],
    }


def test_cells_in_percent_are_read_as_they_are_shown(tmp_path: Path) -> None:
    path = book(tmp_path / "map.xlsx", {"Map": [["well", "dose (%)", "serum"], ["A1", 0.001, 0.1], ["A2", 0.5, 0.5]]})
    workbook = openpyxl.load_workbook(path)
    workbook["Map"]["B2"].number_format = "0.0%"
    workbook["Map"]["C2"].number_format = "0%"
    workbook["Map"]["C3"].number_format = '0.0"%"'
    workbook.save(path)
    table = read_plate_map(path)
    assert table[["dose", "dose_unit", "serum"]].to_numpy().tolist() == [[0.1, "%", "10%"], [0.5, "%", "0.5"]]
    workbook["Map"]["B1"] = "dose"
    workbook.save(path)
    with pytest.raises(RawDataError, match=r"not a number: '0\.1%'"):
        read_plate_map(path)


def test_a_workbook_with_a_sheet_a_plate(tmp_path: Path) -> None:
    path = book(tmp_path / "map.xlsx", {"p1": LONG, "p2": [["well", "role"], ["C3", "positive"]]})
    assert list(read_plate_map(path, "p2")["well"]) == ["C03"]
    with pytest.raises(RawDataError, match="none is called p3"):
        read_plate_map(path, "p3")


def test_matrices_on_sheets_and_below_each_other(tmp_path: Path) -> None:
    roles: list[list[object]] = [["", 1, 2, 3], ["A", "negative", "positive", ""], ["B", "treatment", "", ""]]
    path = book(tmp_path / "map.xlsx", {"role": roles, "Dose": [["", 1, 2, 3], ["A", 0, 1.5, ""], ["B", 7, "", ""]]})
    table = read_plate_map(path)
    assert table[["well", "role", "dose"]].to_numpy().tolist()[:2] == [
        ["A01", "negative", 0.0],
        ["A02", "positive", 1.5],
    ]
    assert list(table["well"]) == ["A01", "A02", "B01"]
    text = "role,01,02\nA,negative,positive\nB,,\n\nCell line,,\n,1,2\nA,HeLa,U2OS\nB,HeLa,\n"
    table = read_plate_map(write(tmp_path, text))
    assert table[["well", "role", "Cell line"]].to_numpy().tolist() == [
        ["A01", "negative", "HeLa"],
        ["A02", "positive", "U2OS"],
        ["B01", "treatment", "HeLa"],
    ]
    table = read_plate_map(write(tmp_path, ",1,2\nA,DMSO,x\n"))
    assert list(table["treatment"]) == ["DMSO", "x"]


@pytest.mark.parametrize("text", ["Row,Column,dose\nB,03,1\n2,4,2\n", "row;col;dose\nb;3;1\n02;04;2\n"])
def test_rows_and_columns(tmp_path: Path, text: str) -> None:
    table = read_plate_map(write(tmp_path, text))
    assert list(table.columns) == ["well", "role", "treatment", "dose"]
    assert list(table["well"]) == ["B03", "B04"]


def test_names_of_columns_and_quotes(tmp_path: Path) -> None:
    text = 'Metadata_Well,Metadata_treatment,Metadata_Zell Linie,\nA1,"a ""b"", c\nd",Köln,\nA2,,"x\ty",\n'
    table = read_plate_map(write(tmp_path, text))
    assert list(table.columns) == ["well", "role", "treatment", "dose", "Zell Linie"]
    assert table["treatment"][0] == 'a "b", c\nd'
    assert list(table["Zell Linie"]) == ["Köln", "x\ty"]


def test_lines_of_several_plates(tmp_path: Path) -> None:
    path = write(tmp_path, "plate,well,role\np1,A1,negative\np2,A1,positive\n")
    assert list(read_plate_map(path, "p2")["role"]) == ["positive"]
    with pytest.raises(RawDataError, match="column plate names the plates p1, p2, and not p3"):
        read_plate_map(path, "p3")


def test_a_map_of_another_plate_is_named_and_tubes_are_no_plates(tmp_path: Path) -> None:
    path = write(tmp_path, "Plate,well,role\np1,A1,negative\np1,A2,treatment\n")
    (said,) = unread(read_plate_map(path, "p2"), "p2", PLATE_ROBUST)
    assert said[0] == "the plate map names another plate: Plate: p1"
    assert not list(unread(read_plate_map(path, "p1__2021-05-02"), "p1__2021-05-02", PLATE_ROBUST))
    path = write(tmp_path, "barcode,well,role\n0001,A1,negative\n0002,A2,treatment\n")
    assert list(read_plate_map(path, "p2")["role"]) == ["negative", "treatment"]
    path = write(tmp_path, "plate,barcode,well,role\nL1,p1,A1,negative\nL2,p1,A2,treatment\nL2,p2,A1,positive\n")
    assert list(read_plate_map(path, "p1")["role"]) == ["negative", "treatment"]


@pytest.mark.parametrize(
    ("header", "cells", "roles"),
    [
        ("pert_type,control_type", ["trt,NA", "control,negcon", "control,poscon_cp", "empty,"], "tnpe"),
        ("Metadata_pert_type", ["trt", "negcon", "poscon", "empty"], "tnpe"),
        ("SBS_Controls,SBS_Doses", ["-1,0", "1,10", "0,3", ","], "npte"),
        ("treatment,negative_control", ["DMSO,1", "x,0", "y,", "DMSO,TRUE"], "nttn"),
        ("Positive Control,is_neg_ctrl", ["1,0", "0,1", "0,0"], "pnt"),
        ("treatment,is_control", ["DMSO,1", "x,0"], "tt"),
        ("treatment,n_controls", ["x,1", "y,2"], "tt"),
        ("treatment,Well Type", ["DMSO,negative control", "x,sample", "y,Positive", "z,"], "ntpt"),
        ("treatment,control", ["DMSO,neg", "x,pos", "y,"], "npt"),
        ("broad_sample,solvent", [",DMSO", "BRD-1,DMSO", "DMSO,DMSO", ","], "ntne"),
        ("role,control_type", ["positive,negcon", ",negcon", ",", "treatment,"], "pnet"),
    ],
)
def test_rules_for_roles(tmp_path: Path, header: str, cells: list[str], roles: str) -> None:
    lines = [f"A{n},{cell}" for n, cell in enumerate(cells, 1)]
    table = read_plate_map(write(tmp_path, "\n".join([f"well,{header}", *lines])))
    assert "".join(role[0] for role in table["role"]) == roles


def test_columns_that_seem_to_say_a_role_or_treatment_and_are_not_read_are_named(tmp_path: Path) -> None:
    def said(text: str) -> list[str]:
        return [what for what, _ in unread(read_plate_map(write(tmp_path, text)), "", PLATE_ROBUST)]

    assert said("well,treatment,is_control\nA1,DMSO,1\nA2,x,0\n") == [
        "no well is a negative control, though a column may say which are: is_control: 0, 1"
    ]
    assert said("Well,Compound,Dose\nA1,DMSO,0\nA2,x,1\n") == ["no well has a treatment; columns not read: Compound"]
    assert not said("well,role,dose\nA1,negative,0\nA2,treatment,1\n")
    assert not said("well,treatment,cell type\nA1,x,HeLa\nA2,y,HeLa\n")


def test_a_well_that_is_both_controls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match="a negative and a positive control") as error:
        read_plate_map(write(tmp_path, "well,negative_control,positive_control\nA1,1,0\nA2,1,1\n"))
    assert error.value.where.endswith("line 3")


def test_a_real_map_of_lincs_by_its_table_of_barcodes(tmp_path: Path, test_data: Path) -> None:
    source = test_data / "plates" / "metadata_tables"
    (tmp_path / "platemap").mkdir()
    shutil.copy(source / "lincs_barcode_platemap.csv", tmp_path / "barcode_platemap.csv")
    for number in ("001", "002"):
        name = f"C-7161-01-LM6-{number}.txt"
        shutil.copy(source / f"lincs_platemap_{name}", tmp_path / "platemap" / name)
    lines = (tmp_path / "barcode_platemap.csv").read_text().splitlines()
    barcode = next(line.split(",")[0] for line in lines if "LM6-002" in line)
    table = read_plate_map(tmp_path / "barcode_platemap.csv", f"{barcode}__2016-03-22")
    assert len(table) == 384
    assert set(table["plate_map_name"]) == {"C-7161-01-LM6-002"}
    treated = table[table["role"] == "treatment"]
    assert table["role"].value_counts().to_dict() == {"treatment": len(treated), "negative": 384 - len(treated)}
    assert treated["treatment"].equals(treated["broad_sample"])
    assert treated["dose"].notna().all()
    assert read_plate_map(source / "lincs_barcode_platemap.csv", barcode).equals(table)
    for plate, message in (("SQ9", "no map"), (lines[1].split(",")[0], "does not exist")):
        with pytest.raises(RawDataError, match=message):
            read_plate_map(tmp_path / "barcode_platemap.csv", plate)


def test_a_real_map_of_jump_with_its_external_metadata(tmp_path: Path, test_data: Path) -> None:
    source = test_data / "plates" / "metadata_tables"
    batch = tmp_path / "metadata" / "platemaps" / "batch"
    (batch / "platemap").mkdir(parents=True)
    (tmp_path / "metadata" / "external_metadata").mkdir()
    (batch / "barcode_platemap.csv").write_text(
        "Assay_Plate_Barcode,Plate_Map_Name\nBR1,JUMP-Target-1_compound_platemap\n"
    )
    shutil.copy(
        source / "JUMP-Target-1_compound_platemap.tsv", batch / "platemap" / "JUMP-Target-1_compound_platemap.txt"
    )
    shutil.copy(source / "JUMP-Target-1_compound_metadata.tsv", tmp_path / "metadata" / "external_metadata")
    table = read_plate_map(batch / "barcode_platemap.csv", "BR1")
    assert len(table) == 384
    assert table.set_index("well").loc["A01", "treatment"] == "gabapentin-enacarbil"
    assert table.set_index("well").loc["A02", "role"] == "negative"  # DMSO
    assert set(table["role"]) == {"treatment", "negative", "positive"}
    assert (table.loc[table["role"] == "positive", "control_type"].str.startswith("poscon")).all()


def test_the_dose_table_of_a_real_plate(test_data: Path) -> None:
    table = read_plate_map(test_data / "plates" / "cellprofiler_sbs_translocation" / "1049_Metadata.csv")
    assert len(table) == 96
    wells = table.set_index("well")
    assert wells.loc["A01", "role"] == "negative"
    assert wells.loc["A12", ["role", "dose"]].tolist() == ["positive", 10.0]
    assert wells.loc["A05", ["role", "dose"]].tolist() == ["treatment", 3.0]


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    good = book(tmp_path / "good.xlsx", {"Map": LONG})
    cut = tmp_path / "cut.xlsx"
    cut.write_bytes(good.read_bytes()[:-200])
    old = tmp_path / "old.xls"
    old.write_bytes(b"\xd0\xcf\x11\xe0" + bytes(100))
    bomb, big = tmp_path / "bomb.xlsx", tmp_path / "big.xlsx"
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    with zipfile.ZipFile(good) as source:
        content = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(bomb, "w") as archive:
        for name, data in content.items():
            body = data.replace(b"negative", b"&l9;")
            start = body.index(b"?>") + 2 if body.startswith(b"<?xml") else 0
            head = f'<!DOCTYPE x [<!ENTITY l0 "lol">{entities}]>'.encode() if body != data else body[:start]
            archive.writestr(name, head + body[start:])
    with zipfile.ZipFile(big, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", bytes(60_000_000))
    for path in (cut, old, bomb, big):
        with pytest.raises(RawDataError, match="can't be read") as error:
            read_plate_map(path)
        assert str(path) in error.value.where


def test_a_changed_map_of_a_table_of_barcodes_is_noticed(tmp_path: Path) -> None:
    """In what is asked of aggregate, by which Snakemake runs it again."""
    table, own = tmp_path / "maps" / "b" / "barcode_platemap.csv", tmp_path / "maps" / "b" / "platemap" / "m1.txt"
    external = tmp_path / "external_metadata" / "compounds.tsv"
    for path in (table, own, external):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    sheet = tmp_path / "plates.tsv"
    sheet.write_text(f"plate\tpath\tplate_map\np\t{tmp_path}\t{table}\n")
    seen = set()
    for path in (None, own, external, table):
        if path is not None:
            path.write_text("longer")
        workflow = Workflow({"plates": str(sheet), "results": str(tmp_path / "results")})
        seen.add(workflow.asked.plates["p"].digest("aggregate", "plate"))
    assert len(seen) == 4


def test_formulas_without_values_are_named(tmp_path: Path) -> None:
    """A library that writes workbooks computes nothing, and Excel keeps the value that it shows."""
    rows: list[list[object]] = [["well", "role", "dose"], ["A01", "negative", 0], ["A02", "positive", "=C2+10"]]
    path = book(tmp_path / "map.xlsx", {"Map": rows, "Sums": [["=1+1"]]})
    with pytest.raises(RawDataError, match=r"formulas without their values[\s\S]*sheet Map, cell C3") as error:
        read_plate_map(path)
    assert "save it" in error.value.remedy
    matrix: list[list[object]] = [["dose", 1, 2], ["A", "=1", 3], ["B", 3, "=B2"]]
    with pytest.raises(RawDataError, match=r"sheet doses, cells B2, C3"):
        read_plate_map(book(tmp_path / "matrix.xlsx", {"doses": matrix}))


def test_formulas_with_values_and_those_beside_the_map_do_no_harm(tmp_path: Path) -> None:
    rows: list[list[object]] = [["well", "role", "dose", "note"], ["A01", "negative", "=1+1", '=""']]
    path = book(tmp_path / "map.xlsx", {"Map": rows, "Sums": [["=1+1"]]})
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    sheet = files["xl/worksheets/sheet1.xml"].decode()  # as Excel saves it
    sheet = sheet.replace("<f>1+1</f><v />", "<f>1+1</f><v>2</v>")
    sheet = sheet.replace('<c r="D2"', '<c r="D2" t="str"')
    files["xl/worksheets/sheet1.xml"] = sheet.encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    assert read_plate_map(path).iloc[0].tolist() == ["A01", "negative", "", 2.0, ""]


def test_remarks_beside_a_map_in_a_workbook_do_no_harm(tmp_path: Path) -> None:
    rows: list[list[object]] = [["well", "role"], ["A01", "negative", None, "by Anna"], ["A02", "positive"]]
    assert read_plate_map(book(tmp_path / "map.xlsx", {"Map": rows}))["well"].tolist() == ["A01", "A02"]
