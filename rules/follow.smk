rule follow:
    input:
        lambda wc: PLAN.inputs("follow", wc.plate, int(wc.part)),
    output:
        PLAN.pattern("receipt", "follow"),
    log:
        PLAN.pattern("log", "follow"),
    benchmark:
        PLAN.pattern("benchmark", "follow")
    resources:
        **PLAN.resources("follow"),
    params:
        settings=lambda wc: PLAN.params("follow", wc.plate, f"{wc.part}-{wc.slice}"),
    message:
        "{wildcards.plate}: follow part {wildcards.part}, slice {wildcards.slice}: end points of all paths"
    script:
        "../scripts/follow.py"
