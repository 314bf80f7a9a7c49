rule ingest:
    output:
        PLAN.pattern("receipt", "ingest"),
    log:
        PLAN.pattern("log", "ingest"),
    benchmark:
        PLAN.pattern("benchmark", "ingest")
    resources:
        **PLAN.resources("ingest"),
    params:
        settings=lambda wc: PLAN.params("ingest", wc.plate),
    message:
        "{wildcards.plate}: read the index, make the manifest and the empty store"
    script:
        "../scripts/ingest.py"
