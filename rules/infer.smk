# Makes flow fields, in the scratch; where they aren't kept, labels in plate.zarr.
rule infer:
    input:
        lambda wc: WORKFLOW.inputs("infer", wc),
    output:
        WORKFLOW.pattern("receipt", "infer"),
    log:
        WORKFLOW.pattern("log", "infer"),
    benchmark:
        WORKFLOW.pattern("benchmark", "infer")
    threads: WORKFLOW.config.threads
    resources:
        **WORKFLOW.resources("infer"),
        gpu=1,
    message:
        "{wildcards.plate}: infer part {wildcards.part}: {WORKFLOW.inferred} of all label sets ({WORKFLOW:{output}})"
    script:
        "../scripts/infer.py"
