"""The wheel builds, installs into an empty environment with the run-time dependencies alone, imports and runs."""

import os
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def closure(wheel_requires: list[str]) -> list[metadata.Distribution]:
    """The installed distributions that these requirements need, without any extra that they do not name."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [Requirement(text) for text in wheel_requires]
    while waiting:
        requirement = waiting.pop()
        extras = [*requirement.extras, ""]
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        found[name] = metadata.distribution(requirement.name)
        needed = [Requirement(text) for text in found[name].requires or []]
        waiting += [r for r in needed if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]
    return list(found.values())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    run(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", out, ROOT, cwd=out)
    (built,) = out.glob("tnkit-*.whl")
    return built


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and links to the run-time dependencies installed here."""
    home = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    requires = [
        line.removeprefix("Requires-Dist: ")
        for line in metadata_text(wheel).splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    for distribution in closure(requires):
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(str(distribution.locate_file(top)))
            if not (site / top).exists():
                (site / top).symlink_to(source)
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=home)
    return python


def metadata_text(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()


def test_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "tnkit/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "tnkit").rglob("*.py")}
    assert sources <= set(names)
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"tnkit"}


def test_imports_without_extras(bare_python: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, tnkit; print(tnkit.__file__, [m for m in ('tensorly', 'quimb') if u.find_spec(m)])"
    )
    printed = run(bare_python, "-W", "error", "-c", code, cwd=tmp_path)
    assert "site-packages" in printed
    assert printed.strip().endswith("[]")


def test_decomposes_without_extras(bare_python: Path, tmp_path: Path) -> None:
    code = "import numpy as np, tnkit as tk; print(tk.decompose(np.ones((4, 5, 6)), 'tt', eps=1e-6).rel_error < 1e-6)"
    assert run(bare_python, "-c", code, cwd=tmp_path).strip() == "True"


def test_command_line_runs_without_extras(bare_python: Path, tmp_path: Path) -> None:
    assert "decompose" in run(bare_python.parent / "tnkit", "--help", cwd=tmp_path)
