"""A method of a model as a module: what `exports()` hands to `torch.export`."""

from torch import Tensor, nn


class Method(nn.Module):
    """Calls one method of a model with one tensor; the model's parts are shared, not copied.

    Args:
        model: The model.
        name: Of the method, tensor to tensor.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, x: Tensor) -> Tensor:
        """What the method gives."""
        result: Tensor = getattr(self.model, self.name)(x)
        return result
