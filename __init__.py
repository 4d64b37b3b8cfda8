"""`import nprobot` in the folder that holds a clone of that name finds the package, not the clone.

Python takes a folder `nprobot` on its path for a package without contents before it asks an
editable installation. With this file it finds the parts of the package where the clone has them.
"""

from pathlib import Path

_CLONE = Path(__file__).resolve().parent
__file__ = str(_CLONE / "nprobot" / "__init__.py")
__path__ = [str(_CLONE / "nprobot"), str(_CLONE)]
exec(compile(Path(__file__).read_text(encoding="utf-8"), __file__, "exec"))
