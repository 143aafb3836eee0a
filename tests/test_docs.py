"""Tests of the documentation: links exist, Python blocks compile, commands are understood, and the site is built."""

import argparse
import itertools
import json
import pathlib
import re
import shlex
import textwrap

import pytest
import yaml

from jaxppo.cli.command import OneLineParser
from jaxppo.cli.keys import all_keys
from jaxppo.cli.main import COMMANDS, main
from jaxppo.config.shipped import shipped

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT)
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"]
)
GENERATED = pathlib.Path("docs", "reference", "config.md")
WIDTH, README_LINES = 100, 100
FENCE = re.compile(r"^([ \t]*)```([^\n]*)\n(.*?)^\1```", re.M | re.S)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.M)


def prose(page):
    """The page without its code blocks."""
    return FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))


def anchors(text):
    """What GitHub makes of the headings: lower case, no punctuation, spaces as hyphens, repeats numbered."""
    found = []
    for heading in HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        again = sum(other == name or re.fullmatch(re.escape(name) + r"-\d+", other) is not None for other in found)
        found.append(f"{name}-{again}" if again else name)
    return found


def python_blocks():
    """Every `python` block as a test parameter, named by page and line; `python fragment` marks a part of a file."""
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[2].strip() == "python":
                line = text[: match.start()].count("\n") + 1
                yield pytest.param(textwrap.dedent(match[3]), id=f"{page}:{line}")


def command_lines():
    """Every command of ours in a `bash` block as a test parameter, `[command, *arguments]`, named by page and line."""
    names = {command.name for command in COMMANDS}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[2].strip() != "bash":
                continue
            first = text[: match.start(3)].count("\n") + 1
            for start, line in joined(match[3]):
                for words in one_by_one(shlex.split(line, comments=True)):
                    for i, (word, after) in enumerate(zip(words, [*words[1:], ""], strict=True)):
                        script = re.fullmatch(r"scripts/(\w+)\.py", word)
                        if script and words[i - 1] == "python":
                            found = [script[1].replace("_", "-"), *words[i + 1 :]]
                        elif word == "jaxppo" and (after in names or after.startswith("-")):
                            found = words[i + 1 :]
                        else:
                            continue
                        yield pytest.param(found, id=f"{page}:{first + start}")
                        break


def one_by_one(words):
    """The commands of a line, which `&&` stands between."""
    return [list(part) for between, part in itertools.groupby(words, "&&".__eq__) if not between]


def joined(block):
    """`(number, line)` of a block of commands, lines that go on in the next one put together."""
    begun = None
    for number, line in enumerate(block.splitlines()):
        start, line = (number, line) if begun is None else (begun[0], begun[1] + line.strip())
        begun = (start, line.removesuffix("\\")) if line.endswith("\\") else None
        if begun is None:
            yield start, line


@pytest.fixture
def parse(monkeypatch, capsys):
    """Has our parser take a command line; returns the options that it left for the configuration."""
    left = []
    parse_known = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self, args=None, namespace=None):
        known, rest = parse_known(self, args, namespace)
        if " " in self.prog.removeprefix("jaxppo "):  # the verb of a command: its own parser goes on
            return known, rest
        left.extend(rest)
        raise KeyboardInterrupt  # understood; nothing is run

    def parse_args(self, args=None, namespace=None):
        rest = parse_known(self, args, namespace)[1]
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        raise KeyboardInterrupt

    monkeypatch.setattr(OneLineParser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(OneLineParser, "parse_args", parse_args)

    def run(words):
        try:
            code = main(words)
        except SystemExit as end:  # of --help
            code = end.code
        shown = capsys.readouterr()
        assert code in (0, 130), shown.err
        return list(left)

    return run


def keys_of(options):
    """The keys that options of a configuration name; what stands between them is their values."""
    return [word.partition("=")[0][2:].replace("-", "_") for word in options if word.startswith("--")]


@pytest.mark.parametrize("words", list(command_lines()))
def test_commands_are_understood(parse, words):
    options = parse(words)
    assert not options or options[0].startswith("--"), options
    for key in keys_of(options):
        assert key in all_keys(), f"no key {key}"
    if "--config" in words:
        name = words[words.index("--config") + 1]
        assert name in shipped() or name == "my.yaml" or (ROOT / name).is_file(), name


def test_there_are_commands_of_every_kind_and_wrong_ones_are_found(parse):
    said = [parameter.values[0] for parameter in command_lines()]
    assert {command.name for command in COMMANDS} <= {words[0] for words in said}
    assert keys_of(parse(["train", "--config", "quickstart", "--ppo.gama", "1"])) == ["ppo.gama"]
    assert "ppo.gama" not in all_keys()
    for wrong in (["trian"], ["export", "--runs", "runs/first"], ["models", "promote", "trend", "0.1.0", "--too", "x"]):
        with pytest.raises(AssertionError, match="error: "):
            parse(wrong)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_and_anchors_exist(page):
    text = prose(page)
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), f"{page}: {target}: no such file"
        if anchor:
            assert file.suffix == ".md", f"{page}: {target}: only pages have anchors"
            known = anchors(FENCE.sub("", file.read_text(encoding="utf-8")))
            assert anchor in known, f"{page}: {target}: no such heading"


@pytest.mark.parametrize("code", list(python_blocks()))
def test_python_blocks_compile(code):
    compile(code, "block", "exec")


@pytest.mark.parametrize("page", [page for page in PAGES if page != GENERATED], ids=str)
def test_lines_are_short(page):
    for line in prose(page).splitlines():
        unbroken = line.lstrip().startswith("|") or "](" in line or "://" in line
        assert len(line) <= WIDTH or unbroken, f"{page}: a line of {len(line)} characters: {line[:60]}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_and_code_work_from_a_wheel(page):
    """It has neither scripts/ nor configs/; the two commands of the README that CI runs are those of a checkout."""
    for match in FENCE.finditer((ROOT / page).read_text(encoding="utf-8")):
        if match[2].strip() in ("bash", "python"):
            lines = [line for line in match[3].splitlines() if not line.endswith("# command")]
            assert not re.search(r"python scripts/|load_config\(\"configs/", "\n".join(lines)), page


def test_the_readme_fits_two_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_every_page_is_reached_from_the_index():
    docs = ROOT / "docs"
    reached, waiting = set(), [docs / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.is_relative_to(docs):
            continue
        reached.add(page)
        links = (target.partition("#")[0] for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))))
        waiting += [(page.parent / name).resolve() for name in links if name and "://" not in name]
    assert sorted(docs.rglob("*.md")) == sorted(reached)


def navigation(part):
    """Files that (a part of) the navigation of the site names."""
    if isinstance(part, str):
        return [part]
    return [page for inner in (part.values() if isinstance(part, dict) else part) for page in navigation(inner)]


def test_the_navigation_has_every_page_and_every_package():
    pages = navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert len(pages) == len(set(pages))
    ours = {str(path.relative_to(ROOT / "docs").as_posix()) for path in (ROOT / "docs").rglob("*.md")}
    generated = set(pages) - ours
    assert ours <= set(pages)
    packages = {page.removeprefix("reference/python/").removesuffix(".md") for page in generated if "/python/" in page}
    copies = {page.removeprefix("repository/") for page in generated if page.startswith("repository/")}
    assert len(packages) + len(copies) == len(generated)
    places = [ROOT / name for name in copies]
    assert all(place.is_file() or (place.name == "index.md" and place.parent.is_dir()) for place in places)
    places = [ROOT.joinpath(*name.split(".")) for name in packages]
    assert all((place / "__init__.py").is_file() or place.with_suffix(".py").is_file() for place in places)
    named = re.findall(r"`(jaxppo[.\w]*)`", (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8"))
    assert set(named) <= packages | {"jaxppo.report"}, "a package of the reference has no page"


def asked():
    """Question -> page that answers it, as the start page has them."""
    table = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").partition("## Asked most")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| (How .*\?) \| \[[^\]]*\]\(([^)]*)\) \|$", table, re.M))


def test_the_site_is_built_without_a_warning_and_answers_what_is_asked_most(tmp_path):
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason="the docs extra is not installed: pip install 'jaxppo[docs]'")
    from mkdocs.__main__ import cli

    command = ["build", "--strict", "--quiet", "--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(tmp_path)]
    cli(command, standalone_mode=False)
    found = {
        page["location"]: page["text"]
        for page in json.loads((tmp_path / "search/search_index.json").read_text())["docs"]
    }
    start = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert len(asked()) >= 10
    for question, page in asked().items():
        file, _, anchor = page.partition("#")
        place = file.removesuffix(".md") + "/" + (f"#{anchor}" if anchor else "")
        assert f'href="{place}"' in start, question
        assert place in found, question
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?:[^\" >]*)", page.read_text(encoding="utf-8")
        )
        assert not loaded, f"{page} loads {loaded}"
    assert (tmp_path / "repository" / "configs" / "quickstart.yaml").is_file()
    assert "load_market" in (tmp_path / "reference/python/jaxppo.envs/index.html").read_text(encoding="utf-8")
