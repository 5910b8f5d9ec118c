"""The commands: one module for each, under its name.

Each module has `add_arguments(parser)` and `run(args)`, which returns the exit code. Only the module
of the command that is asked for is imported, so that `--help` answers at once.
"""

COMMANDS = {  # in the order of --help, with what it says of each
    "list": "list architectures and weights",
    "info": "show everything known about an architecture or a set of weights",
    "fetch": "download, convert and verify weights, and print where they are",
    "convert": "turn a foreign checkpoint into a safetensors file that describes itself",
    "verify": "hash local weights again and compare them with the manifest",
    "evaluate": "evaluate weights on their dataset and print both verdicts",
    "bench": "time networks, rewritten forms of them and the same in other libraries",
    "train": "train networks by recipes; resumes where it stopped",
    "tables": "print the published tables, every row, beside what was measured",
    "publish": "publish measured weights on the Hub, as their license allows",
}
