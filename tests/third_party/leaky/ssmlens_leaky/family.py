"""A language model whose layers average what they have read, and the adapter that shows them to ssmlens."""

import torch
from torch import nn

from ssmlens.adapters.adapter import Adapter, register
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.models.checkpoint import read_checkpoint
from ssmlens.scan.operators.decay_scan import DecayScan


class Leaky(nn.Module):
    """A leaky sum in each channel: s_t = exp(A) s_{t−1} + v_t with v = in_proj(u), and out_proj(s)."""

    def __init__(self, width):
        super().__init__()
        self.A_log = nn.Parameter(torch.zeros(width, 1))
        self.in_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden):
        values, state, states = self.in_proj(hidden), 0, []
        for value in values.unbind(1):
            state = torch.exp(-self.A_log.exp()).T * state + value
            states.append(state)
        return self.out_proj(torch.stack(states, 1))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.mixer = nn.LayerNorm(width), Leaky(width)

    def forward(self, hidden):
        return hidden + self.mixer(self.norm(hidden))


class LeakyLM(nn.Module):
    def __init__(self, vocab_size, width, n_layer):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(n_layer))
        self.head = nn.Linear(width, vocab_size)

    def forward(self, input_ids):
        hidden = self.embedding(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)


@register
class LeakyAdapter(Adapter):
    family = "leaky Leaky"
    mixers = ("ssmlens_leaky.family.Leaky",)
    model_type = "leaky"

    def project(self, mixer, given):
        x = mixer.in_proj(given.hidden)
        one = torch.ones_like(x)
        return DecayScan(
            delta=one,
            A=-mixer.A_log.exp(),
            B=one[:, :, :1, None],
            C=one[:, :, :1, None],
            x=x[..., None],
        )

    def finish(self, mixer, y, operands):
        return mixer.out_proj(y.flatten(2))

    def weights(self, mixer):
        return WeightViews(A_log=mixer.A_log)

    def tiny_model(self):
        return LeakyLM(vocab_size=32, width=8, n_layer=2)

    def load(self, folder, config):
        model = LeakyLM(config["vocab_size"], config["width"], config["n_layer"])
        model.load_state_dict(read_checkpoint(folder))
        return model
