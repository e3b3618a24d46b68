"""Statistics of returns, likelihoods, latents and images."""
