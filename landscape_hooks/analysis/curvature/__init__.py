"""Curvature: second derivatives of the loss along the path, and the measures of flatness at its end."""
