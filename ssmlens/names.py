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

# The maps of a layer: means over its heads, of M, of the decay, and of what a delta rule takes back.
MAP = "map"
MASK = "mask"
ERASE = "erase"
MAPS = (MAP, MASK, ERASE)
MAP_ARRAYS = {MAP: "attention_map", MASK: "attention_mask", ERASE: "erase_map"}
MAP_ERRORS = {MAP: "map_error", MASK: "mask_error", ERASE: "erase_error"}
# Only signed maps lose something in the mean.
AGREEMENTS = {MAP: "channel_agreement", ERASE: "erase_agreement"}

# What a block of a model is. A captured layer is of kind MAMBA (also where the block has attention beside the mixer)
# or of kind ATTENTION, which has maps but no operands.
MAMBA = "mamba"
ATTENTION = "attention"
MAMBA_AND_ATTENTION = "mamba+attention"
MLP = "mlp"
MOE = "moe"
OTHER = "other"
BLOCK_KINDS = (MAMBA, ATTENTION, MAMBA_AND_ATTENTION, MLP, MOE, OTHER)

# Prompts of more tokens have maps too large to hold: a capture keeps them reduced to blocks of tokens.
LARGEST_WHOLE_MAP = 8192

# Arrays of one layer in a capture, with their axes. Padding (tokens past a prompt's length) is zero in all of them.
# Trailing axes that a layer lacks are dropped: A and A_log are (head,) in Mamba-2, D is (head,) without D_has_hdim.
# Where the decay depends on the data (Mamba-3) `log_decay` stands for A.
LAYER_ARRAYS: dict[str, tuple[str, ...]] = {
    # operands of the scan
    "delta": (PROMPT, TOKEN, HEAD),
    "B": (PROMPT, TOKEN, GROUP, STATE),
    "C": (PROMPT, TOKEN, GROUP, STATE),
    "A": (HEAD, STATE),
    "D": (HEAD, HEADDIM),
    "log_decay": (PROMPT, TOKEN, HEAD),
    "write": (PROMPT, TOKEN, HEAD),
    "write_now": (PROMPT, TOKEN, HEAD),
    # maps
    "attention_map": (PROMPT, QUERY, KEY),
    "attention_mask": (PROMPT, QUERY, KEY),
    "channel_map": (PROMPT, CHANNEL, QUERY, KEY),
    "channel": (CHANNEL,),
    "softmax_attention_map": (PROMPT, QUERY, KEY),
    # reduced maps, instead of whole ones: over the pairs j ≤ i of real tokens in a block of `block_tokens` a side,
    # the mean, and the entry of largest magnitude with its sign; 0 where a block has no such pair
    "attention_map_mean": (PROMPT, QUERY_BLOCK, KEY_BLOCK),
    "attention_map_max": (PROMPT, QUERY_BLOCK, KEY_BLOCK),
    "attention_mask_mean": (PROMPT, QUERY_BLOCK, KEY_BLOCK),
    "attention_mask_max": (PROMPT, QUERY_BLOCK, KEY_BLOCK),
    # statistics of the maps that were reduced, exact
    "lag_energy": (PROMPT, LAG),  # mean over i of map[i, i−ℓ]²
    "row_magnitude": (PROMPT, TOKEN),  # Σ_j |map[i, j]|
    "target_magnitude": (PROMPT, TOKEN),  # |map[i, target[i]]|, 0 where there is no target
    "mask_row_sum": (PROMPT, TOKEN),  # Σ_j mask[i, j]
    # proofs, a value a prompt
    "closure_error": (PROMPT,),
    "closure_worst_token": (PROMPT,),
    "map_error": (PROMPT,),
    "mask_error": (PROMPT,),
    "channel_agreement": (PROMPT,),
    # weights
    "A_log": (HEAD, STATE),
    "W_B": (WEIGHT_GROUP, STATE, INPUT),
    "W_C": (WEIGHT_GROUP, STATE, INPUT),
    "W_dt": (DT_ROW, INPUT),
    "dt_proj": (HEAD, DT_RANK),
    "dt_bias": (HEAD,),
    "conv": (CONV_CHANNEL, TAP),
    "conv_bias": (CONV_CHANNEL,),
    "conv_B": (WEIGHT_GROUP, STATE, TAP),
    "conv_C": (WEIGHT_GROUP, STATE, TAP),
    # optional: --store-discretized
    "A_bar": (PROMPT, TOKEN, HEAD, STATE),
    "B_bar": (PROMPT, TOKEN, HEAD, STATE),
}

# The state of a layer's numbers, stored as its attribute `finite`.
FINITE = "yes"
NONFINITE_WEIGHTS = "weights"
NONFINITE_INPUT = "input"
NONFINITE_OUTPUT = "output"
