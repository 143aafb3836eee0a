"""The Dockerfiles as text: instructions, and the files that they copy. No test builds an image."""

import re

from folders import ROOT

FILES = sorted((ROOT / "docker").glob("Dockerfile.*"))


def instructions(path):
    """`(name, rest)` of every instruction, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line]


def copied(path):
    """Sources in the repository, with where each of them goes."""
    found = []
    for name, rest in instructions(path):
        if name == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            found += [(source, source if target == "./" else target) for source in sources]
    return found
