"""What keeps the code readable, beside the import contract in pyproject.toml."""

from pathlib import Path

import grimp

import plateflow

PACKAGE = Path(plateflow.__file__).parent


def test_a_module_reads_in_one_sitting():
    lengths = {str(file.relative_to(PACKAGE)): file.read_text().count("\n") for file in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 420} == {}


def test_no_module_imports_itself_in_a_circle():
    """Imports inside of functions and for types alone count: a reader follows them, too."""
    graph = grimp.build_graph("plateflow")
    packages = {module for module in graph.modules if graph.find_children(module)}  # an __init__ gathers its modules
    circles = []
    for module in graph.modules - packages:
        for imported in graph.find_modules_directly_imported_by(module) - packages:
            chain = graph.find_shortest_chain(importer=imported, imported=module)
            if chain and not set(chain) & packages:
                circles.append((module, *chain))
    assert circles == []
