"""PPO trading agents, trained, validated and shipped in JAX.

What is exported stands in `__init__.pyi`; it is imported when it is first used, so that `import jaxppo` is quick.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
