"""ssmlens: see what Mamba layers attend to, with a check of every layer.

>>> model = ssmlens.load_model("copy-mamba1-mimetic")
>>> with ssmlens.recording(model) as rec:
...     model(input_ids)
>>> rec[3].operands, rec[3].closure_error
>>> cap = ssmlens.capture(model, prompts, out="run.h5")
>>> ssmlens.rank_layers(cap)
>>> ssmlens.attribute(model, "abcd|abc")
>>> ssmlens.plot.map(cap.layer(3))

The public names are listed once, in `__init__.pyi`. Each is imported when first used, so that `import ssmlens` costs
nothing.
"""

import importlib.util
import sys

import lazy_loader

if sys.platform == "win32":
    raise ImportError(
        "ssmlens runs on Linux and macOS only: on Windows, install it inside WSL (the Windows "
        "Subsystem for Linux)"
    )

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Without plotly, `from ssmlens import *` leaves the figures out.
if importlib.util.find_spec("plotly") is None:
    __all__[:] = [name for name in __all__ if name not in ("Report", "plot", "report")]
