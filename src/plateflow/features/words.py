"""Columns of the tables in words, for people: the name of CellProfiler stays the name in files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

_SPREADS = {"_MAD": "MAD over objects", "_Q25": "lower quartile over objects", "_Q75": "upper quartile over objects"}
_UNITS = {"um": "µm", "um2": "µm²", "um3": "µm³"}
_WORDS = {
    "FormFactor": "form factor (roundness)",
    "MADIntensity": "MAD of the intensity",
    "StdIntensity": "standard deviation of the intensity",
    "StdIntensityEdge": "standard deviation of the intensity at the edge",
    "IntegratedIntensityEdge": "integrated intensity at the edge",
    "MeanIntensityEdge": "mean intensity at the edge",
    "MinIntensity": "minimum intensity",
    "MinIntensityEdge": "minimum intensity at the edge",
    "MaxIntensity": "maximum intensity",
    "MaxIntensityEdge": "maximum intensity at the edge",
    "LowerQuartileIntensity": "lower quartile of the intensity",
    "UpperQuartileIntensity": "upper quartile of the intensity",
    "MassDisplacement": "distance from centroid to centre of intensity",
    "CenterMassIntensity": "centre of intensity",
    "MaxFeretDiameter": "maximum Feret diameter",
    "MinFeretDiameter": "minimum Feret diameter",
    "EulerNumber": "Euler number",
    "InfoMeas1": "information measure of correlation 1",
    "InfoMeas2": "information measure of correlation 2",
    "FracAtD": "fraction of intensity",
    "MeanFrac": "fraction of intensity over fraction of area",
    "RadialCV": "CV of intensity around the ring",
    "ZernikeMagnitude": "Zernike magnitude of the intensity",
    "ZernikePhase": "Zernike phase of the intensity",
    "Zernike": "Zernike moment of the shape",
    "HuMoment": "Hu moment",
    "Slope": "slope of regression",
    "Overlap": "overlap coefficient",
    "K": "overlap coefficient K",
    "Manders": "Manders coefficient",
    "RWC": "rank-weighted colocalisation",
    "BoundingBoxMaximum": "end of the bounding box",
    "BoundingBoxMinimum": "start of the bounding box",
    "NumberOfNeighbors": "number of neighbours that it touches",
    "PercentTouching": "percentage of the outline that touches neighbours",
    "FirstClosestDistance": "distance to the nearest object",
    "SecondClosestDistance": "distance to the second nearest object",
    "AngleBetweenNeighbors": "angle between the two nearest objects",
    "TouchesBorder": "touches the border of the image",
    "ClippedFraction": "saturated fraction",
}
"""By the measurement's name in CellProfiler; the others are what they say, such as `MeanIntensity`."""
_ANGLES = {"00": "0°", "01": "45°", "02": "90°", "03": "135°"}


def in_words(column: str, channels: Sequence[str]) -> str:
    """A column of the well table in words, such as `Cells: mean intensity, DNA`.

    Args:
        column: `Cells_Intensity_MeanIntensity_DNA`, `Count_Cells` or `Share_Positive`; with `_MAD`, `_Q25`, `_Q75` for
            the spread.
        channels: of the plate; their names may hold underscores.
    """
    compartment, _, rest = column.partition("_")
    if not rest:
        return column
    if compartment == "Count":
        return f"{rest}: count per field"
    if compartment == "Share":
        return f"{rest.replace('_', ' ')}: share of cells"
    spread = next((end for end in _SPREADS if rest.endswith(end) and end[1:] not in channels), "")
    words = _of_family(rest.removesuffix(spread), tuple(channels))
    return f"{compartment}: {words}{', ' if spread else ''}{_SPREADS.get(spread, '')}"


def _of_family(name: str, channels: tuple[str, ...]) -> str:
    for pattern, template in _patterns(channels):
        if found := pattern.fullmatch(name):
            words = {key: value or "" for key, value in found.groupdict().items()}
            words["what"] = _split(words.get("what", ""))
            words["unit"] = f" ({_UNITS[words['unit']]})" if words.get("unit") else ""
            words["order"] = words.get("order", "").replace("_", ", ")
            words["angle"] = _ANGLES.get(words.get("angle", ""), words.get("angle", ""))
            return template.format(**words)
    return _split(name.replace("_", " "))


@cache
def _patterns(channels: tuple[str, ...]) -> list[tuple[re.Pattern[str], str]]:
    """Names of a family, and how they are said; the longest channel's name goes first."""
    one = "|".join(re.escape(name) for name in sorted(channels, key=len, reverse=True)) or "(?!)"
    what, channel, unit = r"(?P<what>[A-Za-z0-9]+)", f"(?P<channel>{one})", r"(?:_(?P<unit>um[23]?))?"
    axis, order = r"_(?P<axis>[XYZ])", r"(?P<order>\d+(?:_-?\d+)*)"
    texture = rf"Texture_{what}_{channel}_(?P<scale>\d+)_(?P<angle>\d\d)_\d+"
    table = (
        (texture, "texture {what} at {scale} px and {angle}, {channel}"),
        (rf"Granularity_(?P<size>\d+)_{channel}", "granularity, grains of size {size}, {channel}"),
        (rf"RadialDistribution_{what}_{channel}_(?P<ring>\d+)of(?P<of>\d+)", "{what}, ring {ring} of {of}, {channel}"),
        (rf"RadialDistribution_{what}_{channel}_{order}", "{what} {order}, {channel}"),
        (rf"Correlation_Correlation_{channel}_(?P<second>{one})", "Pearson correlation, {channel} and {second}"),
        (rf"Correlation_{what}_{channel}_(?P<second>{one})", "{what}, {channel} and {second}"),
        (rf"Intensity_{what}_{channel}", "{what}, {channel}"),
        (rf"Location_Center{axis}{unit}", "position {axis} in the image{unit}"),
        (rf"Location_{what}{axis}_{channel}", "position {axis} of {what}, {channel}"),
        (rf"AreaShape_Center{axis}{unit}", "centroid {axis}{unit}"),
        (rf"AreaShape_{what}{axis}{unit}", "{what} {axis}{unit}"),
        (rf"AreaShape_{what}_{order}", "{what} {order}"),
        (rf"AreaShape_{what}{unit}", "{what}{unit}"),
        (rf"Neighbors_{what}_Adjacent", "{what}"),
        (rf"Quality_{what}", "{what} (quality)"),
        (r"Children_(?P<other>\w+)_Count", "number of {other}"),
        (r"Children_(?P<other>\w+)_Density_um2", "{other} per µm²"),
        (rf"Children_(?P<other>[A-Za-z0-9]+)_{what}_{channel}", "{what} of all {other}, {channel}"),
        (rf"Mean_(?P<other>[A-Za-z0-9]+)_Intensity_{what}_{channel}", "mean {what} of {other}, {channel}"),
        (rf"Mean_(?P<other>[A-Za-z0-9]+)_Quality_{channel}", "mean quality of {other}, {channel}"),
        (r"Mean_(?P<other>[A-Za-z0-9]+)_Distance_Centroid_\w+", "mean distance of {other} from the centroid"),
        (r"Mean_(?P<other>[A-Za-z0-9]+)_Distance_Minimum_\w+", "mean distance of {other} from the outline"),
        (rf"Mean_(?P<other>[A-Za-z0-9]+)_Neighbors_{what}", "mean distance between nearest {other}"),
        (r"Match_(?P<other>\w+)_Overlap", "overlap with {other}"),
        (r"Parent_(?P<other>\w+)", "parent in {other}"),
        (r"Number_Object_Number", "object number"),
    )
    return [(re.compile(pattern), template) for pattern, template in table]


def _split(name: str) -> str:
    """`MeanIntensity` as `mean intensity`; a name in capitals, as that of a channel, stays so."""
    return _WORDS.get(name) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
