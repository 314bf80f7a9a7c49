# Makes report.html and ledger.parquet.
rule report:
    input:
        lambda wc: WORKFLOW.inputs("report", wc.plate),
    output:
        WORKFLOW.pattern("receipt", "report"),
    log:
        WORKFLOW.pattern("log", "report"),
    benchmark:
        WORKFLOW.pattern("benchmark", "report")
    resources:
        **WORKFLOW.resources("report"),
    params:
        settings=lambda wc: WORKFLOW.params("report", wc.plate),
    message:
        "{wildcards.plate}: report"
    script:
        "../scripts/report.py"


# Makes screen/report.html and the tables over all plates.
rule screen:
    input:
        [
            receipt
            for plate in WORKFLOW.plates
            for receipt in WORKFLOW.receipts(plate, "report")
        ],
    output:
        WORKFLOW.screen("receipt"),
    log:
        WORKFLOW.screen("log"),
    benchmark:
        WORKFLOW.screen("benchmark")
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        plates=list(WORKFLOW.plates),
    message:
        "the page over all plates"
    script:
        "../scripts/screen.py"
