"""An adapter for typeseg's Mamba (PyPI, Apache-2.0): a family outside ssmlens, in one file.

typeseg labels every byte of a text as HTML, CSS, SQL, ... Its blocks are Mamba-1 in both directions: it scans the same
operands from the first byte and from the last byte and adds the results, so D counts twice. The convolution is padded
on both sides: its four taps see one byte back and two ahead.

The model here runs typeseg's own convolution and scan, in numpy. The adapter uses the formulas of ssmlens. So the
closure of a capture compares ssmlens with typeseg.
"""

import string
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typeseg import _mamba_kernel, _tokenize

from ssmlens.adapters.adapter import Adapter, MixerInput, register
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.scan.operators.two_way import TwoWayScan
from ssmlens.scan.surroundings import Surroundings

# Bytes that a tap sees: one back, two ahead.
_BACK, _AHEAD = 1, 2
# typeseg adds the first to Δ after softplus; its norms add the second to the variance.
_LEAST_STEP, _EPS = 1e-4, 1e-6


class TwoWayMamba(nn.Module):
    """The mixer of one block: projections in torch, convolution and scans by typeseg."""

    d_conv = _AHEAD + 1  # bytes that its convolution reaches ahead, including the byte itself

    def __init__(self, width: int, d_inner: int, states: int, rank: int):
        super().__init__()
        self.in_proj = nn.Linear(width, 2 * d_inner)
        self.conv1d = nn.Conv1d(d_inner, d_inner, _BACK + 1 + _AHEAD, groups=d_inner)
        self.x_proj = nn.Linear(d_inner, rank + 2 * states)
        self.dt_proj = nn.Linear(rank, d_inner)
        self.A_log = nn.Parameter(torch.zeros(d_inner, states))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, width)
        self.parts = [rank, states, states]

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mix each row's real bytes alone, [batch token width] in and out. Padding gets nothing from them."""
        mixed = hidden.new_zeros(*hidden.shape[:2], len(self.D))
        for row, one in enumerate(hidden):
            real = slice(None) if attention_mask is None else attention_mask[row].bool()
            mixed[row, real] = self.mixed(one[real])
        return self.out_proj(mixed)

    def mixed(self, hidden: Tensor) -> Tensor:
        """The input of out_proj for one row without padding, [token width]."""
        x, gate = self.in_proj(hidden).chunk(2, dim=1)
        taps, bias = _numpy(self.conv1d.weight).transpose(2, 1, 0), _numpy(self.conv1d.bias)
        x = _mamba_kernel._depthwise_conv1d_same(np, _numpy(x), taps, bias)
        x = _mamba_kernel._silu(np, x)
        dt, B, C = self.x_proj(_torch(x, hidden)).split(self.parts, dim=1)
        delta = F.softplus(self.dt_proj(dt)) + _LEAST_STEP
        arrays = [x, *map(_numpy, (delta, B, C))]
        own = [_numpy(-self.A_log.exp()), _numpy(self.D)]
        scan = _mamba_kernel._selective_scan_seq
        y = scan(np, *arrays, *own) + scan(np, *(a[::-1] for a in arrays), *own)[::-1]
        return _torch(y, hidden) * F.silu(gate)


class Block(nn.Module):
    """norm, mixer, residual."""

    def __init__(self, width: int, *sizes: int):
        super().__init__()
        self.norm, self.mixer = nn.LayerNorm(width, _EPS), TwoWayMamba(width, *sizes)

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """[batch token width] in and out."""
        return hidden + self.mixer(self.norm(hidden), attention_mask)


class Typeseg(nn.Module):
    """Ids of bytes (`Bytes`) to logits of text types at every byte.

    Args:
        layers: Number of blocks.
        width: Of the residual stream.
        d_inner: Channels of a mixer.
        states: State size of a channel.
        rank: Of what makes Δ.
        classes: Number of text types.

    Attributes:
        tokenizer: Text to byte ids; None where the weights are random.
    """

    tokenizer: Any = None

    def __init__(self, layers: int, width: int, d_inner: int, states: int, rank: int, classes: int):
        super().__init__()
        self.embedding = nn.Embedding(int(_mamba_kernel._COMPACT_TABLE.max()) + 1, width)
        sizes = d_inner, states, rank
        self.layers = nn.ModuleList(Block(width, *sizes) for _ in range(layers))
        self.norm = nn.LayerNorm(width, _EPS)
        self.lm_head = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [batch token class]; `attention_mask` is 1 at real bytes, on either side of the padding."""
        hidden = self.embedding(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return self.lm_head(self.norm(hidden))


class Bytes:
    """typeseg's tokens: the bytes of UTF-8; id 128 stands for each beyond ASCII and each it does not know."""

    def encode(self, text: str) -> list[int]:
        """Ids, one a byte."""
        return _mamba_kernel._COMPACT_TABLE[_tokenize.text_to_bytes(text)].tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return "".join(self.token_strings(ids))

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each byte by itself, ¤ for one that has no id of its own."""
        known = {128: "¤", **{ord(letter): letter for letter in string.printable}}
        return [known.get(int(i), f"<{i}>") for i in ids]


@register
class TypesegAdapter(Adapter):
    """How a `TwoWayMamba` computes."""

    family = "typeseg Mamba"
    mixers = ("ssmlens_typeseg.TwoWayMamba",)
    model_type = "typeseg"
    looks_ahead = True

    def project(self, mixer: Any, given: MixerInput) -> TwoWayScan:
        """See `Adapter.project`. At padding x, Δ and the gate are 0: nothing is mixed there."""
        hidden, mask = given.hidden, given.token_mask
        real = hidden.new_ones(hidden.shape[:2]) if mask is None else mask.to(hidden)
        real = real.unsqueeze(2)
        x, gate = (mixer.in_proj(hidden) * real).chunk(2, dim=2)
        padded = F.pad(x.mT, (_BACK, _AHEAD))
        x = F.silu(mixer.conv1d(padded).mT)
        dt, B, C = mixer.x_proj(x).split(mixer.parts, dim=2)
        delta = F.softplus(mixer.dt_proj(dt)) + _LEAST_STEP
        return TwoWayScan(
            delta=delta * real,
            A=-mixer.A_log.exp(),
            B=B.unsqueeze(2),
            C=C.unsqueeze(2),
            x=x.unsqueeze(3),
            D=2 * mixer.D.unsqueeze(1),  # once in each direction
            gate=gate,
            surroundings=Surroundings(),
        )

    def finish(self, mixer: Any, y: Tensor, operands: Any) -> Tensor:
        """See `Adapter.finish`."""
        return mixer.out_proj(y.flatten(2).to(operands.gate.dtype) * F.silu(operands.gate))

    def weights(self, mixer: Any) -> WeightViews:
        """See `Adapter.weights`. Without the convolution, whose last tap is not the byte's own."""
        W_dt, W_B, W_C = mixer.x_proj.weight.split(mixer.parts)
        return WeightViews(
            A_log=mixer.A_log,
            dt_bias=mixer.dt_proj.bias.unsqueeze(1),
            W_dt=W_dt,
            W_B=W_B.unsqueeze(0),
            W_C=W_C.unsqueeze(0),
            D=mixer.D.unsqueeze(1),
            dt_proj=mixer.dt_proj.weight,
        )

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`."""
        return Typeseg(layers=3, width=16, d_inner=12, states=5, rank=3, classes=32)

    def load(self, folder: Path, config: Mapping[str, Any]) -> nn.Module:
        """See `Adapter.load`: the weights are those in the installed typeseg."""
        with (files("typeseg") / "data" / "mamba_al.npz").open("rb") as file:
            arrays = {name.replace("__", "/"): array for name, array in np.load(file).items()}
        return filled(arrays)


def filled(arrays: Mapping[str, np.ndarray]) -> Typeseg:
    """The model with typeseg's weights, under the names of its npz."""
    own = {name: torch.from_numpy(np.asarray(a, dtype=np.float32)) for name, a in arrays.items()}
    layers = sum(name.endswith("/A_log") for name in own)
    at = "CheckpointMambaBlock1D_{}/".format
    d_inner, states = own[f"{at(0)}A_log"].shape
    rank, width = own[f"{at(0)}Dense_2/kernel"].shape[0], own["Embed_0/embedding"].shape[1]
    state = {"embedding.weight": own["Embed_0/embedding"]}
    state |= _linear("lm_head", own, "Dense_0") | _norm("norm", own, "LayerNorm_0")
    for n in range(layers):
        mixer = f"layers.{n}.mixer"
        state |= _norm(f"layers.{n}.norm", own, f"{at(n)}LayerNorm_0")
        for k, name in enumerate(("in_proj", "x_proj", "dt_proj", "out_proj")):
            state |= _linear(f"{mixer}.{name}", own, f"{at(n)}Dense_{k}")
        state[f"{mixer}.conv1d.weight"] = own[f"{at(n)}Conv_0/kernel"].permute(2, 1, 0).contiguous()
        state[f"{mixer}.conv1d.bias"] = own[f"{at(n)}Conv_0/bias"]
        state |= {f"{mixer}.{name}": own[f"{at(n)}{name}"] for name in ("A_log", "D")}
    model = Typeseg(layers, width, d_inner, states, rank, len(own["Dense_0/bias"]))
    model.load_state_dict(state)
    model.tokenizer = Bytes()
    return model


def _linear(name: str, own: Mapping[str, Tensor], theirs: str) -> dict[str, Tensor]:
    weight = own[f"{theirs}/kernel"].T.contiguous()
    return {f"{name}.weight": weight, f"{name}.bias": own[f"{theirs}/bias"]}


def _norm(name: str, own: Mapping[str, Tensor], theirs: str) -> dict[str, Tensor]:
    return {f"{name}.weight": own[f"{theirs}/scale"], f"{name}.bias": own[f"{theirs}/bias"]}


def _numpy(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.detach().float().cpu().numpy()


def _torch(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(like)
