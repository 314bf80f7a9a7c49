# Makes cells/<well>.parquet.
rule features:
    input:
        lambda wc: WORKFLOW.inputs("features", wc),
    output:
        WORKFLOW.pattern("receipt", "features"),
    log:
        WORKFLOW.pattern("log", "features"),
    benchmark:
        WORKFLOW.pattern("benchmark", "features")
    threads: 2
    resources:
        **WORKFLOW.resources("features"),
    message:
        "{wildcards.plate}: features part {wildcards.part}: the cell tables ({WORKFLOW:{output}})"
    script:
        "../scripts/features.py"
