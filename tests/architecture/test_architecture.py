"""The shape of the code: layers, owners of heavy dependencies, sizes, what starts without torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "loopwright"

# A folder imports only from folders above it.
LAYERS = (
    "errors",
    "schemas",
    "kernels",
    "objectives",
    "config",
    "tracking",
    "serving",
    "runtime",
    "data",
    "feedback",
    "models",
    "training",
    "generation",
    "responders",
    "rewards",
    "evaluation",
    "worlds",
    "stages",
    "library",
    "loop",
    "cli",
)

# Folders that may import less than all that is above them.
NARROWER = {
    "feedback": {"errors", "schemas", "config", "tracking", "serving", "feedback"},
    "kernels": {"errors", "kernels"},
    "objectives": {"kernels", "objectives"},
}

OWNERS = {
    "torch": {
        "responders",
        "objectives",
        "runtime",
        "data",
        "kernels",
        "models",
        "training",
        "generation",
        "rewards",
        "evaluation",
        "stages",
        "loop",
        "cli",
    },
    "transformers": {
        "models",
        "data",
        "training",
        "generation",
        "rewards",
        "responders",
        "evaluation",
        "stages",
        "library",
    },
    "tokenizers": {"data"},
    "peft": {"models", "training"},
    "accelerate": {"runtime"},
    "ray": {"runtime"},
    "vllm": {"generation"},
    "safetensors": {"runtime", "models", "training", "stages"},
    "fastapi": {"serving", "feedback"},
    "starlette": {"serving", "feedback", "responders"},
    "uvicorn": {"serving", "feedback"},
    "httpx": {"serving", "rewards", "feedback", "responders"},
    "sqlalchemy": {"feedback"},
    "alembic": {"feedback"},
    "nh3": {"feedback"},
    "markdown_it": {"feedback"},
    "argon2": {"feedback"},
    "matplotlib": {"evaluation"},
    "sklearn": {"evaluation"},
    "jinja2": {"evaluation", "feedback"},
    "tensorboard": {"tracking"},
    "pyarrow": {"data"},
    "ijson": {"data"},
    "ftfy": {"data"},
    "datasketch": {"data"},
    "selectolax": {"data"},
    "typer": {"cli"},
    "rich": {"cli"},
}

WITHOUT_TORCH = ("errors", "schemas", "config", "tracking", "serving", "feedback", "responders", "worlds")
BUT_FOR = (
    "responders/local",  # what the layers above need torch for, in a module that they import when they do
    "feedback/store/migrations/",  # run by Alembic alone
)

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 80

MODULES = sorted(PACKAGE.rglob("*.py"))
SHIPPED = [*MODULES, *sorted((ROOT / "benchmarks").rglob("*.py"))]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _layer(path: Path) -> str | None:
    """The folder of a module; None for the package's own __init__ and __main__."""
    parts = path.relative_to(PACKAGE).parts
    layer = parts[0].removesuffix(".py")
    return None if layer.startswith("__") else layer


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything a module imports, inside functions too."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}:{node.lineno}: write the import out in full"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_every_folder_is_a_layer():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders <= set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_folder_imports_only_from_folders_above_it(path):
    layer = _layer(path)
    if layer is None:
        return
    allowed = NARROWER.get(layer, set(LAYERS[: LAYERS.index(layer) + 1]))
    for line, name in _imports(path):
        parts = name.split(".")
        if parts[0] == "loopwright" and len(parts) > 1 and parts[1] in LAYERS:
            assert parts[1] in allowed, f"{_name(path)}:{line}: {layer} must not import {parts[1]}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_heavy_dependencies_have_owners(path):
    layer = _layer(path)
    for line, name in _imports(path):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or layer in owners, f"{_name(path)}:{line}: {layer} must not import {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "stages").glob("*.py")), ids=_name)
def test_a_stage_never_imports_another_stage(path):
    """A stage may have parts beside it: ppo.py and ppo_prompts.py import each other, and no other stage."""
    for line, name in _imports(path):
        if name.startswith("loopwright.stages."):
            imported = name.split(".")[2]
            own = _stage_of(imported) == _stage_of(path.stem)
            shared = own or imported == "base" or imported.split("_")[0] in ("asked", "sampled", "direct")
            assert shared, (
                f"{_name(path)}:{line}: shared parts of stages live in base.py, asked.py, sampled.py or direct.py"
            )


def _stage_of(module: str) -> str:
    """ppo_prompts -> ppo: the stage that a module of the stages' folder is, or is a part of."""
    stages = (path.stem for path in (PACKAGE / "stages").glob("*.py"))
    return min((stage for stage in stages if f"{module}_".startswith(f"{stage}_")), key=len)


@pytest.mark.parametrize("path", SHIPPED, ids=_name)
def test_modules_and_functions_are_short(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_MODULE_LINES, f"{_name(path)} has {lines} lines; split it"
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef) and "migrations" not in path.parts:  # those list tables
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{_name(path)}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_who_asks_for_an_engine_hears_of_a_slower_one(path):
    """`make_engine(model, tokenizer, say)`: no call of the package leaves `say` out."""
    if not any(name == "loopwright.generation.engines.make_engine" for _, name in _imports(path)):
        return
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "make_engine":
            count = sum(2 if isinstance(one, ast.Starred) else 1 for one in node.args)
            assert count == 3, f"{_name(path)}:{node.lineno}: give make_engine somebody to tell"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_nobody_collects_garbage_or_draws_with_torch_multinomial(path):
    """One stops the whole process, the other is slow on a vocabulary and draws a row by what else is in the batch."""
    imported = {name for _, name in _imports(path)}
    assert "gc" not in imported, f"{_name(path)} imports gc; keep no reference instead"
    if any(name.split(".")[0] == "torch" for name in imported):
        named = {node.attr: node.lineno for node in ast.walk(_tree(path)) if isinstance(node, ast.Attribute)}
        drawn = "torch.multinomial" in imported or "multinomial" in named
        assert not drawn, f"{_name(path)}: draw with generation/sampling.py, from the row's own seed"


def test_no_module_is_called_utils():
    assert not [_name(path) for path in MODULES if re.search(r"(^|_)(utils?|helpers?|common|misc)$", path.stem)]


@pytest.mark.parametrize("layer", WITHOUT_TORCH)
def test_works_without_torch(layer):
    """Every module of the folder is imported in a process where torch cannot be."""
    modules = [
        path
        for path in MODULES
        if _layer(path) == layer and not path.relative_to(PACKAGE).as_posix().startswith(BUT_FOR)
    ]
    _import_without_torch(modules)


def test_what_an_engine_decides_works_without_torch():
    """Which row computes where, and when, beside what computes it."""
    _import_without_torch([PACKAGE / "generation" / "slots.py"])


def _import_without_torch(modules: list[Path]) -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in modules]
    code = "import sys, importlib\nsys.modules['torch'] = None\n"
    code += f"for name in {names!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_line_starts_without_torch():
    code = "import sys\nsys.modules['torch'] = None\nsys.argv = ['loopwright', '--help']\n"
    code += "from loopwright.cli.main import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout


def _stages() -> list[str]:
    from loopwright.loop.table import STAGES

    return list(STAGES)


@pytest.mark.parametrize("stage", _stages())
def test_every_stage_has_a_page_that_names_its_settings(stage):
    from loopwright.loop.table import load_stages

    page = ROOT / "docs" / f"{stage}.md"
    text = page.read_text(encoding="utf-8")
    own = set(load_stages([stage])[stage].config.model_fields) - {"require"} - set(_train_settings())
    own -= set() if stage == "ppo" else set(_policy_settings(load_stages([stage])[stage].config))
    own -= set() if stage == "reward" else set(_reward_settings(load_stages([stage])[stage].config))
    missing = sorted(name for name in own if not re.search(rf"\b{name}\b", text))
    assert not missing, f"{page.name} does not name {', '.join(missing)}"


def _train_settings() -> list[str]:
    """The settings that all training stages share are documented once."""
    try:
        from loopwright.training.config import TrainConfig
    except ImportError:
        return []
    return list(TrainConfig.model_fields)


def _policy_settings(config: type) -> list[str]:
    """Those that PPO's relatives share with it are documented in ppo.md."""
    from loopwright.stages.ppo_config import PolicyConfig

    return list(PolicyConfig.model_fields) if issubclass(config, PolicyConfig) else []


def _reward_settings(config: type) -> list[str]:
    """Those that the reward models of a dataset's parts share with `reward` are documented in reward.md."""
    from loopwright.stages.reward_config import RewardConfig

    return list(RewardConfig.model_fields) if issubclass(config, RewardConfig) else []


def test_every_command_is_documented():
    from typer.main import get_command

    from loopwright.cli.main import app

    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    commands = get_command(app).commands
    names = [name for name in commands if not hasattr(commands[name], "commands")]
    names += [f"{group} {name}" for group in commands for name in getattr(commands[group], "commands", {})]
    assert not [name for name in names if f"loopwright {name}" not in text]


def test_every_setting_of_the_root_is_documented():
    from loopwright.loop.config import RunConfig

    text = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert not [name for name in RunConfig.model_fields if f"`{name}`" not in text]
