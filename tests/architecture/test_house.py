"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pathotune_pipeline", "flows")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SHAPELESS_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
LONGEST_FILE = 400


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_importing_the_package_loads_no_heavy_library() -> None:
    loaded = loaded_by("import pathotune_pipeline")
    assert "pathotune_pipeline" in loaded
    assert not loaded & {"torch", "dask", "distributed", "prefect", "zarr", "timm", "cv2", "numpy"}


def test_help_loads_neither_torch_nor_prefect() -> None:
    loaded = loaded_by("from pathotune_pipeline.cli.main import overview; overview()")
    assert not loaded & {"torch", "dask", "prefect", "zarr"}


def test_the_public_names_are_these() -> None:
    import pathotune_pipeline

    assert pathotune_pipeline.__all__ == sorted(pathotune_pipeline.__all__)
    assert set(pathotune_pipeline.__all__) == {*pathotune_pipeline._HOMES, "PathotuneError", "__version__"}
    for name in pathotune_pipeline.__all__:
        assert getattr(pathotune_pipeline, name) is not None
    with pytest.raises(AttributeError):
        _ = pathotune_pipeline.no_such_name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_have_names_that_say_something(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE
    assert path.stem not in SHAPELESS_NAMES
    assert path.parent.name not in SHAPELESS_NAMES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body


def test_no_import_cycles() -> None:
    import grimp

    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)
    modules = [module for module in graph.modules if not graph.find_children(module)]
    cycles = []
    for module in modules:
        for imported in graph.find_modules_directly_imported_by(module):
            if imported in modules and imported != module and graph.chain_exists(imported, module):
                lazy = _imported_inside_a_function(module, imported) or _some_lazy_link(graph, imported, module)
                if not lazy:
                    cycles.append((module, imported))
    assert not cycles


def _some_lazy_link(graph: object, start: str, end: str) -> bool:
    chain = graph.find_shortest_chain(start, end)  # type: ignore[attr-defined]
    return any(_imported_inside_a_function(a, b) for a, b in itertools.pairwise(chain))


def _imported_inside_a_function(module: str, imported: str) -> bool:
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.exists():
        return False
    names = {imported, imported.rpartition(".")[0]}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module in names:
            return False
        if isinstance(node, ast.Import) and any(alias.name in names for alias in node.names):
            return False
    return True


def test_default_yaml_is_written_from_the_specs() -> None:
    from pathotune_pipeline import config

    assert (ROOT / "configs" / "default.yaml").read_text() == config.as_yaml(), (
        "run: pathotune config > configs/default.yaml"
    )


def test_every_setting_has_one_flag_and_a_sentence() -> None:
    from pathotune_pipeline import config

    groups = (
        (*config.EXTRACTION, "execution"),
        ("trial", *config.EXTRACTION),
        ("pretrain", "mae"),
        ("pretrain", "puzzle"),
        ("crossval",),
        ("model",),
        ("evaluate",),
        ("predict",),
        ("heatmap",),
        ("drift",),
        ("view",),
        ("patches", "encoder", "adapt"),
        ("encoder", "adapt_slides"),
        ("patches",),
    )
    for group in groups:
        flags: list[str] = []
        for section in group:
            for leaf in config.leaves(config.section(section), (section,)):
                assert leaf.help.endswith("."), leaf.key
                flags += leaf.flags
        assert len(flags) == len(set(flags))


def test_nothing_names_a_registry_host_or_a_machine_path() -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    hosts = ["pypi" + ".org", "python" + "hosted", "registry." + "npmjs", "deb." + "debian.org"]
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".png", ".jpg"} or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        assert not [host for host in hosts if host in text], name
