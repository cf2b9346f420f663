from .header import CaptureHeader as CaptureHeader
from .integrity import verify as verify
from .layer import Layer as Layer
from .packing import pack as pack
from .reader import Capture as Capture
from .reader import open_capture as open_capture
from .writer import CaptureWriter as CaptureWriter

__all__: list[str]
