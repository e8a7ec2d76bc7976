"""What is watched in a training: optimizer steps, loaded states, weights that change between steps."""
