"""How many examples are tried of what, by Hypothesis; the scenes themselves are drawn without it (`flow_scenes`)."""

import os

from hypothesis import settings
from hypothesis import strategies as st

# PLATEFLOW_EXAMPLES=1000 pytest tests/flows tries more examples than a commit needs.
EXAMPLES = int(os.environ.get("PLATEFLOW_EXAMPLES", "25"))
few = settings(max_examples=EXAMPLES, deadline=None, derandomize="PLATEFLOW_EXAMPLES" not in os.environ)

planes = st.tuples(st.integers(20, 150), st.integers(20, 150))
volumes = st.tuples(st.integers(1, 24), st.integers(10, 40), st.integers(10, 40))
shapes = st.one_of(planes, planes, volumes)
seeds = st.integers(0, 2**32 - 1)
