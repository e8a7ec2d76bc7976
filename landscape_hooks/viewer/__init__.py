"""The replay: the same scene in a window and in an offscreen framebuffer. No torch in this room."""
