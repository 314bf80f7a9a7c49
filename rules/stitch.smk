# Makes labels in plate.zarr, and objects/<label set>/<well>.parquet.
rule stitch:
    input:
        lambda wc: WORKFLOW.inputs("stitch", wc),
    output:
        WORKFLOW.pattern("receipt", "stitch"),
    log:
        WORKFLOW.pattern("log", "stitch"),
    benchmark:
        WORKFLOW.pattern("benchmark", "stitch")
    resources:
        **WORKFLOW.resources("stitch"),
    message:
        "{wildcards.plate}: stitch part {wildcards.part}: labels into the store ({WORKFLOW:{output}})"
    script:
        "../scripts/stitch.py"
