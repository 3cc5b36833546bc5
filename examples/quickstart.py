"""A bias on attention whose strength is learned, in seconds: needs torch and matplotlib alone.

Queries look for their code among the tokens of a LiDAR and a camera. It stands at each query's
place in both maps, but in every scene one sensor is spoiled and shows noise. From a noisy hint of
which, a router tells the trust in each sensor, -1 to 1; scale * trust is added to the logits of
the tokens at the query's place. All keys are alike, so that only this bias can find the code.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from cmt_bias.bias import BiasScale
from cmt_bias.ops import QueryWindows, TokenLayout, Window, WindowedBias, biased_attention

SCENES, QUERIES, CHANNELS, STEPS = 32, 16, 16, 300
MEMORY = TokenLayout(bev_shape=(12, 12), num_views=1, view_shape=(8, 16))
WINDOWS = (Window(radius=0), Window(radius=0))  # a cell of the LiDAR's map, one of the camera's


def make_scenes() -> tuple[torch.Tensor, ...]:
    """Tokens (B, K, C), places (B, Q, 2, 2), hints (B, Q, 2), codes (B, Q, C), health (B, 2)."""
    codes = torch.randn(SCENES, QUERIES, CHANNELS)
    tokens = torch.randn(SCENES, MEMORY.num_tokens, CHANNELS)
    health = nn.functional.one_hot(torch.randint(2, (SCENES,)), 2).bool()
    places = []
    for sensor, grid in enumerate(MEMORY.segments):
        cells = torch.rand(SCENES, grid.rows * grid.columns).argsort(dim=1)[:, :QUERIES]
        healthy = torch.nonzero(health[:, sensor])
        tokens[healthy, grid.start + cells[healthy[:, 0]]] = codes[healthy[:, 0]]
        places.append(torch.stack((cells // grid.columns, cells % grid.columns), dim=-1))
    hints = 2.0 * health[:, None] - 1 + torch.randn(SCENES, QUERIES, 2)
    return tokens, torch.stack(places, dim=2).int(), hints, codes, health


torch.manual_seed(0)
scale, router = BiasScale(bias_scale=1.0, learnable_scale=True), nn.Linear(2, 2, bias=False)
nn.init.zeros_(router.weight)  # no trust yet: training departs from attention without a bias
groups = [dict(params=scale.parameters(), lr=0.03), dict(params=router.parameters(), lr=0.01)]
optimizer = torch.optim.Adam(groups)
curve = {'scale': [], 'gradient': [], 'loss': [], 'trust in healthy': [], 'trust in spoiled': []}
for step in range(STEPS):
    tokens, places, hints, codes, health = make_scenes()
    trust = router(hints).tanh()  # (B, Q, 2)
    bias = WindowedBias(QueryWindows(MEMORY, places, WINDOWS), scale.scale_of_modalities() * trust)
    query, key, value = (x[:, None] for x in (0 * codes, 0 * tokens, tokens))  # one head
    loss = (biased_attention(query, key, value, bias)[:, 0] - codes).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    trusts = [trust.mean(dim=1)[chosen].mean() for chosen in (health, ~health)]
    values = [x.item() for x in (scale.bias_scale, scale.bias_scale.grad, loss, *trusts)]
    for points, value in zip(curve.values(), values, strict=True):
        points.append(value)
    if step % 50 == 0 or step == STEPS - 1:
        print(f'step {step:3d}  scale {values[0]:.2f}  gradient {values[1]:+.4f}  loss {loss:.3f}')
plt.plot(torch.tensor(list(curve.values())).T, label=list(curve))
plt.gca().set(xlabel='step', ylabel='scale in logits; the rest as it is')
plt.legend()
plt.savefig('quickstart.png')
