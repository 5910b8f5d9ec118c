"""Checkpoints of other projects, converted to the zoo's safetensors files.

`conversion.py` is the entry: `convert_file` does all the steps. They are in

* `read_file.py`: a file of any kind to named tensors; pickles and Torch7 files are opened in
  `sandbox/`, a process without network and with limits;
* `recognition.py`: which layout and architecture a checkpoint fits;
* `layout.py`: what a layout is, and how it finds the tensors of a network in a checkpoint;
* `layouts/`: one module for each layout, which says how a project names its tensors.
"""
