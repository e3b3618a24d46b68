"""The endings of `media.writers`, free of torch: for help texts and early refusals."""

ENDINGS = (
    *(".png", ".gif", ".mp4"),
    *(".txt", ".jsonl", ".csv", ".parquet"),
    *(".npy", ".npz", ".safetensors"),
)
