"""Which jobs `plateflow check --cluster` submits: one for each place to which the profile sends stages."""

from pathlib import Path

import yaml

from plateflow.cli.cluster import sites_of

REPOSITORY = Path(__file__).parents[2]


def test_the_shipped_profile_has_two_places():
    settings = yaml.safe_load((REPOSITORY / "profiles" / "slurm" / "config.v8+.yaml").read_text())
    assert sites_of(settings)["--gres=gpu:1", "--partition=gpu"] == ["infer"]
    assert len(sites_of(settings)["--partition=cpu",]) == 8


def test_options_are_those_of_sbatch():
    own = {"infer": {"gres": "'gpu:a100:1'", "slurm_extra": "'--qos=long --exclude=n1'"}}
    found = sites_of({"default-resources": {"slurm_account": "lab", "mem_mb": 600}, "set-resources": own})
    assert found["--account=lab", "--gres=gpu:a100:1", "--qos=long", "--exclude=n1"] == ["infer"]
    assert len(found) == 2
