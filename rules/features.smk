rule features:
    input:
        lambda wc: PLAN.inputs("features", wc.plate, int(wc.part)),
    output:
        PLAN.pattern("receipt", "features"),
    log:
        PLAN.pattern("log", "features"),
    benchmark:
        PLAN.pattern("benchmark", "features")
    resources:
        mem_mb=lambda wc, attempt: 4000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        settings=lambda wc: PLAN.params("features", wc.plate, wc.part),
    message:
        "{wildcards.plate}: features part {wildcards.part}: the cell tables"
    script:
        "../scripts/features.py"
