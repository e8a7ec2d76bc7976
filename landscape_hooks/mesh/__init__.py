"""A surface as triangles."""
