"""Self-attention and the pre-norm Transformer block, with a cache of keys and values.

Vaswani et al., 2017, arXiv:1706.03762; normalisation before each part (Radford et al., 2019).

Dimension key: B examples, T positions, D model dimensions, H heads, K dimensions of a head.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rayloom.nn.dropout import Dropout


class KeyValueCache:
    """Keys and values of the positions that one attention layer has seen, (B, H, length, K) each.

    Args:
        shape: (B, H, length, K).
        like: Gives dtype and device.
    """

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor) -> None:
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.length = 0

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of further positions; all so far."""
        start, self.length = self.length, self.length + keys.shape[2]
        if self.length > self.keys.shape[2]:
            raise ValueError(f"the cache holds {self.keys.shape[2]} positions, not {self.length}")
        self.keys[:, :, start : self.length] = keys
        self.values[:, :, start : self.length] = values
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself.

    Args:
        dim: D.
        heads: H; divides D.
        causal: Whether a position sees itself and earlier ones only.
    """

    def __init__(self, dim: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads {heads} must divide the model's {dim} dimensions")
        self.heads, self.causal = heads, causal
        self.project = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "B T D"], cache: KeyValueCache | None = None
    ) -> Float[Tensor, "B T D"]:
        """Attend; with a cache, `x` are the positions that follow those in it."""
        q, k, v = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        causal = self.causal
        if cache is not None:
            if cache.length and x.shape[1] > 1:
                raise ValueError("after the first call a cache takes one position at a time")
            k, v = cache.extend(k, v)
            causal = causal and x.shape[1] > 1
        mixed = scaled_dot_product_attention(q, k, v, is_causal=causal)  # (B, H, T, K)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def cache(self, rows: int, length: int) -> KeyValueCache:
        """An empty cache for `rows` sequences of at most `length` positions."""
        weight = self.out.weight
        head_dim = weight.shape[0] // self.heads
        return KeyValueCache((rows, self.heads, length, head_dim), weight.detach())


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x)).

    Args:
        dim: D.
        heads: H.
        causal: See `SelfAttention`.
        dropout: Rate after each of the two parts.
    """

    def __init__(self, dim: int, heads: int, *, causal: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), SelfAttention(dim, heads, causal=causal)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.drop1, self.drop2 = Dropout(dropout), Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B T D"], cache: KeyValueCache | None = None
    ) -> Float[Tensor, "B T D"]:
        """One block; see `SelfAttention.forward` for the cache."""
        x = x + self.drop1(self.attention(self.norm1(x), cache))
        return x + self.drop2(self.mlp(self.norm2(x)))
