"""Why a run does a job is said in its message, in the words of `plateflow status`."""

import re
from pathlib import Path

from command_line import plateflow

from plateflow.asked import Asked
from plateflow.chain import STAGES
from plateflow.project import Project
from plateflow.workflow import Workflow

RULES = Path(__file__).parents[2] / "rules"


def why(stage: str, job: str) -> str:
    """What the message of a rule says, where its configuration is as it is now."""
    workflow = Workflow(Asked.of(Project.load(Path("config/config.yaml"))))
    return f"{workflow:{workflow.asked.plates['micro'].receipt(stage, job)}}"


def test_every_rule_of_a_plate_says_why_it_runs():
    messages = [text for file in RULES.glob("*.smk") for text in re.findall(r'message:\s+"(.*)"', file.read_text())]
    of_plates = [text for text in messages if "{wildcards.plate}" in text]
    assert len(of_plates) == len(STAGES)
    assert all("({WORKFLOW:{output}})" in text for text in of_plates)
    for profile in RULES.parent.glob("profiles/*/config*.yaml"):
        assert "quiet: [reason]" in profile.read_text()


def test_the_reason_is_in_words(done):
    assert why("stitch", "0") == "forced"
    done.configure(lambda config: config["segmentation"]["cells"].update(min_size_px=700))
    assert why("stitch", "0") == "stale: parameters changed"
    assert why("features", "0") == "stale: inputs changed"
    plateflow("retry", "micro/B02", "--stage", "tile", cwd=done.folder)
    assert "requested again" in {why("tile", "0"), why("tile", "1")}
    for path in [*done.path().journals("infer"), *done.path().receipts("infer", "*")]:
        path.unlink()
    assert why("infer", "0") == "never done"
