rule features:
    input:
        lambda wc: PLAN.inputs("features", wc.plate, int(wc.part)),
    output:
        PLAN.pattern("receipt", "features"),
    log:
        PLAN.pattern("log", "features"),
    benchmark:
        PLAN.pattern("benchmark", "features")
    threads: 2
    resources:
        **PLAN.resources("features"),
    params:
        settings=lambda wc: PLAN.params("features", wc.plate, wc.part),
    message:
        "{wildcards.plate}: features part {wildcards.part}: the cell tables"
    script:
        "../scripts/features.py"
