"""One training run: made ready, begun, driven, ended, published. Wiring only."""
