# Makes the manifest, and the groups and empty arrays of plate.zarr.
rule ingest:
    output:
        WORKFLOW.pattern("receipt", "ingest"),
    log:
        WORKFLOW.pattern("log", "ingest"),
    benchmark:
        WORKFLOW.pattern("benchmark", "ingest")
    resources:
        **WORKFLOW.resources("ingest"),
    params:
        settings=lambda wc: WORKFLOW.params("ingest", wc.plate),
    message:
        "{wildcards.plate}: read the index, make the manifest and the empty store"
    script:
        "../scripts/ingest.py"
