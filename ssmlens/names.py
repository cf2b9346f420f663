"""The vocabulary: one word for each axis and each array, the same in tensors, files and figures.

This module imports nothing, so that every other one may import it.

FAQ: which Δ is this? `dt` is the step before softplus and clamp, `delta` (Δ) the step after them. Papers and
code bases call both "dt"; here a name tells which one you hold.
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
ATTENTION_HEAD = (
    "attention_head"  # of softmax attention, which may stand beside a mixer with heads of its own
)
GROUP = "group"
WEIGHT_GROUP = "weight_group"  # groups of W_B and W_C: as many as of B and C, but where heads add biases (Mamba-3)
STATE = "state"
CHANNEL = "channel"
INPUT = "input"
DT_ROW = "dt_row"
DT_RANK = "dt_rank"
CONV_CHANNEL = "conv_channel"
TAP = "tap"
LAYER = "layer"
BLOCK = "block"
TERM = "term"  # of a logit: what one module adds to it
MIXER = "mixer"  # a term that is split by heads and sources
SOURCE = "source"  # the token that part of a term comes from

# The maps of a layer: means over its heads, of M, of the decay, and of what a delta rule takes back.
MAP = "map"
MASK = "mask"
ERASE = "erase"
MAPS = (MAP, MASK, ERASE)
MAP_ARRAYS = {MAP: "attention_map", MASK: "attention_mask", ERASE: "erase_map"}
MAP_ERRORS = {MAP: "map_error", MASK: "mask_error", ERASE: "erase_error"}
# Only signed maps lose something in the mean.
AGREEMENTS = {MAP: "channel_agreement", ERASE: "erase_agreement"}

# What a block of a model is. A captured layer is of the kind of its mixer (also where the block has attention beside
# it), or of kind ATTENTION, which has maps but no operands.
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

# The kind of a prompt that is random tokens, twice.
REPEAT = "repeat"
# What tasks on letters call their marks: a row's separator, its end, its begin.
SEPARATOR, END, BEGIN = TASK_MARKS = ("|", "end", "begin")

# Prompts of more tokens have maps too large to hold: a capture keeps them reduced to blocks of tokens.
LARGEST_WHOLE_MAP = 8192

# What an array of a layer is for: every dataset of a file carries its axes and its role.
OPERAND = "operand"  # what the layer's operator is made of
MAP_ROLE = "map"
STATISTIC = "statistic"  # what is kept exactly of a map that was reduced
EFFECT = "effect"  # a value a prompt: what an edit of the layer does to the right next token's log-probability
CHECK = "check"  # a value a prompt: how far to believe the layer
WEIGHT = "weight"
LABEL = "label"

# The statistics of an attention map: where its rows look.
MAP_STATISTICS: dict[str, tuple[str, ...]] = {
    "lag_energy": (PROMPT, LAG),  # mean over i of map[i, i−ℓ]²
    "row_magnitude": (PROMPT, TOKEN),  # Σ_j |map[i, j]|
    "target_magnitude": (PROMPT, TOKEN),  # |map[i, target[i]]|, 0 where there is no target
    "previous_magnitude": (PROMPT, TOKEN),  # |map[i, i−1]|, 0 for the first token
    "first_magnitude": (PROMPT, TOKEN),  # |map[i, 0]|
    "separator_magnitude": (PROMPT, TOKEN),  # Σ_j |map[i, j]| over separators 0 < j < i
    # tokens back that half of |map[i]| reaches, i of the last quarter; −1 elsewhere, and for a row of zeros
    "reach": (PROMPT, TOKEN),
}

# Arrays of one layer in a capture, by role, with their axes; operands are what the layer's operator declares
# (`Operator.axes`). Padding (tokens past a prompt's length) is zero in all of them.
# Trailing axes that a layer lacks are dropped: A_log and dt_bias are (head,) in Mamba-2, D is (head,) without
# D_has_hdim.
ARRAYS: dict[str, dict[str, tuple[str, ...]]] = {
    MAP_ROLE: {
        "attention_map": (PROMPT, QUERY, KEY),
        "attention_mask": (PROMPT, QUERY, KEY),
        "erase_map": (PROMPT, QUERY, KEY),
        "channel_map": (PROMPT, CHANNEL, QUERY, KEY),
        "softmax_attention_map": (PROMPT, QUERY, KEY),
        # reduced maps, instead of whole ones: over the pairs j ≤ i (all pairs, of a layer that looks ahead) of real
        # tokens in a block of `block_tokens` a side,
        # the mean, and the entry of largest magnitude with its sign; 0 where a block has no such pair
        **{
            f"{name}_{how}": (PROMPT, QUERY_BLOCK, KEY_BLOCK)
            for name in MAP_ARRAYS.values()
            for how in ("mean", "max")
        },
    },
    STATISTIC: {
        **MAP_STATISTICS,
        # of the map of each head of softmax attention, whose maps are not kept
        **{f"head_{n}": (PROMPT, ATTENTION_HEAD, *axes[1:]) for n, axes in MAP_STATISTICS.items()},
        "ahead_energy": (PROMPT, LAG),  # mean over i of map[i, i+ℓ]², of a layer that looks ahead
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

# The state of a layer's numbers, stored as its attribute `finite`.
FINITE = "yes"
NONFINITE_WEIGHTS = "weights"
NONFINITE_INPUT = "input"
NONFINITE_OUTPUT = "output"
