"""The recipe: what a file may say, the schedules, which crops pass by which blocks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plateflow.errors import ConfigError
from plateflow.files import write_json
from plateflow.model.vit import VIT_L, FlowViTConfig
from plateflow.train.augment import Augmentation
from plateflow.train.memory import memory_need
from plateflow.train.recipe import NETWORKS, Recipe, defaults_for, differences, make_recipe, read_recipe

RECIPE = Recipe(steps=1000, learning_rate=1.0, warm_up=10, layer_drop=0.4, batch=4)


def test_a_cosine_falls_to_a_hundredth_after_its_warm_up() -> None:
    rates = [RECIPE.rate(step, step / 1000) for step in (0, 4, 500, 1000)]
    assert rates == pytest.approx([0.1, 0.5, 0.505, 0.01], abs=1e-3)


def test_a_stepwise_rate_is_halved_ten_times_in_the_last_tenth() -> None:
    stepwise = replace(RECIPE, schedule="stepwise")
    assert stepwise.rate(4, 0.004) == 0.5
    falling = [stepwise.rate(step, step / 1000) for step in range(890, 1000)]
    assert falling[0] == falling[10] == 1.0
    assert list(dict.fromkeys(falling)) == [0.5**n for n in range(11)]
    assert [falling.count(0.5**n) for n in range(2, 10)] == [10] * 8


def test_later_blocks_are_passed_by_more_often() -> None:
    kept = np.concatenate([RECIPE.kept_blocks(step, 3) for step in range(500)])
    assert kept.shape == (2000, 3)
    assert (1 - kept.mean(0)) == pytest.approx([0, 0.2, 0.4], abs=0.03)
    assert np.array_equal(RECIPE.kept_blocks(7, 3), RECIPE.kept_blocks(7, 3))
    assert replace(RECIPE, layer_drop=0.0).kept_blocks(7, 3) is None


def test_a_saved_recipe_is_read_back_the_same(tmp_path: Path) -> None:
    recipe = replace(RECIPE, augmentation=Augmentation(gamma=0.1), networks={"x": VIT_L}, schedule="stepwise")
    write_json(tmp_path / "recipe.json", recipe.as_dict())
    assert make_recipe(read_recipe(tmp_path / "recipe.json"), where="there") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 5\nlerning_rate: 1", "lerning_rate: Unexpected"),
        ("steps: 5\naugmentation: {gama: 0.1}", "augmentation.gama: Unexpected"),
        ("steps: five", "steps: Input should be a valid integer"),
        ("steps: 5\nschedule: linear", "schedule: Input should be 'cosine' or 'stepwise'"),
        ("steps: 5\nbatch: 6\naccumulate: 4", "6 crops can't be computed in 4 equal parts"),
        ("steps: 5\nlayer_drop: 2", "layer_drop must be from 0 to 1"),
        ("steps: 5\nclip: -1", "clip must be at least 0"),
        ("steps: 5\naugmentation: {diameters: [30, 20]}", "augmentation: diameters must be a range above 0"),
        ("steps: 5\naugmentation: {zoom: [0, 1]}", "zoom must be a range above 0"),
        ("steps: 5\naugmentation: {gamma: 7}", "gamma must be from 0 to 1, not 7"),
        ("steps: 0", "steps must be at least 1"),
        ("steps: 5\ncrop: 100", "default takes crops of a multiple of 8 px, not of 100"),
        ("steps: 5\nseconds: 5", "either how many steps or how many seconds"),
        ("[1, 2]", "isn't a mapping"),
        ("a: [", "can't be read"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_told_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        make_recipe(read_recipe(path), where=str(path))
    assert "mine.yaml" in str(error.value)


def test_differences_name_the_fields() -> None:
    other = replace(RECIPE, batch=8, augmentation=Augmentation(diameters=(9.0, 50.0)))
    assert differences(other.as_dict(), RECIPE.as_dict()) == [
        "batch is 8, and was 4",
        f"augmentation.diameters is [9.0, 50.0], and was {list(Augmentation().diameters)}",
    ]
    longer, shorter = (replace(RECIPE, steps=None, seconds=s).as_dict() for s in (5.0, 9.0))
    assert differences(longer, shorter) == []
    assert differences(longer, RECIPE.as_dict()) == ["steps is None, and was 1000", "seconds is 5.0, and was None"]


def test_large_encoders_and_small_networks_begin_with_recipes_of_their_own() -> None:
    large = Recipe(networks={"x": VIT_L}, steps=1, **defaults_for(VIT_L, trained=True))
    small = Recipe(networks={"x": NETWORKS["default"]}, steps=1, **defaults_for(NETWORKS["default"], trained=True))
    assert (large.schedule, large.layer_drop, large.recompute, large.crop) == ("stepwise", 0.4, True, 256)
    assert large.layer_rate < 1 == small.layer_rate and large.learning_rate < small.learning_rate
    assert defaults_for(NETWORKS["default"], trained=False) == {}


def test_recomputed_blocks_and_parts_of_a_batch_need_less_memory() -> None:
    config = FlowViTConfig(width=64, depth=6, heads=2, stem="patch", neck="sam", local_conv=False)
    plain = Recipe(networks={"x": config}, steps=1, batch=8, crop=64)
    (weights, crops), (same, spared), (_, quarter) = (
        memory_need(each) for each in (plain, replace(plain, recompute=True), replace(plain, accumulate=4))
    )
    count = 6 * (12 * 64**2 + 13 * 64)  # the blocks
    assert same == weights and 22 * count < weights < 22 * 1.4 * count
    assert spared < 0.5 * crops and quarter == pytest.approx(crops / 4)
