"""Python and the packages: whether they are in the ranges that jaxppo states, and agree with each other."""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from jaxppo.cli.checks.finding import Finding

NAME = "jaxppo"
PLUGINS = re.compile(r"jax[-_](cuda|rocm)\d*[-_](plugin|pjrt)")
"""Names of packages by which JAX runs on GPUs."""
MOST_NAMED = 3


def check_installation() -> Iterator[Finding]:
    """Checks this Python, the packages that jaxppo needs, and those of JAX."""
    about = importlib.metadata.metadata(NAME)
    yield Finding("ok", NAME, f"{about['Version']} in {pathlib.Path(__file__).parents[2]}")
    tested = [line.rpartition(" ")[2] for line in about.get_all("Classifier") or () if re.search(r":: 3\.\d+$", line)]
    yield check_python(sys.version_info[:3], about["Requires-Python"], tested)
    try:
        import packaging  # noqa: F401
    except ImportError:
        yield Finding("fix", "packages", "packaging is not installed: pip install packaging")
        return
    yield check_packages(importlib.metadata.requires(NAME) or (), version_of)
    yield check_jax(version_of, importlib.metadata.requires, installed_plugins())


def version_of(package: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_plugins() -> dict[str, str]:
    """Name and version of the packages by which JAX runs on GPUs."""
    names = ((found.metadata["Name"] or "", found.version) for found in importlib.metadata.distributions())
    return {name: version for name, version in sorted(names) if PLUGINS.fullmatch(name.lower())}


def check_python(version: Sequence[int], required: str, tested: Sequence[str]) -> Finding:
    """Checks the version of Python.

    Args:
      version: of this Python, three numbers.
      required: as the package states it, such as `>=3.11`.
      tested: versions that tests run on, such as `3.12`; may be empty.
    """
    text = ".".join(map(str, version))
    least = tuple(int(part) for part in re.findall(r"\d+", required))
    if tuple(version[: len(least)]) < least:
        return Finding("fix", "Python", f"{text}; jaxppo needs {required}: make an environment with another Python")
    if tested and ".".join(map(str, version[:2])) not in tested:
        return Finding("warn", "Python", f"{text}; tests run on {tested[0]} to {tested[-1]}: prefer one of these")
    return Finding("ok", "Python", text)


def check_packages(requirements: Iterable[str], version_of: Callable[[str], str | None]) -> Finding:
    """Checks that all packages are there, each in its range.

    Args:
      requirements: such as `numpy<3,>=2.0`; those of extras are passed over.
      version_of: a package -> its installed version, or None.
    """
    from packaging.requirements import Requirement

    wrong, parsed = [], [Requirement(line) for line in requirements]
    needed = [each for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})]
    for each in needed:
        found = version_of(each.name)
        if found is None:
            wrong.append(f"{each} is not installed")
        elif not each.specifier.contains(found, prereleases=True):
            wrong.append(f"{each} is needed, {found} is installed")
    if not wrong:
        return Finding("ok", "packages", f"all {len(needed)} are in their ranges")
    more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
    return Finding("fix", "packages", f"{'; '.join(wrong[:MOST_NAMED])}{more}: pip install --upgrade {NAME}")


def check_jax(
    version_of: Callable[[str], str | None],
    requires: Callable[[str], Sequence[str] | None],
    plugins: Mapping[str, str],
) -> Finding:
    """Checks that jax, jaxlib and the plugins for GPUs belong together.

    Args:
      version_of: a package -> its installed version, or None.
      requires: a package -> its requirements.
      plugins: name -> version; those for CUDA must have that of jaxlib.
    """
    jax, jaxlib = version_of("jax"), version_of("jaxlib")
    if jax is None or jaxlib is None:
        return Finding("fix", "jax", f"{'jax' if jax is None else 'jaxlib'} is not installed: pip install {NAME}")
    text = ", ".join([f"jax {jax}", f"jaxlib {jaxlib}", *(f"{name} {found}" for name, found in plugins.items())])
    ours = [line for line in requires("jax") or () if re.match(r"jaxlib\b", line)]
    if check_packages(ours, version_of).level != "ok":
        return Finding("fix", "jax", f"{text}; jax {jax} needs another jaxlib: pip install --upgrade jax=={jax} jaxlib")
    for name, found in plugins.items():
        if "cuda" in name and found != jaxlib:
            return Finding(
                "fix", "jax", f"{text}; {name} must be {jaxlib}, or JAX leaves it out: pip install {name}=={jaxlib}"
            )
    return Finding("ok", "jax", text)
