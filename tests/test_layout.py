"""The size of files and functions, and that the tests lie where the code does."""

import ast
import pathlib

from folders import ROOT

MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 400, 80, 8
PACKAGES = ("jaxppo", "envs", "scripts")

KEYS = "its arguments are the keys of a configuration, by name"
SYMBOLS = "its arguments are the symbols of its model, by name"
TABLES = "what a market and an account are, once and by name"
MANY_PARAMETERS = {
    "envs/data/load.py load_market": KEYS,
    "envs/execution/costs.py make_costs": KEYS,
    "envs/trading/environment.py TradingEnv.__init__": KEYS,
    "jaxppo/masks/account.py risk_budget": KEYS,
    "envs/reference/garleanu_pedersen.py GarleanuPedersen.__init__": SYMBOLS,
    "envs/reference/merton.py Merton.__init__": SYMBOLS,
    "envs/reference/predictable_premium.py KimOmberg.__init__": SYMBOLS,
    "envs/simulators/paths.py stochastic_volatility_jumps": SYMBOLS,
    "envs/trading/environment.py TradingEnv.make_params": TABLES,
    "jaxppo/backtest/front_door.py simulate": TABLES,
    "jaxppo/monte_carlo/engine.py Paths.__init__": TABLES,
}
"""Functions with more parameters, and why; at most eleven."""


def sources():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not (package == "jaxppo" and path.is_relative_to(ROOT / "jaxppo" / "envs")):
                yield path.relative_to(ROOT), path.read_text()


def functions(tree, prefix=""):
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name, node
        inner = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix
        yield from functions(node, inner)


def n_parameters(function):
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([argument for argument in given if argument.arg not in ("self", "cls")])


def test_no_file_is_long():
    long = {str(path): lines for path, text in sources() if (lines := len(text.splitlines())) > MOST_LINES}
    assert not long


def test_no_function_is_long_or_takes_many_arguments():
    long, many = {}, {}
    for path, text in sources():
        for name, function in functions(ast.parse(text)):
            lines = function.end_lineno - function.lineno + 1
            if lines > MOST_FUNCTION_LINES:
                long[f"{path} {name}"] = lines
            if n_parameters(function) > MOST_PARAMETERS:
                many[f"{path} {name}"] = n_parameters(function)
    assert not long
    assert set(many) == set(MANY_PARAMETERS)
    assert len(MANY_PARAMETERS) <= 11


def test_tests_mirror_the_packages():
    for side in ("envs", "jaxppo"):
        for folder in (ROOT / "tests" / side).rglob("*"):
            if folder.is_dir() and folder.name != "__pycache__":
                place = pathlib.Path(side) / folder.relative_to(ROOT / "tests" / side)
                assert (ROOT / place / "__init__.py").exists(), f"{folder} has no package {place} beside it"


def test_no_name_of_a_lazy_package_is_a_module_of_other_content():
    """Importing the module would put it in the place of what the package says that it exports."""
    for stub in (ROOT / "jaxppo").rglob("__init__.pyi"):
        froms = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom) and node.module]
        for node in froms:
            modules = [name.name for name in node.names if (stub.parent / f"{name.name}.py").exists()]
            assert all(name == node.module for name in modules), f"{stub}: {modules}"
