"""The order of the floors, the public names, and what start-up may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import latentcast

ROOT = Path(latentcast.__file__).parent

# Folders and top-level modules, from the ground up; those on one floor know nothing of each other.
FLOORS = [
    {"errors"},
    {"link", "diffusion"},
    {"codec"},
    {"scenario"},  # its bit levels are the codec's
    {"policy"},
    {"delivery"},
    {"study", "live"},
    {"cli", "__main__", "__init__"},
]
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}
TOP = len(FLOORS) - 1
HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "scipy.stats",
    "matplotlib",
    "starlette",
    "uvicorn",
    "onnxruntime",
)


def modules() -> dict[str, Path]:
    """Every module of the package by its name below `latentcast`, packages as `folder.__init__`."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))
    }


def imports(name: str, path: Path) -> set[str]:
    """The modules of the package that a file imports anywhere in it, also inside functions."""
    known = modules()
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import; write the full name"
            assert node.module is not None
            # A name may be a module of the package or something inside the module.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in names:
            if full.split(".")[0] != "latentcast":
                continue
            parts = full.split(".")[1:]
            while parts and ".".join(parts) not in known and ".".join([*parts, "__init__"]) not in known:
                parts.pop()
            module = ".".join(parts)
            found.add(module if module in known else ".".join([*parts, "__init__"]))
    return found - {name}


def floor_of(module: str) -> int:
    return FLOOR_OF[module.split(".")[0]]


def test_every_file_has_a_floor() -> None:
    assert {name.split(".")[0] for name in modules()} <= set(FLOOR_OF)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_downward(name: str) -> None:
    for other in imports(name, modules()[name]):
        same_folder = name.split(".")[0] == other.split(".")[0]
        on_top = floor_of(name) == floor_of(other) == TOP
        assert same_folder or on_top or floor_of(other) < floor_of(name), f"{name} must not import {other}"


def test_there_is_no_circle() -> None:
    graph = {name: imports(name, path) for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_check_sees_a_violation(tmp_path: Path) -> None:
    # A check that cannot fail is worth nothing: every way to write an import is found.
    lines = {
        "import latentcast.study.sheet.page": "study.sheet.page",
        "from latentcast.study.sheet import page": "study.sheet.page",
        "from latentcast.study.sheet.page import Page": "study.sheet.page",
        "def f():\n    from latentcast.link.rayleigh import RayleighLink": "link.rayleigh",
        "from latentcast.codec import lloyd_max": "codec.__init__",
        "from latentcast import Scenario": "__init__",
    }
    for line, module in lines.items():
        file = tmp_path / "file.py"
        file.write_text(line)
        assert imports("diffusion.path", file) == {module}
        assert floor_of(module) >= floor_of("diffusion.path")


def test_public_names() -> None:
    names = [
        "FinalOnlyPolicy",
        "GaussianSource",
        "LatentcastError",
        "LookaheadPolicy",
        "ModelError",
        "NoisePath",
        "Observation",
        "OutputError",
        "PacketError",
        "ParameterError",
        "PersistentPolicy",
        "RayleighLink",
        "Receiver",
        "Scenario",
        "Sender",
        "Step",
        "StepCallback",
        "Timeline",
        "Trajectory",
        "Transmit",
        "Wait",
        "deliver",
        "latency_quantile",
        "lloyd_max",
        "load_pipeline",
        "model_level",
        "shared_noise",
        "waterfill",
    ]
    assert latentcast.__all__ == sorted(latentcast.__all__) == names
    for name in names:
        assert getattr(latentcast, name).__name__ == name
        assert name in dir(latentcast)
    with pytest.raises(AttributeError, match="no attribute 'Scenery'"):
        _ = latentcast.Scenery


def loaded_by(program: str) -> set[str]:
    """Heavy packages in memory after a program."""
    ending = f"\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program + ending], capture_output=True, text=True, check=True
    )
    return set(ast.literal_eval(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "program",
    [
        "import latentcast",
        "import latentcast\nfor name in latentcast.__all__: getattr(latentcast, name)",
        "import latentcast\n"
        "s = latentcast.Scenario.paper(snr_db=0.0)\n"
        "latentcast.model_level(s, latentcast.LookaheadPolicy(s), 2, 0)",
    ],
)
def test_start_up_loads_nothing_heavy(program: str) -> None:
    assert loaded_by(program) == set()


@pytest.mark.parametrize("command", [[], ["deliver"], ["model", "fit"], ["study", "run"], ["serve"]])
def test_help_loads_what_parses_and_nothing_else(command: list[str]) -> None:
    # Not even numpy: what help costs is the parser's.
    ours = {
        "latentcast",
        "latentcast.errors",
        "latentcast.cli",
        *(f"latentcast.cli.{name}" for name in ("arguments", "live_arguments", "options")),
    }
    program = (
        f"import sys\nfrom latentcast.cli import run\nassert run({[*command, '--help']!r}) == 0\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('latentcast', 'numpy')])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(ast.literal_eval(result.stdout.splitlines()[-1])) == ours
