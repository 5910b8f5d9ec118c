"""The sandbox: a process of its own that reads a file of another project.

A pickle can run code when it is opened, and a damaged file can demand any amount of memory. The
sandbox keeps such harm away from the user's process.

* `parent.py` runs in the user's process: it starts the child process, waits for its end, and says
  how it ended.
* `child.py` runs in the child process: it gives up the network, sets the limits, and calls a
  reader.
* `pickle_reader.py` and `torch7_reader.py` are the readers. They import nothing of pyramidzoo.
"""
