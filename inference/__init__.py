"""What is done with a trained generator: latents, walks, projection, neighbours, export."""
