"""Where the repository is, and the real prices beside it, which only some machines have."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
