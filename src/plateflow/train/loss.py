"""The loss of Cellpose: squared error of the flows, cross entropy of the cell probability."""

import torch.nn.functional as F
from torch import Tensor

FLOW_SCALE = 5.0
"""Network units in a unit flow."""


def flow_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean loss over a batch.

    Args:
        output: (B, 3, H, W), [dy, dx, cell logit] as the network gives them.
        target: (B, 3, H, W), unit flow dy and dx, and 1 inside objects.
    """
    flow = F.mse_loss(output[:, :2], FLOW_SCALE * target[:, :2]) / 2
    return flow + F.binary_cross_entropy_with_logits(output[:, 2], target[:, 2])
