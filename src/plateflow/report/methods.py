"""The section on methods: models, versions and parameters, and a paragraph with references, ready to paste."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from plateflow.chain import SPOTS, STAGES, label_parameters, stages_of
from plateflow.config import Expand, Grown, Propagate, Ring
from plateflow.config.rules import BORDER
from plateflow.errors import PlateflowError, number_of
from plateflow.features.columns import cell_columns, cell_families
from plateflow.features.measure import compartment
from plateflow.features.spots import DEVIATIONS
from plateflow.images.window import load_window
from plateflow.model.registry import model_spec
from plateflow.report.view import View, accepted_results
from plateflow.report.wells import CORRECTED
from plateflow.state.journal import LEFT_OUT
from plateflow.stats.cell_cycle import PHASES
from plateflow.stats.positions import LEVEL
from plateflow.stats.reference import SUMMARIES

TABLES = (
    *("summary.csv", "wells.csv", "wells.parquet", "normalised.parquet", "controls.csv", "positions.csv", "hits.csv"),
    *("doses.csv", "effects.parquet", "qc.parquet", "ledger.parquet", "features.json", "cells/", "plate.zarr/"),
)
PACKAGES = ("plateflow", "torch", "numpy", "scipy", "scikit-image", "zarr", "pandas", "snakemake")
REFERENCES = {
    "snakemake": "Mölder F. et al. Sustainable data analysis with Snakemake. F1000Research 10:33 (2021).",
    "ome-zarr": "Moore J. et al. OME-Zarr: a cloud-optimized bioimaging file format with international community "
    "support. Histochem Cell Biol 160:223 (2023).",
    "cellpose": "Stringer C. et al. Cellpose: a generalist algorithm for cellular segmentation. Nat Methods 18:100 "
    "(2021).",
    "cellpose-sam": "Pachitariu M., Rariden M., Stringer C. Cellpose-SAM: superhuman generalization for cellular "
    "segmentation. bioRxiv 2025.04.28.651001 (2025).",
    "sam": "Kirillov A. et al. Segment Anything. Proc IEEE/CVF ICCV, 4015 (2023).",
    "cellprofiler": "Stirling D.R. et al. CellProfiler 4: improvements in speed, utility and usability. BMC "
    "Bioinformatics 22:433 (2021).",
    "carpenter": "Carpenter A.E. et al. CellProfiler: image analysis software for identifying and quantifying cell "
    "phenotypes. Genome Biol 7:R100 (2006).",
    "scikit-image": "van der Walt S. et al. scikit-image: image processing in Python. PeerJ 2:e453 (2014).",
    "zprime": "Zhang J.-H., Chung T.D.Y., Oldenburg K.R. A simple statistical parameter for use in evaluation and "
    "validation of high throughput screening assays. J Biomol Screen 4:67 (1999).",
    "ssmd": "Zhang X.D. A pair of new statistical parameters for quality control in RNA interference high-throughput "
    "screening assays. Genomics 89:552 (2007).",
    "simes": "Simes R.J. An improved Bonferroni procedure for multiple tests of significance. Biometrika 73:751 "
    "(1986).",
    "jones": "Jones T.R., Carpenter A.E., Golland P. Voronoi-based segmentation of cells on image manifolds. Lect "
    "Notes Comput Sci 3765:535 (2005).",
    "lindeberg": "Lindeberg T. Feature detection with automatic scale selection. Int J Comput Vis 30:79 (1998).",
    "dean": "Dean P.N., Jett J.H. Mathematical analysis of DNA distributions derived from flow microfluorometry. J "
    "Cell Biol 60:523 (1974).",
    "li": "Li C.H., Lee C.K. Minimum cross entropy thresholding. Pattern Recognit 26:617 (1993).",
    "sebaugh": "Sebaugh J.L. Guidelines for accurate EC50/IC50 estimation. Pharm Stat 10:128 (2011).",
    "bh": "Benjamini Y., Hochberg Y. Controlling the false discovery rate: a practical and powerful approach to "
    "multiple testing. J R Stat Soc B 57:289 (1995).",
}
"""What a paragraph may cite, by key; it cites what was used."""
FAMILY_WORDS = {
    "area_shape": "size and shape",
    "moments": "moments",
    "zernike": "Zernike moments",
    "intensity": "intensity",
    "texture": "Haralick texture",
    "granularity": "granularity",
    "radial_distribution": "radial distribution",
    "radial_zernike": "Zernike moments of intensity",
    "colocalisation": "colocalisation",
    "neighbours": "neighbourhood",
    "location": "location",
    "quality": "segmentation quality",
}


def methods(view: View) -> dict[str, Any]:
    """The paragraph, models with their licences, versions, what was accepted of earlier ones, parameters, tables."""
    config = view.plate.config  # what decides labels is told, whichever stage makes them
    settings = {
        stage: view.plate.parameters(stage) for stage in STAGES if config.keep_flows or stage in stages_of(config)
    }
    if not config.keep_flows:
        settings["infer"] = {
            name: {**values, **label_parameters(config, name)} for name, values in settings["infer"].items()
        }
    sentences, references = paragraph(view)
    return {
        "sentences": sentences,
        "references": references,
        "models": sorted(_models(view).items()),
        "accepted": accepted_results(view.plate),
        "versions": [(name, _version(name)) for name in PACKAGES],
        "settings": [(stage, list(_flat(value))) for stage, value in settings.items() if value],
        "tables": TABLES,
    }


def _models(view: View) -> dict[str, dict[str, Any]]:
    """By label set the model that its flow fields were made with, as `infer` has told it."""
    models = {}
    for entry in view.plate.outcomes("infer").values():
        if entry.label_set in view.plate.config.segmentation and entry.info.get("model"):
            models[entry.label_set] = {key: entry.info.get(key, "") for key in ("model", "licence", "sha256", "device")}
    return models


def paragraph(view: View) -> tuple[list[str], list[str]]:
    """What was done, in sentences that cite by number, and the references in order; only of what was used."""
    cited: list[str] = []

    def cite(*keys: str) -> str:
        cited.extend(REFERENCES.get(key, key) for key in keys if REFERENCES.get(key, key) not in cited)
        return "[" + ", ".join(str(cited.index(REFERENCES.get(key, key)) + 1) for key in keys) + "]"

    parts = (_images, _segmentation, _features, _statistics)
    return [sentence for part in parts for sentence in part(view, cite)], [
        f"{number}. {text}" for number, text in enumerate(cited, 1)
    ]


def _images(view: View, cite: Any) -> Iterator[str]:
    plate, config = view.plate, view.plate.config
    metadata, window = plate.metadata, load_window(plate.paths)
    n = int((~view.by_well["Metadata_State"].isin(LEFT_OUT)).sum())
    size = f" ({metadata['pixel_size_um'][0]:.4g} µm per pixel)" if metadata.get("pixel_size_um") else ""
    yield (
        f"Images of {n} wells in {_and(plate.channels)}{size} were processed with Plateflow {_version('plateflow')}, "
        f"run by Snakemake {_version('snakemake')} {cite('snakemake')}, and stored as OME-Zarr {cite('ome-zarr')}."
    )
    if metadata.get("z", 1) > 1:
        projected = {"max": "maximum", "mean": "mean"}.get(config.z)
        how = f"projected along z by their {projected}" if projected else f"taken at {config.z}"
        how = "kept plane by plane" if config.z == "keep" else how
        yield f"Stacks of {metadata['z']} planes were {how}."
    corrected = [name for name in plate.channels if name in window.lights and not window.lights[name].why]
    if corrected:
        yield f"Uneven illumination was corrected in {_and(corrected)} with a profile estimated from the plate."
    low, high = config.normalise.percentiles
    yield (
        f"For segmentation, intensities were scaled so that the {_ordinal(low)} and {_ordinal(high)} percentiles of "
        f"the raw pixels of each {config.normalise.scope} became 0 and 1, per channel."
    )


def _segmentation(view: View, cite: Any) -> Iterator[str]:
    models, config = _models(view), view.plate.config
    for sha256 in dict.fromkeys(model["sha256"] for model in models.values()):
        names = [name for name in config.segmented if models.get(name, {}).get("sha256") == sha256]
        model, keys, origin = models[names[0]], ["cellpose", "cellpose-sam"], ""
        try:
            spec = model_spec(config.segmentation[names[0]].model)
        except PlateflowError:
            spec = None  # the file is gone since; the journal tells its name, hash and licence
        if spec and spec.sha256 == sha256:
            keys += ["sam"] * any(word in f"{spec.name} {spec.parent}" for word in ("cpsam", "sam_vit"))
            told = not spec.citation.startswith("unknown") and "Cellpose-SAM" not in spec.citation
            origin = f"; {spec.citation.rstrip('.')}" if told else ""
        yield (
            f"{_upper(_and(names))} were segmented with the model {model['model']} (SHA-256 {sha256[:12]}; "
            f"licence: {model['licence']}{origin}), a vision transformer that predicts flow fields as Cellpose and "
            f"Cellpose-SAM do {cite(*keys)}."
        )
    for name, settings in config.segmented.items():
        size = "at the images' own scale"
        if settings.diameter_um or settings.diameter_px:
            given = f"{settings.diameter_um:g} µm" if settings.diameter_um else f"{settings.diameter_px:g} px"
            size = f"in images resized for a typical diameter of {given}"
        flow = f"a flow error above {settings.flow_threshold:g} or " if settings.flow_threshold else ""
        yield (
            f"{_upper(name)} were found in {_and(settings.channels)}, in {settings.dimensions}D, {size}, with a "
            f"threshold of {settings.cell_threshold:g} for the cell logit; objects with {flow}fewer than "
            f"{settings.min_size_px} pixels were dropped."
        )
    for name, rule in config.grown.items():
        yield _grown(name, rule, cite)
    if config.paired:
        pairs = _and(config.paired)
        yield f"Only {config.row_label_set} matched one to one with {pairs} were measured."
    if view.corrected:
        names = sorted({name for mark in view.by_well[CORRECTED].fillna("") for name in mark.split(",")} - {""})
        yield f"In {number_of(view.corrected, 'well[s]')} labels of {_and(names)} were corrected by hand."


def _grown(name: str, rule: Grown, cite: Any) -> str:
    match rule:
        case Expand():
            how = f"grown from {rule.source} by up to {rule.um:g} µm, each pixel going to the nearest"
        case Propagate():
            how = (
                f"grown from {rule.source} through {_and(rule.channels)} by propagation {cite('jones')} with a "
                f"regularisation of {rule.regularisation:g}, where a channel exceeded the plate's threshold of minimum "
                f"cross entropy {cite('li')}"
            )
        case Ring():
            how = f"rings {rule.inner_um:g} to {rule.outer_um:g} µm from {rule.source}, each pixel going to the nearest"
    return f"{_upper(name)} were {how}."


def _features(view: View, cite: Any) -> Iterator[str]:
    config = view.plate.config
    columns, families = cell_columns(config, view.plate.channels), cell_families(config)
    compartments = [compartment(name).lower() for name in config.segmentation]
    if {"nuclei", "cells"} <= set(compartments):
        compartments.append("cytoplasm")
    told = _and([FAMILY_WORDS[name] for name in dict.fromkeys(families)])
    volumes = config.segmentation[config.row_label_set].dimensions == 3
    by = f", measured in part by scikit-image {cite('scikit-image')}" if volumes else ""
    yield (
        f"{len(columns):,} features per {config.row_label_set.removesuffix('s')} ({told}) of {_and(compartments)} were "
        f"measured with the definitions of CellProfiler {cite('carpenter', 'cellprofiler')}{by}, and summarised per "
        f"well by their medians."
    )
    yield from _spots(view, cite)
    yield from _gates(view, cite)
    excluded = config.stats.exclude_flags
    if excluded:
        yield f"Fields flagged as {_and(excluded, 'or')} were excluded."


def _gates(view: View, cite: Any) -> Iterator[str]:
    """Which cells were counted and summarised, as it was done: what couldn't be told isn't said."""
    found = view.aggregate.info.get("gates", {"rules": (), "populations": ()})
    at_border = dict[bool, list[str]]()
    for rule in found["rules"]:
        name, key = rule["name"].split(maxsplit=1)
        if key == BORDER:
            at_border.setdefault(rule["counted"], []).append(name)
    if True in at_border:
        yield f"Rows with {_and(at_border[True], 'or')} at the border of the imaged area didn't enter medians."
    if False in at_border:
        yield f"{_upper(_and(at_border[False]))} at the border of the imaged area were left out."
    rules = [rule for rule in found["rules"] if not rule["name"].endswith(f" {BORDER}") and not rule["why"]]
    if rules:
        yield f"Objects were counted and summarised where {'; '.join(rule['asks'] for rule in rules)}."
    told = {each["name"] for each in found["populations"] if not each["why"]}
    for name, population in view.plate.config.populations.items():
        if population.where is not None and compartment(name) in told:
            asks = [population.where] if isinstance(population.where, str) else population.where
            yield f"Cells were counted as {name} where {' and '.join(asks)}."
        elif f"{compartment(name)}_{PHASES[0]}" in told:
            yield f"Phases of the cell cycle were told by a fit to integrated {population.cell_cycle} {cite('dean')}."


def _spots(view: View, cite: Any) -> Iterator[str]:
    found = view.aggregate.info.get(SPOTS, {})
    for name, spots in view.plate.config.spots.items():
        size = f"{spots.diameter_um:g} µm" if spots.diameter_um else f"{spots.diameter_px:g} px"
        threshold = f"was at least {spots.threshold}"
        if spots.threshold == "auto":
            threshold = f"exceeded the background's median over the plate by {DEVIATIONS:g} of its standard deviations"
            if found.get(name, {}).get("threshold") is not None:
                threshold += f" (at least {found[name]['threshold']:.4g})"
        yield (
            f"{_upper(name)} were found in {spots.within} as maxima of the Laplacian of Gaussian of {spots.channel} "
            f"for a diameter of {size} {cite('lindeberg')}, where it {threshold}."
        )


def _statistics(view: View, cite: Any) -> Iterator[str]:
    stats, summaries = view.plate.config.stats, [cut.summary for cut in view.cuts]
    reference, _, method = stats.normalise.partition(" ")
    plate = "the plate's wells other than positive controls and empty ones"
    against = "the negative controls" if reference == "negative" else plate
    centre = "median and MAD" if method == "robust" else "mean and standard deviation"
    if stats.group_by:
        yield f"Wells of each {_and(stats.group_by)} were compared among themselves alone."
    if stats.time != "each":
        name = f"value at time point {stats.time}" if isinstance(stats.time, int) else SUMMARIES[stats.time]
        yield f"Of each time series the {name} was compared."
    yield f"Normalised values are distances from {against} in units of their spread ({centre})."
    if any(each["controls"]["grade"] != "unknown" for each in summaries):
        yield f"The separation of controls was assessed by Z' {cite('zprime')} and SSMD {cite('ssmd')}."
    called = [each["hits"] for each in summaries if not each["hits"]["why none"]]
    if called:
        test = (
            "Student's t with the mean, standard deviation and degrees of freedom of the negative controls"
            if reference == "negative"
            else "the median and MAD of the plate"
        )
        yield (
            f"Treatments were tested in every feature against {test}; p-values were combined over features by Simes' "
            f"method {cite('simes')}, and hits called at a false discovery rate of {stats.fdr:g} {cite('bh')} where "
            f"all replicates lay on one side of the reference in the feature of least p."
        )
    if any(len(cut.table("doses.csv")) for cut in view.cuts):
        yield (
            f"Dose-response curves are logistic functions of four parameters {cite('sebaugh')}, fitted by least "
            "squares to the wells, with the negative controls as dose 0."
        )
    if any(tested for each in summaries for _, tested in each["positions"].values()):
        yield (
            f"Effects of edge, row and column were tested by Kruskal and Wallis' test at a false discovery rate of "
            f"{LEVEL:g} {cite('bh')}; values were not corrected for them."
        )


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ordinal(number: float) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"} if number % 100 not in (11, 12, 13) else {}
    return f"{number:g}{ends.get(number % 10, 'th')}"  # type: ignore[call-overload]


def _and(names: Any, word: str = "and") -> str:
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else str(last)


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        elif item is not None:
            yield f"{prefix}{key}", ", ".join(map(str, item)) if isinstance(item, list | tuple) else str(item)


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return "not installed"
