rule tile:
    input:
        lambda wc: PLAN.inputs("tile", wc.plate),
    output:
        PLAN.pattern("receipt", "tile"),
    log:
        PLAN.pattern("log", "tile"),
    benchmark:
        PLAN.pattern("benchmark", "tile")
    threads: 2
    resources:
        **PLAN.resources("tile"),
    params:
        settings=lambda wc: PLAN.params("tile", wc.plate, wc.part),
    message:
        "{wildcards.plate}: tile part {wildcards.part}: raw planes into the store, pyramids, histograms"
    script:
        "../scripts/tile.py"
