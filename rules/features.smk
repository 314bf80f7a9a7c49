# Makes cells/<well>.parquet.
rule features:
    input:
        lambda wc: WORKFLOW.inputs("features", wc.plate, int(wc.part)),
    output:
        WORKFLOW.pattern("receipt", "features"),
    log:
        WORKFLOW.pattern("log", "features"),
    benchmark:
        WORKFLOW.pattern("benchmark", "features")
    threads: 2
    resources:
        **WORKFLOW.resources("features"),
    params:
        settings=lambda wc: WORKFLOW.params("features", wc.plate, wc.part),
    message:
        "{wildcards.plate}: features part {wildcards.part}: the cell tables"
    script:
        "../scripts/features.py"
