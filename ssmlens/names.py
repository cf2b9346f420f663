"""The vocabulary: one word for each axis and each array, the same in tensors, files and figures.

This module imports nothing, so that every other module can import it.

FAQ: which Δ is this? `dt` is the step before softplus and clamp, `delta` (Δ) the step after them. Papers and code bases
call both "dt".
"""

# Axes. A Mamba-1 channel is a head with headdim 1; a Mamba-2 head owns headdim channels that share one matrix.
PROMPT = "prompt"
TOKEN = "token"
QUERY = "query"
KEY = "key"
LAG = "lag"
QUERY_BLOCK = "query_block"
KEY_BLOCK = "key_block"
HEAD = "head"
HEADDIM = "headdim"
ATTENTION_HEAD = "attention_head"  # of softmax attention; a mixer beside it has its own heads
GROUP = "group"
WEIGHT_GROUP = "weight_group"  # groups of W_B and W_C: as many as of B and C, except where heads add biases (Mamba-3)
STATE = "state"
CHANNEL = "channel"
INPUT = "input"
DT_ROW = "dt_row"
DT_RANK = "dt_rank"
CONV_CHANNEL = "conv_channel"
TAP = "tap"
LAYER = "layer"
BLOCK = "block"
TERM = "term"  # of a logit: the contribution of one module
MIXER = "mixer"  # a term that is split by heads and sources
SOURCE = "source"  # the token that part of a term comes from

# The maps of a layer: means over its heads of M, of the decay, and of a delta rule's erasure.
MAP = "map"
MASK = "mask"
ERASE = "erase"
MAPS = (MAP, MASK, ERASE)
MAP_ARRAYS = {MAP: "attention_map", MASK: "attention_mask", ERASE: "erase_map"}
MAP_ERRORS = {MAP: "map_error", MASK: "mask_error", ERASE: "erase_error"}
# How far the heads agree; only signed maps cancel in the mean.
AGREEMENTS = {MAP: "channel_agreement", ERASE: "erase_agreement"}

# The kinds of a model's blocks. A captured layer has the kind of its mixer (also if the block has attention beside it),
# or kind ATTENTION, which has maps but no operands.
MAMBA = "mamba"
ATTENTION = "attention"
DELTA_RULE = "delta rule"
RECURRENCE = "recurrence"
CONVOLUTION = "convolution"
LINEAR_ATTENTION = "linear attention"
MAMBA_AND_ATTENTION = f"{MAMBA}+{ATTENTION}"
MLP = "mlp"
MOE = "moe"
OTHER = "other"
BLOCK_KINDS = (
    *(MAMBA, DELTA_RULE, RECURRENCE, CONVOLUTION, LINEAR_ATTENTION),
    *(ATTENTION, MAMBA_AND_ATTENTION, MLP, MOE, OTHER),
)

# The kind of a prompt of repeated random tokens (A A).
REPEAT = "repeat"
# The marks of letter tasks: a row's separator, its end, its begin.
SEPARATOR, END, BEGIN = TASK_MARKS = ("|", "end", "begin")

# Longer prompts have maps too large for memory: a capture stores them reduced to blocks of tokens.
LARGEST_WHOLE_MAP = 8192

# The role of a layer's array: every dataset of a file carries its axes and its role.
OPERAND = "operand"  # a part of the layer's operator
MAP_ROLE = "map"
STATISTIC = "statistic"  # an exact statistic of a map that was reduced
EFFECT = "effect"  # one value per prompt: the effect of an edit on the right next token's log-probability
CHECK = "check"  # one value per prompt: closure errors, map errors, agreements
WEIGHT = "weight"
LABEL = "label"

# The statistics of an attention map, by query or by lag.
MAP_STATISTICS: dict[str, tuple[str, ...]] = {
    "lag_energy": (PROMPT, LAG),  # mean over i of map[i, i−ℓ]²
    "row_magnitude": (PROMPT, TOKEN),  # Σ_j |map[i, j]|
    "target_magnitude": (PROMPT, TOKEN),  # |map[i, target[i]]|, 0 where there is no target
    "previous_magnitude": (PROMPT, TOKEN),  # |map[i, i−1]|, 0 for the first token
    "first_magnitude": (PROMPT, TOKEN),  # |map[i, 0]|
    "separator_magnitude": (PROMPT, TOKEN),  # Σ_j |map[i, j]| over separators 0 < j < i
    # distance in tokens that half of |map[i]| reaches, for i in the last quarter; −1 elsewhere and for a row of zeros
    "reach": (PROMPT, TOKEN),
}

# Arrays of one layer in a capture, by role, with their axes. The layer's operator declares the operands
# (`Operator.axes`). Padding (tokens past a prompt's length) is zero in all arrays.
# Trailing axes that a layer lacks are dropped: A_log and dt_bias are (head,) in Mamba-2, D is (head,) without
# D_has_hdim.
ARRAYS: dict[str, dict[str, tuple[str, ...]]] = {
    MAP_ROLE: {
        "attention_map": (PROMPT, QUERY, KEY),
        "attention_mask": (PROMPT, QUERY, KEY),
        "erase_map": (PROMPT, QUERY, KEY),
        "channel_map": (PROMPT, CHANNEL, QUERY, KEY),
        "softmax_attention_map": (PROMPT, QUERY, KEY),
        # reduced maps, instead of whole ones: for each square block of `block_tokens`, the mean, and the entry of
        # largest magnitude with its sign, over pairs j ≤ i of real tokens (all pairs if the layer looks ahead); 0 for a
        # block without pairs
        **{
            f"{name}_{reduction}": (PROMPT, QUERY_BLOCK, KEY_BLOCK)
            for name in MAP_ARRAYS.values()
            for reduction in ("mean", "max")
        },
    },
    STATISTIC: {
        **MAP_STATISTICS,
        # of the map of each head of softmax attention; these maps are not stored
        **{f"head_{n}": (PROMPT, ATTENTION_HEAD, *axes[1:]) for n, axes in MAP_STATISTICS.items()},
        "ahead_energy": (PROMPT, LAG),  # mean over i of map[i, i+ℓ]², if the layer looks ahead
        "mask_row_sum": (PROMPT, TOKEN),  # Σ_j mask[i, j]
    },
    EFFECT: dict.fromkeys(
        ("ablation_effect", "mean_ablation_effect", "cross_talk_effect"), (PROMPT,)
    ),
    CHECK: dict.fromkeys(
        (
            *("closure_error", "map_closure", "map_rounding", "closure_worst_token"),
            *MAP_ERRORS.values(),
            *AGREEMENTS.values(),
        ),
        (PROMPT,),
    ),
    WEIGHT: {
        "A_log": (HEAD, STATE),
        "D": (HEAD, HEADDIM),
        "W_B": (WEIGHT_GROUP, STATE, INPUT),
        "W_C": (WEIGHT_GROUP, STATE, INPUT),
        "W_dt": (DT_ROW, INPUT),
        "W_beta": (HEAD, INPUT),
        "dt_proj": (HEAD, DT_RANK),
        "dt_bias": (HEAD, STATE),
        "conv": (CONV_CHANNEL, TAP),
        "conv_bias": (CONV_CHANNEL,),
        "conv_B": (WEIGHT_GROUP, STATE, TAP),
        "conv_C": (WEIGHT_GROUP, STATE, TAP),
        "conv_x": (CONV_CHANNEL, TAP),
    },
    LABEL: {"channel": (CHANNEL,)},
}

# Whether a layer's numbers are finite, or where they are not: its attribute `finite`.
FINITE = "yes"
NONFINITE_WEIGHTS = "weights"
NONFINITE_INPUT = "input"
NONFINITE_OUTPUT = "output"
