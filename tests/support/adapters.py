"""Changes to adapters in tests."""

from __future__ import annotations

import torch


def randomize_adapter(model, scale: float = 0.2) -> None:
    """Gives every B matrix a random value, so that the adapter has an effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
