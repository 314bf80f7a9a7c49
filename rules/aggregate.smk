# Makes wells.parquet, controls.csv, hits.csv and the other tables of a plate.
rule aggregate:
    input:
        lambda wc: WORKFLOW.inputs("aggregate", wc),
    output:
        WORKFLOW.pattern("receipt", "aggregate"),
    log:
        WORKFLOW.pattern("log", "aggregate"),
    benchmark:
        WORKFLOW.pattern("benchmark", "aggregate")
    resources:
        **WORKFLOW.resources("aggregate"),
    message:
        "{wildcards.plate}: aggregate: the well table, quality ({WORKFLOW:{output}})"
    script:
        "../scripts/aggregate.py"
