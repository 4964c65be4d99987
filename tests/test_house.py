"""The layout holds: imports run one way, heavy libraries keep to their rooms, the README's tree is true."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ingest", "shards", "pretrain", "finetune", "infra")
MAY_IMPORT = {
    "infra": set(),
    "shards": {"infra"},
    "ingest": {"shards", "infra"},
    "pretrain": {"shards", "infra"},
    "finetune": {"pretrain", "shards", "infra"},
}
ROOMS = {
    "torch": {"pretrain/*", "finetune/*", "infra/world.py", "infra/rendezvous.py"},
    "rasterio": {"ingest/*", "finetune/map.py", "finetune/vectors.py"},
    "ray": {"infra/cluster.py", "infra/gang.py", "infra/submit.py", "shards/remote.py"},
    "numba": {
        "ingest/dem.py",
        "ingest/lattice.py",
        "ingest/quality.py",
        "ingest/range_doppler.py",
        "ingest/resample.py",
        "ingest/speckle.py",
        "ingest/speckle_window.py",
        "ingest/terrain.py",
        "ingest/visibility.py",
        "ingest/calibrate.py",
        "pretrain/augment_cpu.py",
        "pretrain/views.py",
        "pretrain/resize.py",
    },
    "boto3": {"infra/s3.py"},
    "botocore": {"infra/s3.py", "infra/s3_errors.py"},
    "pystac": {"ingest/search_stac.py"},
    "pystac_client": {"ingest/search_stac.py"},
    "asf_search": {"ingest/search_asf.py"},
    "transformers": set(),
    "torchvision": set(),
    "webdataset": set(),
}


def imports_of(path: Path) -> set[str]:
    """Every module a file names in an import, lazy ones and importlib calls with a literal too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return found


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


def edges() -> dict[str, set[str]]:
    """File-level import graph inside the project."""
    names = {name_of(path) for path in sources()}
    return {name_of(path): {n for n in imports_of(path) if n in names and n != name_of(path)} for path in sources()}


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    used = {name.split(".")[0] for name in imports_of(path)} & {*PACKAGES, "tests", "benchmarks"}
    assert used <= MAY_IMPORT[package] | {package}


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_heavy_libraries_stay_in_their_rooms(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    for name in imports_of(path):
        rooms = ROOMS.get(name.split(".")[0])
        assert rooms is None or place in rooms or f"{place.split('/')[0]}/*" in rooms, f"{place} imports {name}"


def test_no_file_imports_itself_in_a_circle() -> None:
    graph = edges()
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for below in graph[name]:
                visit(below, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_file_has_grown_too_long() -> None:
    long = {str(p.relative_to(ROOT)): n for p in sources() if (n := p.read_text().count("\n")) > 400}
    assert long == {}


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted({name_of(path.parent / "__init__.py") for path in sources()})


def tracked() -> set[str]:
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name for name in done.stdout.split() if (ROOT / name).exists()}


def test_readme_tree_is_true() -> None:
    """Every file the tree names is there, and every module of the five packages is named."""
    text = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- tree -->\n```\n(.*?)```", text, re.DOTALL)
    assert block, "README has no file tree between <!-- tree --> and the end of its block"
    named: set[str] = set()
    folder = ""
    for line in block[1].splitlines():
        words = line.split("#")[0].split()
        if not line.startswith(" "):
            (folder,) = words
        else:
            named |= {folder + word for word in words}
    files = tracked()
    assert sorted(named - files) == []
    wanted = {f for f in files if f.split("/")[0] in PACKAGES and not f.endswith("__init__.py")}
    assert sorted(wanted - named) == []


def test_every_promise_of_the_readme_names_a_test_that_is_there() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "README.md").read_text())
    assert len(named) >= 17
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / "tests" / file).read_text()]
    assert not missing
