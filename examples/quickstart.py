"""A bias on attention whose scale is learned, in a minute: torch, matplotlib and cmt_bias.ops alone.

Queries look for their code among the tokens of two sensors. It is written at each query's place in
both sensors' maps, but in every scene one sensor is spoiled and shows noise. A query has a hint of
which. A linear router turns it into trust from -1 to 1, and scale x trust is added to the logits of
the tokens around the query's place. Attention is content-blind here: only the bias can find the code.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from cmt_bias.bias import BiasScale
from cmt_bias.ops import QueryWindows, TokenLayout, Window, WindowedBias, biased_attention

SCENES, QUERIES, CHANNELS, STEPS = 32, 16, 16, 300
LAYOUT = TokenLayout(bev_shape=(12, 12), num_views=1, view_shape=(8, 16))
SHAPES = (Window(radius=0), Window(radius=0))  # of the LiDAR's and of the camera's window, in cells


def make_scenes() -> tuple[torch.Tensor, ...]:
    """Tokens (B, 1, K, C), middle cells (B, Q, 2, 2), hints (B, Q, 2) and codes (B, Q, C)."""
    codes = torch.randn(SCENES, QUERIES, CHANNELS)
    tokens = torch.randn(SCENES, LAYOUT.num_tokens, CHANNELS)
    healthy = torch.randint(2, (SCENES,))  # 0: the LiDAR, 1: the camera
    places = torch.stack([torch.rand(SCENES, s.rows * s.columns).argsort(1)[:, :QUERIES] for s in LAYOUT.segments], -1)
    for scene, sensor in enumerate(healthy):
        tokens[scene, LAYOUT.segments[sensor].start + places[scene, :, sensor]] = codes[scene]
    columns = torch.tensor([segment.columns for segment in LAYOUT.segments])
    cells = torch.stack((places // columns, places % columns), dim=-1).int()
    hints = 2.0 * nn.functional.one_hot(healthy, 2)[:, None] - 1 + torch.randn(SCENES, QUERIES, 2)
    return tokens[:, None], cells, hints, codes


torch.manual_seed(0)
scale = BiasScale(bias_scale=1.0, learnable_scale=True)
router = nn.Linear(2, 2)
nn.init.zeros_(router.weight)  # all trust starts at 0, so the bias starts with no effect
nn.init.zeros_(router.bias)
optimizer = torch.optim.Adam([dict(params=scale.parameters(), lr=0.03), dict(params=router.parameters(), lr=0.01)])
curve = []
for step in range(STEPS):
    tokens, cells, hints, codes = make_scenes()
    trust = router(hints).tanh()  # (B, Q, 2), LiDAR and camera
    bias = WindowedBias(QueryWindows(LAYOUT, cells, SHAPES), scale.scale_in_effect() * trust)
    found = biased_attention(torch.zeros_like(codes)[:, None], torch.zeros_like(tokens), tokens, bias)
    loss = (found.squeeze(1) - codes).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    curve.append((scale.bias_scale.item(), scale.bias_scale.grad.item(), loss.item()))
    if step % 50 == 0 or step == STEPS - 1:
        print('step {:3d}: scale {:.2f}, its gradient {:+.4f}, loss {:.3f}'.format(step, *curve[-1]))

figure, axes = plt.subplots(3, 1, sharex=True)
for ax, values, label in zip(axes, zip(*curve), ('scale', 'its gradient', 'loss')):
    ax.plot(values)
    ax.set_ylabel(label)
axes[-1].set_xlabel('step')
figure.savefig('quickstart.png')
