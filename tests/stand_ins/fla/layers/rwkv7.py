"""RWKV-7's name alone: ssmlens refuses it by that."""

from torch import nn

from fla.layers.layer import Layer


class RWKV7Attention(Layer):
    def __init__(self, hidden_size=1024):
        super().__init__()
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def mix(self, hidden):
        return self.o_proj(hidden)
