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
        **PLAN.resources("normalise"),
    params:
        settings=lambda wc: PLAN.params("normalise", wc.plate),
    message:
        "{wildcards.plate}: the intensity window and illumination profiles"
    script:
        "../scripts/normalise.py"
