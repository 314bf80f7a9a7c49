rule ingest:
    output:
        PLAN.pattern("receipt", "ingest"),
    log:
        PLAN.pattern("log", "ingest"),
    benchmark:
        PLAN.pattern("benchmark", "ingest")
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        settings=lambda wc: PLAN.params("ingest", wc.plate),
    message:
        "{wildcards.plate}: read the index, make the manifest and the empty store"
    script:
        "../scripts/ingest.py"
