"""Measures: numbers beside the picture, as a run stores them: curvature along the path, flatness at its end."""
