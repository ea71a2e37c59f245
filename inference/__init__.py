"""Uses of a trained generator: latents, walks, projection, neighbours, export."""
