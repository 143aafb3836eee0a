"""Tests of the documentation as text: links and anchors exist, Python blocks compile, lines are short."""

import pathlib
import re
import textwrap

import pytest

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
