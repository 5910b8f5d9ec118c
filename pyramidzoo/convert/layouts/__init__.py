"""One module for each layout: how a project names the tensors of its checkpoints."""
