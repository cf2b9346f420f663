# The public names by subject: the one list. `__init__.py` reads it when it is imported, editors and type checkers too.
# ruff: noqa: I001

# Models, and records of one forward
from .adapters.load import load_model as load_model
from .recorder.layer_record import LayerRecord as LayerRecord
from .recorder.recording import Recording as Recording
from .recorder.recording import recording as recording

# Maps of operands
from .scan.hidden_attention import attention_map as attention_map
from .scan.hidden_attention import attention_map_and_mask as attention_map_and_mask
from .scan.hidden_attention import attention_mask as attention_mask
from .scan.hidden_attention import channel_agreement as channel_agreement
from .scan.hidden_attention import channel_maps as channel_maps
from .scan.hidden_attention import erase_map as erase_map
from .scan.operator import Operator as Operator
from .scan.operators.decay_scan import ScanOperands as ScanOperands
from .scan.selective_scan import selective_scan as selective_scan

# Captures: files of what the layers of a model attend to
from .recorder.capture import capture as capture
from .recorder.prompts import Prompts as Prompts
from .store.integrity import verify as verify
from .store.layer import Layer as Layer
from .store.packing import pack as pack
from .store.reader import Capture as Capture
from .store.reader import open_capture as open_capture

# Scores and figures
from . import plot as plot
from . import scores as scores
from .plot.report_page import Report as Report
from .plot.report_page import report as report
from .scores.heads import rank_heads as rank_heads
from .scores.order import rank_layers as rank_layers
from .scores.ranking import Ranking as Ranking

# Edits, their effects, and attributions of logits
from . import edits as edits
from .attribution.logit import attribute as attribute
from .edits.context import editing as editing
from .effect.effects import effects as effects
from .effect.probe import Probe as Probe
from .effect.probe import probe as probe

# Training, and runs on disk
from .inits.mimetic import mimetic_ as mimetic_
from .inits.transplant import transplant_ as transplant_
from .runs.compare import Comparison as Comparison
from .runs.compare import compare as compare
from .runs.run import Run as Run
from .runs.run import find_runs as find_runs
from .runs.run import open_run as open_run
from .training.config import TrainConfig as TrainConfig
from .training.loop import train as train
from .training.sweep import sweep as sweep
from .training.transplant import Transplants as Transplants
from .training.transplant import transplant as transplant

# Families of your own
from .adapters.adapter import Adapter as Adapter
from .adapters.adapter import register as register

# What can go wrong
from . import errors as errors
from .errors import BusyError as BusyError
from .errors import CaptureFileError as CaptureFileError
from .errors import ClosureError as ClosureError
from .errors import MissingExtraError as MissingExtraError
from .errors import OpenFilesError as OpenFilesError
from .errors import RunFileError as RunFileError
from .errors import SsmlensError as SsmlensError
from .errors import UnsupportedModelError as UnsupportedModelError
from .errors import UsageError as UsageError

__version__: str
__all__: list[str]
