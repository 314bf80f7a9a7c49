rule infer:
    input:
        lambda wc: PLAN.inputs("infer", wc.plate, int(wc.part)),
    output:
        PLAN.pattern("receipt", "infer"),
    log:
        PLAN.pattern("log", "infer"),
    benchmark:
        PLAN.pattern("benchmark", "infer")
    threads: PLAN.config.threads
    resources:
        **PLAN.resources("infer"),
        gpu=1,
    params:
        settings=lambda wc: PLAN.params("infer", wc.plate, wc.part),
    message:
        "{wildcards.plate}: infer part {wildcards.part}: flow fields of all label sets"
    script:
        "../scripts/infer.py"
