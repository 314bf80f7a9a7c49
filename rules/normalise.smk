# Makes manifest/window.json and manifest/illumination.npz.
rule normalise:
    input:
        lambda wc: WORKFLOW.inputs("normalise", wc),
    output:
        WORKFLOW.pattern("receipt", "normalise"),
    log:
        WORKFLOW.pattern("log", "normalise"),
    benchmark:
        WORKFLOW.pattern("benchmark", "normalise")
    resources:
        **WORKFLOW.resources("normalise"),
    message:
        "{wildcards.plate}: the intensity window and illumination profiles ({WORKFLOW:{output}})"
    script:
        "../scripts/normalise.py"
