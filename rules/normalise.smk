rule normalise:
    input:
        lambda wc: PLAN.inputs("normalise", wc.plate),
    output:
        PLAN.pattern("receipt", "normalise"),
    log:
        PLAN.pattern("log", "normalise"),
    benchmark:
        PLAN.pattern("benchmark", "normalise")
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: 30 * attempt,
    params:
        settings=lambda wc: PLAN.params("normalise", wc.plate),
    message:
        "{wildcards.plate}: the intensity window and illumination profiles"
    script:
        "../scripts/normalise.py"
