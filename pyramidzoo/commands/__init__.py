"""The commands of the command line. Each command has a module of the same name.

Modules whose names begin with an underscore are used by several commands.

A command's module has two functions. `add_arguments(parser)` defines the arguments of the command. `run(args)` runs the
command and returns the exit code. First `run` makes a typed record from the parsed arguments, see
`CommandOptions.from_args`.

Only the module of the requested command is imported. It imports PyTorch inside functions. So `--help` is quick.
"""

# The commands in the order of `--help`, each with its text in `--help`.
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
