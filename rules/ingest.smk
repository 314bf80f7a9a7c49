# Makes the manifest, and the groups and empty arrays of plate.zarr.
rule ingest:
    input:
        lambda wc: WORKFLOW.inputs("ingest", wc),
    output:
        WORKFLOW.pattern("receipt", "ingest"),
    log:
        WORKFLOW.pattern("log", "ingest"),
    benchmark:
        WORKFLOW.pattern("benchmark", "ingest")
    resources:
        **WORKFLOW.resources("ingest"),
    message:
        "{wildcards.plate}: read the index, make the manifest and the empty store ({WORKFLOW:{output}})"
    script:
        "../scripts/ingest.py"
