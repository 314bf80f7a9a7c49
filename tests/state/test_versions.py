"""A stage's version is raised by hand: this says when somebody forgot."""

import ast
import hashlib
import json
import sys
from pathlib import Path

import plateflow
from plateflow.chain import STAGES

PACKAGE = Path(plateflow.__file__).parent
LOCK = Path(__file__).parent / "stage_versions.json"


def code_hash(patterns: tuple[str, ...]) -> str:
    """Hash of the syntax trees of files, without comments and docstrings."""
    trees = []
    for pattern in patterns:
        files = sorted(PACKAGE.glob(pattern))
        assert files, f"{pattern} names no file"
        for file in files:
            tree = ast.parse(file.read_text())
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list):
                    node.body = [  # type: ignore[attr-defined]
                        item
                        for item in body
                        if not (isinstance(item, ast.Expr) and isinstance(getattr(item.value, "value", None), str))
                    ]
            trees.append(ast.dump(tree))
    return hashlib.sha256("".join(trees).encode()).hexdigest()[:16]


def state() -> dict[str, dict[str, object]]:
    return {name: {"version": stage.version, "code": code_hash(stage.modules)} for name, stage in STAGES.items()}


def test_changed_code_has_a_new_version_or_a_refreshed_lock():
    locked = json.loads(LOCK.read_text())
    changed = [name for name, now in state().items() if locked.get(name) != now]
    assert not changed, (
        f"the code of {', '.join(changed)} has changed. If its results can differ, raise the stage's version in "
        f"chain.py, so that its wells are done again; in either case refresh the lock: python {__file__} refresh"
    )


def test_a_comment_or_docstring_is_no_change(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    file = tmp_path / "a.py"
    file.write_text('"""One."""\ndef f(x):\n    """Two."""\n    return x + 1\n')
    first = code_hash(("a.py",))
    file.write_text("# three\ndef f(x):\n    # four\n    return x + 1\n")
    assert code_hash(("a.py",)) == first
    file.write_text("def f(x):\n    return x + 2\n")
    assert code_hash(("a.py",)) != first


if __name__ == "__main__" and sys.argv[1:] == ["refresh"]:
    LOCK.write_text(json.dumps(state(), indent=1) + "\n")
