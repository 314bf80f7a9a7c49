# Makes report.html and ledger.parquet.
rule report:
    input:
        lambda wc: WORKFLOW.inputs("report", wc),
    output:
        WORKFLOW.pattern("receipt", "report"),
    log:
        WORKFLOW.pattern("log", "report"),
    benchmark:
        WORKFLOW.pattern("benchmark", "report")
    resources:
        **WORKFLOW.resources("report"),
    message:
        "{wildcards.plate}: report ({WORKFLOW:{output}})"
    script:
        "../scripts/report.py"


# Makes screen/index.html and the tables over all plates.
rule screen:
    input:
        lambda wc: WORKFLOW.screen_inputs(wc),
    output:
        WORKFLOW.screen("receipt"),
    log:
        WORKFLOW.screen("log"),
    benchmark:
        WORKFLOW.screen("benchmark")
    resources:
        **WORKFLOW.resources("screen"),
    message:
        "the page over all plates"
    script:
        "../scripts/screen.py"
