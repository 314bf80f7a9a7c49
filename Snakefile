"""Plateflow: raw plates in, segmented OME-Zarr plates and tables out."""

import atexit
import sys

from plateflow.asked import Asked
from plateflow.switches import Switches
from plateflow.workflow import Workflow

# A job of a run on a cluster takes all from that run: files that were edited since are for the next one.
asked = None if workflow.is_main_process else Asked.given()

# A file given with --configfile stands for this one; Snakemake would lay it over this one, label set by label set.
if asked is None and not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


SWITCHES = Switches(workflow)
WORKFLOW = Workflow(asked or config, forced=SWITCHES.forced)
SWITCHES.receipts, SWITCHES.journals = WORKFLOW.targets, WORKFLOW.journals
SWITCHES.lacking = WORKFLOW.lacking()
if workflow.is_main_process:
    WORKFLOW.announce()


# Used with --software-deployment-method apptainer alone; envs/plateflow.def says how it is built.
container: "envs/plateflow.sif"


wildcard_constraints:
    plate="|".join(map(re.escape, WORKFLOW.plates)),
    part=r"\d+",
    slice=r"\d+",
    digest=r"[0-9a-f]+(-[0-9a-z]+)?",


localrules:
    all,


rule all:
    default_target: True
    input:
        lambda wc: WORKFLOW.targets(),
    message:
        "all plates are up to date"


include: "rules/ingest.smk"
include: "rules/tile.smk"
include: "rules/normalise.smk"
include: "rules/infer.smk"


if WORKFLOW.has("follow"):

    include: "rules/follow.smk"


if WORKFLOW.has("stitch"):

    include: "rules/stitch.smk"


include: "rules/features.smk"
include: "rules/aggregate.smk"
include: "rules/report.smk"
include: "rules/train.smk"


onstart:
    WORKFLOW.begin(workflow.scheduler)
    SWITCHES.begin()
    for notice in WORKFLOW.licence_notices():
        print(notice, file=sys.stderr)


onsuccess:
    atexit.unregister(WORKFLOW.last_words)
    if workflow.touch and SWITCHES.to_do():
        sys.exit(4)
    left_out = WORKFLOW.left_out()
    exceptions = filter(None, (WORKFLOW.doubts(), left_out))
    for start, lines in zip(("Complete, but", "Besides,"), exceptions):
        print(f"\n{start}", "\n  ".join(lines), file=sys.stderr)
    if left_out:
        sys.exit(3)
