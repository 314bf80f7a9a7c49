"""Every column in words that tell it from all others."""

import pytest

from plateflow.config import Config
from plateflow.features.columns import cell_columns
from plateflow.features.words import in_words

CHANNELS = ["DNA", "AGP", "Mito", "ER", "RNA"]


def columns_of(dimensions: int) -> list[str]:
    settings = {"channels": ["DNA"], "dimensions": dimensions}
    config = Config.model_validate(
        {
            "z": "keep" if dimensions == 3 else "max",
            "segmentation": {"nuclei": settings, "cells": {**settings, "channels": ["AGP", "DNA"]}},
            "spots": {"foci": {"channel": "ER", "within": "nuclei", "diameter_px": 4}} if dimensions == 2 else {},
            "features": {"families": "full" if dimensions == 2 else "standard", "texture_scales": [3, 10]},
        }
    )
    return list(cell_columns(config, CHANNELS))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_all_columns_of_a_full_configuration_differ_and_are_words(dimensions: int) -> None:
    columns = columns_of(dimensions)
    assert len(columns) > (3000 if dimensions == 2 else 300)
    words = [in_words(name, CHANNELS) for name in columns]
    spreads = [in_words(f"{name}{end}", CHANNELS) for name in columns for end in ("_MAD", "_Q25", "_Q75")]
    assert len({*words, *spreads}) == 4 * len(columns)
    assert not [text for text in words + spreads if "_" in text or text != text.strip() or "  " in text]
    run_together = [text for text in words if any(len(word) > 17 for word in text.split())]
    assert run_together == []


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("Count_Cells", "Cells: count per field"),
        ("Cells_Intensity_MeanIntensity_DNA", "Cells: mean intensity, DNA"),
        ("Nuclei_AreaShape_Area_um2", "Nuclei: area (µm²)"),
        ("Nuclei_AreaShape_Area", "Nuclei: area"),
        ("Cells_Texture_Contrast_AGP_3_01_256", "Cells: texture contrast at 3 px and 45°, AGP"),
        ("Cells_Texture_Correlation_AGP_3_01_256", "Cells: texture correlation at 3 px and 45°, AGP"),  # Haralick's
        ("Cells_Correlation_Correlation_AGP_DNA", "Cells: Pearson correlation, AGP and DNA"),
        ("Cells_Neighbors_PercentTouching_Adjacent", "Cells: percentage of the outline that touches neighbours"),
        ("Cells_Neighbors_FirstClosestDistance_Adjacent", "Cells: distance to the nearest object"),
        ("Cells_Correlation_K_AGP_DNA", "Cells: overlap coefficient K, AGP and DNA"),
        ("Cells_RadialDistribution_FracAtD_DNA_2of4", "Cells: fraction of intensity, ring 2 of 4, DNA"),
        ("Cells_Children_Nuclei_Count", "Cells: number of Nuclei"),
        ("Nuclei_Children_Foci_Density_um2", "Nuclei: Foci per µm²"),
        ("Nuclei_Mean_Foci_Intensity_IntegratedIntensity_ER", "Nuclei: mean integrated intensity of Foci, ER"),
        ("Nuclei_Mean_Foci_Distance_Minimum_Nuclei", "Nuclei: mean distance of Foci from the outline"),
        ("Nuclei_Intensity_MADIntensity_DNA_Q25", "Nuclei: MAD of the intensity, DNA, lower quartile over objects"),
    ],
)
def test_what_they_say(column: str, words: str) -> None:
    assert in_words(column, CHANNELS) == words


def test_channels_may_hold_underscores_and_the_names_of_spreads() -> None:
    channels = ["a", "a_b", "b", "MAD", "3_00"]
    assert in_words("Cells_Intensity_MeanIntensity_a_b", channels) == "Cells: mean intensity, a_b"
    assert in_words("Cells_Correlation_RWC_a_b_b", channels) == "Cells: rank-weighted colocalisation, a_b and b"
    assert in_words("Cells_Intensity_MeanIntensity_MAD", channels) == "Cells: mean intensity, MAD"
    assert in_words("Cells_Own_thing", channels) == "Cells: own thing"
