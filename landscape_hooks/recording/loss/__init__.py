"""The loss of a run: as it was asked for, stored now or later, and compared with the training's own at the end."""
