"""Export: a surface as PLY mesh, GLB scene or figure."""
