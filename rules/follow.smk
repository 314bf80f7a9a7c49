# Makes endpoints of the paths, in the scratch.
rule follow:
    input:
        lambda wc: WORKFLOW.inputs("follow", wc),
    output:
        WORKFLOW.pattern("receipt", "follow"),
    log:
        WORKFLOW.pattern("log", "follow"),
    benchmark:
        WORKFLOW.pattern("benchmark", "follow")
    resources:
        **WORKFLOW.resources("follow"),
    message:
        "{wildcards.plate}: follow part {wildcards.part}, slice {wildcards.slice}: end points of all paths ({WORKFLOW:{output}})"
    script:
        "../scripts/follow.py"
