rule aggregate:
    input:
        lambda wc: PLAN.inputs("aggregate", wc.plate),
    output:
        PLAN.pattern("receipt", "aggregate"),
    log:
        PLAN.pattern("log", "aggregate"),
    benchmark:
        PLAN.pattern("benchmark", "aggregate")
    resources:
        **PLAN.resources("aggregate"),
    params:
        settings=lambda wc: PLAN.params("aggregate", wc.plate),
    message:
        "{wildcards.plate}: aggregate: the well table, quality"
    script:
        "../scripts/aggregate.py"
