"""A user's own functions: how they are found, what is said where they are not, and what a run remembers of them."""

import hashlib
import linecache
import subprocess
import sys

import pytest

from jaxppo import own_code, register
from jaxppo.arguments import PositiveInt
from jaxppo.errors import ConfigError
from jaxppo.own_code import call_of, find
from jaxppo.run.own_record import keep, record, restore

SOURCE = "from my_{0}_other import factor\n\n\ndef scaled(market, *, by: float = factor):\n    return market * by\n"


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """A module of a name of its own, in a folder that Python does not import from, and one that it imports."""
    name = f"my_{''.join(word[0] for word in request.node.name.partition('[')[0].split('_'))}"
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / f"{name}.py").write_text(SOURCE.format(name.removeprefix("my_")))
    (folder / f"{name}_other.py").write_text("factor = 3.0\n")
    monkeypatch.setattr(own_code, "_imported", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder / f"{name}.py"
    for loaded in (name, f"{name}_other"):
        sys.modules.pop(loaded, None)


def test_a_module_is_found_beside_the_configuration_with_what_it_imports(module):
    found = find(f"{module.stem}:scaled", "masks[0]", [module.parent])
    assert found.function(2.0) == 6.0
    assert found.file == module.resolve()
    assert found.sha256 == hashlib.sha256(module.read_bytes()).hexdigest()
    assert found.source.startswith("def scaled(market")
    assert find(f"{module.stem}:scaled", "masks[0]") is found


def test_the_folder_of_the_configuration_comes_before_the_current_one(module, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    (here / module.name).write_text("def scaled(market):\n    return 'here'\n")
    monkeypatch.chdir(here)
    assert find(f"{module.stem}:scaled", "key", [module.parent]).file == module.resolve()
    assert find(f"{module.stem}:scaled", "key").file == module.resolve(), "what is imported stays"
    with pytest.raises(ConfigError, match=f"{here / module.name} has the name of a module that is imported already"):
        find(f"{module.stem}:scaled", "key", [here])
    sys.modules.pop(module.stem)
    assert find(f"{module.stem}:scaled", "key").function(0) == "here"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"key is 'NAME:scaled'; there is no module NAME in .*there, .* or where Python imports from"),
        ("def scale(market): ...", "the module NAME has no function scaled; did you mean NAME:scale\\?"),
        ("scaled = 3", "which is a int; a function is expected"),
        ("import nowhere_at_all", "whose module cannot be imported: No module named 'nowhere_at_all'"),
        ("def scaled(:", r"whose module cannot be imported: SyntaxError: invalid syntax \(NAME.py, line 1\)"),
        ("raise SystemExit(3)", r"whose module cannot be imported: SystemExit: 3 \(line 1 of NAME.py\)"),
        ("\n1 / 0", r"whose module cannot be imported: ZeroDivisionError: division by zero \(line 2 of NAME.py\)"),
    ],
    ids=["no module", "misspelt", "a number", "an import", "syntax", "exits", "fails"],
)
def test_what_is_not_found_is_named(module, source, message):
    module.unlink() if source is None else module.write_text(source)
    with pytest.raises(ConfigError, match=message.replace("NAME", module.stem)) as raised:
        find(f"{module.stem}:scaled", "key", [module.parent])
    assert "\n" not in str(raised.value)


def test_a_module_that_was_changed_after_its_import_is_refused(module):
    find(f"{module.stem}:scaled", "key", [module.parent])
    module.write_text("def scaled(market):\n    return 0\n")
    with pytest.raises(ConfigError, match="was changed after it was imported: start Python anew"):
        find(f"{module.stem}:scaled", "key", [module.parent])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": 1}, "key a:f has no option 'form'; it has span, levels"),
        ({"spam": 1}, "has no option 'spam'; did you mean span\\?"),
        ({"market": 1}, "has no option 'market'"),
        ({"given": 1, "span": 2}, "has no option 'given'"),
        ({}, "needs the option span, which has no default"),
        ({"span": -2}, r"key a:f: span is -2; allowed: whole number in \[1, 1048576\]"),
        ({"span": "2"}, "span is '2'; allowed: whole number"),
    ],
)
def test_options_are_those_of_the_signature(options, message):
    def f(market, given, *, span: PositiveInt, levels=()):
        return market, given, span, levels

    register(f, name="a:f")
    code = find("a:f", "key")
    with pytest.raises(ConfigError, match=message):
        call_of(code, "key", options, given=["given"], first=1)
    call = call_of(code, "key", {"span": 2, "levels": [1, [2]]}, given=["given"], first=1)
    assert call("m", given=0) == ("m", 0, 2, (1, (2,)))
    assert call == call_of(code, "key", {"levels": [1, [2]], "span": 2}, given=["given"], first=1)
    assert hash(call) == hash(call_of(code, "key", {"levels": [1, [2]], "span": 2}, given=["given"], first=1))


def test_a_run_remembers_its_own_code_and_asks_for_it(module, tmp_path, monkeypatch):
    name, run = f"{module.stem}:scaled", tmp_path / "run"
    assert record(["nobody:knows", "jaxppo.policy.rules:flat"]) == {}
    code = find(name, "key", [module.parent])
    recorded = record([name])
    assert recorded[name] == {
        "sha256": code.sha256, "file": str(module.resolve()), "kept": module.name, "source": code.source
    }  # fmt: skip
    keep(run, [name])
    assert (run / "own_code" / module.name).read_bytes() == module.read_bytes()
    restore(run, recorded)

    def forget():
        own_code._imported.clear()
        sys.modules.pop(module.stem, None)

    forget()
    restore(run, recorded)
    assert find(name, "key").file == module.resolve(), "beside where it was"
    forget()
    module.write_text("def scaled(market):\n    return 0\n")
    with pytest.raises(ConfigError) as raised:
        restore(run, recorded)
    assert f"was trained with {name} of SHA-256 {code.sha256[:12]}, but {module.resolve()} has" in str(raised.value)
    assert f"PYTHONPATH={run / 'own_code'}" in str(raised.value)
    assert module.stem not in sys.modules, "another module is not imported"
    forget()
    monkeypatch.syspath_prepend(run / "own_code")
    restore(run, recorded)
    assert find(name, "key").function(2.0) == 6.0, "what was kept, although the file beside the run has changed"
    forget()
    monkeypatch.undo()
    module.unlink()
    with pytest.raises(ConfigError, match=f"its own code is '{name}'; there is no module .*own_code"):
        restore(run, recorded)


def test_a_module_of_a_package_is_kept_with_the_package(tmp_path, monkeypatch):
    package = tmp_path / "kept_package" / "inner"
    package.mkdir(parents=True)
    for place in (package, package.parent):
        (place / "__init__.py").write_text("")
    (package / "parts.py").write_text("def one():\n    return 1\n")
    name = "kept_package.inner.parts:one"
    monkeypatch.setattr(own_code, "_imported", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    find(name, "key", [tmp_path])
    recorded = record([name])
    keep(tmp_path / "run", [name])
    kept = tmp_path / "run" / "own_code"
    assert (kept / "kept_package" / "inner" / "parts.py").exists()
    program = f"import {name.partition(':')[0]} as m; print(m.one(), m.__file__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=kept, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 ")
    restore(tmp_path / "run", recorded)
    for loaded in [one for one in sys.modules if one.startswith("kept_package")]:
        del sys.modules[loaded]


def test_what_no_module_has_is_registered_and_asked_for(tmp_path, monkeypatch):
    """As in a notebook: Python knows the lines of a cell, but there is no file."""
    monkeypatch.setattr(own_code, "_registered", {})

    def cell(source):
        monkeypatch.setitem(linecache.cache, "<cell>", (len(source), None, source.splitlines(True), "<cell>"))
        names = {"__name__": "notebook"}
        exec(compile(source, "<cell>", "exec"), names)
        return names["inner"]

    source = "def inner(market):\n    return market\n"
    register(cell(source))
    recorded = record(["notebook:inner"])
    assert recorded["notebook:inner"]["file"] is None
    keep(tmp_path, ["notebook:inner"])
    assert (tmp_path / "own_code" / "notebook.inner.py").read_text() == source
    restore(tmp_path, recorded)
    own_code._registered.clear()
    with pytest.raises(
        ConfigError, match=r"own_code/notebook.inner.py: define it, with @jaxppo.register\(name='notebook:inner"
    ):
        restore(tmp_path, recorded)
    register(cell(source.replace("return market", "return 0")))
    with pytest.raises(
        ConfigError, match=r"but the one that is registered has \w{12}; .*its source is .*notebook.inner.py"
    ):
        restore(tmp_path, recorded)
    register(cell(source))
    restore(tmp_path, recorded)
    linecache.cache.pop("<cell>")
    with pytest.raises(ConfigError, match="notebook:inner: Python does not know its source; define it in a file"):
        register(eval("lambda market: market", {"__name__": "nowhere"}), name="notebook:inner")


def test_nothing_is_imported_from_the_folder_of_a_run_or_of_python_itself(module, tmp_path):
    """Whoever wrote the folder wrote the hashes as well."""
    run = tmp_path / "elsewhere" / "run"
    run.mkdir(parents=True)
    evil = run / "evil_of_a_run.py"
    evil.write_text("raise SystemExit('imported')\n")
    about = {"sha256": own_code.sha256_of(evil), "file": str(evil), "kept": evil.name, "source": ""}
    for path in (str(evil), "evil_of_a_run.py", "../evil_of_a_run.py"):
        with pytest.raises(ConfigError, match="there is no module evil_of_a_run"):
            restore(run, {"evil_of_a_run:f": {**about, "file": path}})
    with pytest.raises(ConfigError, match="key is 'os:system', of Python itself"):
        find("os:system", "key")


def test_a_function_is_named_where_it_is_defined(module):
    """Its hash is that of the module that is named."""
    other = module.with_name(f"{module.stem}_other.py")
    other.write_text("def same(market):\n    return market\n")
    module.write_text(f"from {other.stem} import same\n")
    with pytest.raises(ConfigError, match=f"which is a function of {other.stem}; name that: {other.stem}:same"):
        find(f"{module.stem}:same", "key", [module.parent])
