# Trains the model that `train` of the configuration describes: a target of its own, which no other rule waits for.
rule train:
    output:
        WORKFLOW.training("safetensors"),
    log:
        WORKFLOW.training("log"),
    benchmark:
        WORKFLOW.training("tsv")
    localrule: WORKFLOW.config.train is None
    threads: WORKFLOW.config.threads
    resources:
        **WORKFLOW.resources("train"),
        gpu=1,
    params:
        options=lambda wc: WORKFLOW.training_options(),
    message:
        "train {output}: {params.options}"
    script:
        "../scripts/train.py"
