"""The commands: one module for each, under its name. Modules that begin with an underscore are shared.

Each command has `add_arguments(parser)`, which defines its arguments, and `run(args)`, which returns the
exit code. `run` turns the parsed arguments into a typed record at once (`CommandOptions.from_args`).

Only the module of the command that is asked for is imported, and it imports torch only when it runs. So
`--help` answers at once.
"""

# The commands in the order of `--help`, with what it says about each of them.
COMMANDS = {
    "list": "list architectures and weights",
    "info": "show everything known about an architecture or a set of weights",
    "fetch": "download, convert and verify weights, and print where they are",
    "convert": "turn a checkpoint of another project into a safetensors file that describes itself",
    "verify": "hash the weights on this machine again, and compare them with the manifest",
    "evaluate": "evaluate weights on their dataset and print both verdicts",
    "bench": "time networks, their rewritten forms, and the same networks in other libraries",
    "train": "train networks by recipes, and continue trainings that were stopped",
    "recipes": "list the recipes by which networks are trained",
    "curves": "draw error and loss of trainings into a figure",
    "tables": "print the published tables, every row, beside what was measured",
    "publish": "publish measured weights on the Hub, as their license allows",
}
