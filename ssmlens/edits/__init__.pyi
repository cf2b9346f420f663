from .ablate import Ablate as Ablate
from .add import Add as Add
from .apply import Apply as Apply
from .edit import Edit as Edit
from .knock_out import KnockOut as KnockOut
from .scale import Scale as Scale
from .set import Set as Set
from .swap import Swap as Swap

__all__: list[str]
