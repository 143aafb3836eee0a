"""Hooks of the site: what lies in the repository outside of `docs/`, and a page for each package in the navigation.

A link of a page to a file outside of `docs/` works on the site as it does in the repository: what it leads to is
copied into the site, under `repository/`. That holds for the links of copied pages as well.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[2]
DOCS, COPIES, PACKAGES = "docs", "repository", "reference/python"
INDEX = "index.md"
GENERATED_BOOST, ASKED_BOOST = 0.2, 10.0
"""Weights in the search, others have 1: of what is copied or generated, and of the pages that answer what is asked
most by the table of the start page."""
FENCE = re.compile(r"^([ \t]*)```([^\n]*)\n.*?^\1```", re.M | re.S)
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def on_files(files, config):
    """Adds what pages link to outside of `docs/`, and what those link to; and the pages of packages."""
    waiting = [_place(file) for file in files.documentation_pages()]
    known = set(waiting)
    while waiting:
        place = waiting.pop()
        for target in _targets(place):
            if target not in known and not target.startswith(f"{DOCS}/"):
                known.add(target)
                files.append(_copy(config, target))
                waiting += [target] if target.endswith(".md") or (ROOT / target).is_dir() else []
    for page in _pages(config["nav"]):
        if page.startswith(f"{PACKAGES}/"):
            package = page.removeprefix(f"{PACKAGES}/").removesuffix(".md")
            files.append(File.generated(config, page, content=f"# {package}\n\n::: {package}\n"))
    return files


def on_page_markdown(markdown, page, config, files):
    """Points links at the copies, leaves out words behind the language of a block, and weighs pages for the search."""
    page.meta["search"] = {"boost": _boost(page.file.src_uri)}

    def lead(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), match[2]))
        there = target.removeprefix(f"{DOCS}/") if target.startswith(f"{DOCS}/") else f"{COPIES}/{target}"
        there += f"/{INDEX}" if (ROOT / target).is_dir() else ""
        return f"{match[1]}{posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or '.')}{match[3]}"

    place, parts, end = _place(page.file), [], 0
    for block in FENCE.finditer(markdown):
        parts += [LINK.sub(lead, markdown[end : block.start()]), block[0].replace("```python fragment", "```python", 1)]
        end = block.end()
    return "".join([*parts, LINK.sub(lead, markdown[end:])])


def _copy(config, place):
    """What lies there, as a file of the site; of a folder, a page that lists its files."""
    if not (ROOT / place).is_dir():
        return File.generated(config, f"{COPIES}/{place}", abs_src_path=str(ROOT / place))
    listed = "\n".join(f"- [{name}]({name})" for name in _names(place))
    return File.generated(config, f"{COPIES}/{place}/{INDEX}", content=f"# {place}\n\n{listed}\n")


def _names(folder):
    """Names of the files of a folder, in order."""
    return sorted(path.name for path in (ROOT / folder).iterdir() if path.is_file())


def _pages(nav):
    """All pages of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in _pages(part)]


def _boost(uri):
    """Weight of a page in the search."""
    if uri.startswith((f"{PACKAGES}/", f"{COPIES}/")):
        return GENERATED_BOOST
    start = (ROOT / DOCS / "index.md").read_text(encoding="utf-8")
    asked = LINK.findall(start.partition("## Asked most")[2].partition("\n## ")[0])
    return ASKED_BOOST if uri in [target for _, target, _ in asked] else 1.0


def _place(file):
    """Where the source of a page lies in the repository."""
    copied = file.src_uri.startswith(f"{COPIES}/")
    return file.src_uri.removeprefix(f"{COPIES}/") if copied else f"{DOCS}/{file.src_uri}"


def _targets(place):
    """What a page links to, or the files of a folder, from the root of the repository."""
    if (ROOT / place).is_dir():
        return [f"{place}/{name}" for name in _names(place)]
    text = FENCE.sub("", (ROOT / place).read_text(encoding="utf-8"))
    return [posixpath.normpath(posixpath.join(posixpath.dirname(place), match[2])) for match in LINK.finditer(text)]
