"""A stage's version is raised by hand: this says when somebody forgot.

A stage's code is all that its module imports within the package, however indirectly and wherever the import stands,
and the templates of the packages that it uses. What can't change a result is exempt, with the reason.
"""

import ast
import hashlib
import json
import sys
from functools import cache
from pathlib import Path

import plateflow
from plateflow.chain import STAGES

PACKAGE = Path(plateflow.__file__).parent
LOCK = Path(__file__).parent / "stage_versions.json"
TEMPLATES = (".j2", ".css", ".js", ".html")
EXEMPT = {
    "chain": "versions and parameters are in the fingerprints themselves",
    "config": "its values are in the fingerprints",
    "errors": "what is said when there is no result",
    "estimate": "what jobs ask for, not what they make",
    "files": "how bytes reach the disk, not which",
    "model/fetch": "the hash of what it downloads is in the fingerprints",
    "paths": "where results lie",
    "stages/__init__": "finds the module of a stage",
    "stages/runner": "which work items are done, not how",
    "state": "journals, leases, requests: what is done, not how",
}
"""Modules and packages, below the package, that can't change a result."""


def is_exempt(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}/") for name in EXEMPT)


def file_of(module: str) -> Path | None:
    """The file of a module such as `flows/seeds`, or of a package such as `flows`."""
    files = PACKAGE / f"{module}.py", PACKAGE / module / "__init__.py"
    return next((file for file in files if file.is_file()), None)


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of the package that a module imports, those inside of functions included."""
    file, found = file_of(module), set()
    assert file is not None, module
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "plateflow":
            base = "/".join((node.module or "").split(".")[1:])
            for alias in node.names:
                name = f"{base}/{alias.name}".strip("/")
                found.add(name if file_of(name) else base)
        elif isinstance(node, ast.Import):
            found |= {"/".join(a.name.split(".")[1:]) for a in node.names if a.name.startswith("plateflow.")}
    packages = {"/".join(name.split("/")[:n]) for name in found for n in range(1, name.count("/") + 1)}
    return frozenset((found | packages) - {""})


def closure(stage: str) -> list[str]:
    """All modules that decide a stage's results, in order of their names."""
    modules, todo = set[str](), [f"stages/{stage}"]
    while todo:
        module = todo.pop()
        if module not in modules and module != "stages" and not is_exempt(module):
            modules.add(module)
            todo += imports(module)
    return sorted(modules)


def code(file: Path) -> str:
    """The syntax tree of a file, without comments and docstrings."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                item
                for item in body
                if not (isinstance(item, ast.Expr) and isinstance(getattr(item.value, "value", None), str))
            ]
    return ast.dump(tree)


def code_hash(modules: list[str]) -> str:
    files = [file for module in modules if (file := file_of(module))]
    folders = {file.parent for file in files if file.parent != PACKAGE}
    templates = sorted({f for folder in folders for f in folder.rglob("*") if f.suffix in TEMPLATES})
    text = [code(file) for file in files] + [file.read_text() for file in templates]
    return hashlib.sha256("".join(text).encode()).hexdigest()[:16]


def state() -> dict[str, dict[str, object]]:
    return {name: {"version": stage.version, "code": code_hash(closure(name))} for name, stage in STAGES.items()}


def test_changed_code_has_a_new_version_or_a_refreshed_lock():
    locked = json.loads(LOCK.read_text())
    changed = [name for name, now in state().items() if locked.get(name) != now]
    assert not changed, (
        f"the code of {', '.join(changed)} has changed. If its results can differ, raise the stage's version in "
        f"chain.py, so that its wells are done again; in either case refresh the lock: python {__file__} refresh"
    )


def test_a_stage_is_all_that_it_imports():
    assert {"plates/harmony", "images/store", "images/layout"} <= set(closure("ingest"))
    assert {"flows/seeds", "segment/grid", "images/well"} <= set(closure("stitch"))
    assert {"images/histograms", "features/columns", "plates/platemap"} <= set(closure("aggregate"))
    assert "images/well" in closure("report")
    assert not any(name.startswith("stats") for name in closure("features"))
    for name in EXEMPT:
        assert file_of(name), f"{name} is exempt, and isn't there"


def test_a_comment_or_docstring_is_no_change_and_a_template_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    folder = tmp_path / "a"
    folder.mkdir()
    file, template = folder / "b.py", folder / "page.j2"
    file.write_text('"""One."""\ndef f(x):\n    """Two."""\n    return x + 1\n')
    template.write_text("<p>")
    first = code_hash(["a/b"])
    file.write_text("# three\ndef f(x):\n    # four\n    return x + 1\n")
    assert code_hash(["a/b"]) == first
    template.write_text("<p >")
    assert code_hash(["a/b"]) != first
    template.write_text("<p>")
    file.write_text("def f(x):\n    return x + 2\n")
    assert code_hash(["a/b"]) != first


if __name__ == "__main__" and sys.argv[1:] == ["refresh"]:
    LOCK.write_text(json.dumps(state(), indent=1) + "\n")
