"""What the replay shows, as pure arithmetic: camera, timeline, look, controls, labels."""
