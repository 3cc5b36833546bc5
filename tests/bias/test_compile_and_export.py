"""``torch.compile`` and ``torch.export`` trace the head's inference, the bias included."""

import pytest
import torch
from torch import Tensor, nn

from .golden_head import build_biased, features, metas

# It tells these operators apart in a graph.
OPERATOR = torch.ops.cmt_bias.windowed_attention.default


class Inference(nn.Module):
    """The head on features of a fixed size and fixed calibration."""

    def __init__(self) -> None:
        super().__init__()
        head = build_biased(learnable_scale=True, lidar_window=3, camera_window=3)
        nn.init.normal_(head.weight_generator.weight_logits.weight, std=0.1)
        self.head = head.eval()

    def forward(self, bev: Tensor, images: Tensor) -> dict[str, Tensor]:
        return self.head([bev], [images], metas())[0][0]


@pytest.fixture(scope='module')
def inference() -> Inference:
    return Inference()


@pytest.fixture(scope='module')
def inputs() -> tuple[Tensor, Tensor]:
    (bev,), (images,) = features()
    return bev, images


@torch.no_grad()
def test_compiled_inference_is_one_graph_with_the_same_boxes(inference, inputs):
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(inference, backend=keep, fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), inference(*inputs))
    assert len(graphs) == 1


@torch.no_grad()
def test_exported_inference_has_the_operator_and_the_same_boxes(inference, inputs):
    exported = torch.export.export(inference, inputs)
    layers = inference.head.transformer.decoder.num_layers
    # regions of one precision are graphs of their own
    graphs = [m.graph for m in exported.graph_module.modules() if hasattr(m, 'graph')]
    calls = [node for graph in graphs for node in graph.nodes if node.target is OPERATOR]
    assert len(calls) == layers + 1  # and the router
    torch.testing.assert_close(exported.module()(*inputs), inference(*inputs))
