"""Numbers in messages."""

import pytest

from plateflow.errors import number_of


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (1, "1 file is gone with its well"),
        (0, "0 files are gone with their wells"),
        (5000, "5,000 files are gone with"),
    ],
)
def test_one_is_singular(n: int, text: str) -> None:
    assert number_of(n, "file[s are| is] gone with [their wells|its well]").startswith(text)
