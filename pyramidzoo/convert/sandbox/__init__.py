"""A process of its own for a foreign file, because a pickle may run code and a damaged file may take any memory.

* `parent.py` runs in this process: it starts the other one, waits for it, and says how it ended.
* `child.py` runs in the other process: it gives up the network, sets the limits, and calls a
  reader.
* `pickle_reader.py` and `torch7_reader.py` are the readers. They import nothing of pyramidzoo.
"""
