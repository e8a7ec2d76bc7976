"""The replay drawn by OpenGL."""
