"""The demo model in plain PyTorch: a small Llama (RMSNorm, rotary positions by halves, grouped queries, SwiGLU, tied embeddings).

Parameter names are those of `LlamaForCausalLM` in Hugging Face files, so that an export is a copy.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Shape:
    vocabulary: int = 2048
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    intermediate: int = 640
    theta: float = 10_000.0
    epsilon: float = 1e-5
    positions: int = 1536


class RMSNorm(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(shape.hidden)), shape.epsilon

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.epsilon)).to(x.dtype) * self.weight


def rope_tables(shape: Shape, length: int):
    frequency = shape.theta ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
    angle = torch.arange(length).float()[:, None] * frequency[None]
    angle = torch.cat([angle, angle], -1)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin):
    y = x.float()
    half = y.shape[-1] // 2
    return (y * cos + torch.cat([-y[..., half:], y[..., :half]], -1) * sin).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=False)

    def forward(self, x, cos, sin, cache=None, mask=None):
        s, (rows, length, _) = self.shape, x.shape
        q = self.q_proj(x).view(rows, length, s.heads, s.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(rows, length, s.kv_heads, s.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, s.kv_heads, s.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.append(self, k, v)
        k, v = k.repeat_interleave(s.heads // s.kv_heads, 1), v.repeat_interleave(s.heads // s.kv_heads, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(y.transpose(1, 2).reshape(rows, length, -1))


class MLP(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(shape), Attention(shape)
        self.post_attention_layernorm, self.mlp = RMSNorm(shape), MLP(shape)

    def forward(self, x, cos, sin, cache=None, mask=None):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class DemoModel(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape)
        cos, sin = rope_tables(shape, shape.positions)
        self.cos, self.sin = cos, sin                       # plain attributes: never cast to BF16
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 if "o_proj" not in name and "down_proj" not in name else 0.02 / (2 * shape.layers) ** 0.5)

    def forward(self, ids, positions=None, cache=None, mask=None):
        """ids (rows, length) to logits (rows, length, vocabulary)."""
        length = ids.shape[1]
        cos, sin = (self.cos[:length], self.sin[:length]) if positions is None else (self.cos[positions][:, None], self.sin[positions][:, None])
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin, cache, mask)
        return F.linear(self.norm(x), self.embed_tokens.weight)
