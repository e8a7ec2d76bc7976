"""A live loss as a graph: what torch.export made of it, its draws, and operations written otherwise."""
