"""Benchmarks beside peers; the one place that may import them.

A benchmark is a module with `run(*, say=...) -> dict` (JSON-able) and, for people, `table(result)`.
"""

# name: (module, what it measures)
BENCHMARKS: dict[str, tuple[str, str]] = {
    "startup": (
        "startup",
        "seconds to the first step, to register, to exit; CPU seconds of light commands",
    ),
    "engine": ("engine", "the engine beside a bare PyTorch loop, Lightning and pythae"),
    "vae-speed": ("vae_speed", "steps and likelihoods of the VAE beside pythae and by hand"),
    "vae-quality": ("vae_quality", "test ELBO and NLL beside pythae, 3 seeds (an hour)"),
    "dqn": ("dqn", "DQN beside RLlib and Stable-Baselines3"),
    "methods": (
        "methods",
        "every method, or METHOD ..., through all that it must do (make matrix)",
    ),
}
