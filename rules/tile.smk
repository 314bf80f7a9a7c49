# Makes level 0 and pyramids of the images in plate.zarr, and histograms/<well>.npz.
rule tile:
    input:
        lambda wc: WORKFLOW.inputs("tile", wc),
    output:
        WORKFLOW.pattern("receipt", "tile"),
    log:
        WORKFLOW.pattern("log", "tile"),
    benchmark:
        WORKFLOW.pattern("benchmark", "tile")
    threads: 2
    resources:
        **WORKFLOW.resources("tile"),
    message:
        "{wildcards.plate}: tile part {wildcards.part}: raw planes into the store, pyramids, histograms ({WORKFLOW:{output}})"
    script:
        "../scripts/tile.py"
