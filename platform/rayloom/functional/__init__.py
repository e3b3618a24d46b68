"""The equations: pure functions of tensors, each of them once, tested without a network."""
