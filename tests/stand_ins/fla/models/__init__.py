"""The language models: blocks of a layer and an MLP, each after a norm, and some of the layers softmax attention."""

import inspect
from types import SimpleNamespace

import torch
from torch import nn

from fla.layers import Attention, DeltaNet, GatedDeltaNet, GatedLinearAttention, KimiDeltaAttention
from fla.modules import Cache, GatedMLP


class Config(SimpleNamespace):
    """The settings given, and where they name none: norm_eps, and that no layer is softmax attention."""

    def __init__(self, **settings):
        super().__init__(**{"norm_eps": 1e-6, "attn": None} | settings)


GatedDeltaNetConfig = DeltaNetConfig = KDAConfig = GLAConfig = Config


class Block(nn.Module):
    def __init__(self, config, layer, index):
        super().__init__()
        self.attn_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        if config.attn and index in config.attn["layers"]:
            heads = config.attn["num_heads"]
            self.attn = Attention(config.hidden_size, heads, layer_idx=index)
        else:
            taken = inspect.signature(layer).parameters
            settings = {name: value for name, value in vars(config).items() if name in taken}
            self.attn = layer(**settings, mode=config.attn_mode, layer_idx=index)
        self.mlp_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size)

    def forward(self, hidden, **given):
        hidden = hidden + self.attn(self.attn_norm(hidden), **given)[0]
        return hidden + self.mlp(self.mlp_norm(hidden))


class Stack(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(config, layer, index) for index in range(config.num_hidden_layers)
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)


class CausalLM(nn.Module):
    layer = None

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = Stack(config, self.layer)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=True):
        cache = past_key_values or (Cache() if use_cache else None)
        hidden = self.model.embeddings(input_ids)
        for block in self.model.layers:
            hidden = block(hidden, attention_mask=attention_mask, past_key_values=cache)
        logits = self.lm_head(self.model.norm(hidden))
        return SimpleNamespace(logits=logits, past_key_values=cache)

    @torch.no_grad()
    def generate(self, input_ids, max_length):
        cache, new = None, input_ids
        while input_ids.shape[1] < max_length:
            put_out = self(new, past_key_values=cache)
            cache, new = put_out.past_key_values, put_out.logits[:, -1:].argmax(-1)
            input_ids = torch.cat([input_ids, new], dim=1)
        return input_ids


class GatedDeltaNetForCausalLM(CausalLM):
    layer = GatedDeltaNet


class DeltaNetForCausalLM(CausalLM):
    layer = DeltaNet


class KDAForCausalLM(CausalLM):
    layer = KimiDeltaAttention


class GLAForCausalLM(CausalLM):
    layer = GatedLinearAttention
