rule report:
    input:
        lambda wc: PLAN.inputs("report", wc.plate),
    output:
        PLAN.pattern("receipt", "report"),
    log:
        PLAN.pattern("log", "report"),
    benchmark:
        PLAN.pattern("benchmark", "report")
    resources:
        **PLAN.resources("report"),
    params:
        settings=lambda wc: PLAN.params("report", wc.plate),
    message:
        "{wildcards.plate}: report"
    script:
        "../scripts/report.py"


rule screen:
    input:
        [receipt for plate in PLAN.plates for receipt in PLAN.receipts(plate, "report")],
    output:
        PLAN.screen("receipt"),
    log:
        PLAN.screen("log"),
    benchmark:
        PLAN.screen("benchmark")
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        plates=list(PLAN.plates),
    message:
        "the page over all plates"
    script:
        "../scripts/screen.py"
