"""Converts checkpoints of other projects to the zoo's safetensors files.

`convert_file` in `conversion.py` does the whole conversion. The other modules do its steps:

* `read_file.py` reads the tensors of a file of any kind. Pickles and Torch7 files are opened in a
  process of their own (`sandbox/`), which has no network, and limits for memory and time.
* `recognition.py` finds out which layout and architecture a checkpoint fits. A layout is the way in
  which one project names and stores the tensors of its checkpoints.
* `layout.py` has the class `Layout`, which finds the tensors of a network in a checkpoint.
* `layouts/` has one module for each layout.
"""
