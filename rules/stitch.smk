rule stitch:
    input:
        lambda wc: PLAN.inputs("stitch", wc.plate, int(wc.part)),
    output:
        PLAN.pattern("receipt", "stitch"),
    log:
        PLAN.pattern("log", "stitch"),
    benchmark:
        PLAN.pattern("benchmark", "stitch")
    resources:
        **PLAN.resources("stitch"),
    params:
        settings=lambda wc: PLAN.params("stitch", wc.plate, wc.part),
    message:
        "{wildcards.plate}: stitch part {wildcards.part}: labels into the store"
    script:
        "../scripts/stitch.py"
