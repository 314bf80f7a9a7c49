"""Plateflow: raw plates in, segmented OME-Zarr plates and tables out."""

import atexit
import sys

from plateflow.workflow import Workflow
from plateflow.state.lease import announce_driver

# A file given with --configfile stands for this one; Snakemake would lay it over this one, label set by label set.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


WORKFLOW = Workflow(config)
announce_driver()


# Used with --software-deployment-method apptainer alone; envs/plateflow.def says how it is built.
container: "envs/plateflow.sif"


wildcard_constraints:
    plate="|".join(map(re.escape, WORKFLOW.plates)),
    part=r"\d+",
    slice=r"\d+",


localrules:
    all,
    screen,


rule all:
    default_target: True
    input:
        WORKFLOW.targets(),
    message:
        "all plates are up to date"


include: "rules/ingest.smk"
include: "rules/tile.smk"
include: "rules/normalise.smk"
include: "rules/infer.smk"
include: "rules/follow.smk"
include: "rules/stitch.smk"
include: "rules/features.smk"
include: "rules/aggregate.smk"
include: "rules/report.smk"


onstart:
    atexit.register(WORKFLOW.last_words)
    for notice in WORKFLOW.licence_notices():
        print(notice, file=sys.stderr)


onsuccess:
    atexit.unregister(WORKFLOW.last_words)
    left_out = WORKFLOW.left_out()
    if left_out:
        print(
            f"\nComplete, but {len(left_out)} left out (`plateflow status` explains):",
            *left_out,
            sep="\n  ",
            file=sys.stderr,
        )
        sys.exit(3)
