"""The command line: one parser, the commands of `pyramidzoo.commands`, and an exit code for every outcome."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from pathlib import Path

from pyramidzoo import __version__
from pyramidzoo.catalog.layouts import LAYOUTS
from pyramidzoo.catalog.manifest import announce_manifest
from pyramidzoo.commands import about, catalogue, fit, local, measure, share, speed
from pyramidzoo.errors import PyramidzooError, UnavailableError
from pyramidzoo.files import expand_user_path
from pyramidzoo.text_output import FORMATS

_EPILOG = """\
exit codes: 0 ok, 1 internal error, 2 usage, 3 not reproduced (a verdict "changed" or "different"), 4 integrity
(hash, keys, shapes, NaN, a damaged file), 5 unavailable (offline, data missing, disk), 130 interrupted

environment: PYRAMIDZOO_DATA (data sets), PYRAMIDZOO_CACHE (converted weights), PYRAMIDZOO_ORIGINS (folders searched
for weights by content, before any network), PYRAMIDZOO_MANIFEST (another manifest than the zoo's own), HF_HOME,
HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN, HF_HUB_DOWNLOAD_TIMEOUT (the Hub)
"""


def _path(text: str) -> Path:
    """A path as the user wrote it; an empty one is a variable not set, and would mean the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    return expand_user_path(text)


def _class_order(text: str) -> str | Path:
    """A way to sort, or the path of a file."""
    return text if text in ("text", "number") else _path(text)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pyramidzoo",
        description="Residual networks with pinned weights, and the evaluation that reproduces their published errors.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pyramidzoo {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: object, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False)
        added.set_defaults(run=run)
        added.add_argument(
            "--format", choices=FORMATS, default="human", help="how to print data (default: %(default)s)"
        )
        return added

    p = command("list", catalogue.run_list, "list architectures and weights")
    p.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="a shell pattern, such as 'wrn_*'")
    p.add_argument("--weights", action="store_true", help="one line for each set of weights")
    p.add_argument("--family", help="only this family, such as pyramidnet")
    p.add_argument("--dataset", help="only what has weights of this data set, such as cifar100")
    p.add_argument("--license", help="only what has weights under it: MIT, 'BSD*', or all that is redistributable")
    p.add_argument("--origin", help="only what has weights from there: akamaster, pytorchcv, or a repository")
    p.add_argument("--local", action="store_true", help="only what has weights on this machine; nothing is hashed")

    p = command("info", about.run_info, "show everything known about an architecture or a set of weights")
    p.add_argument("name", metavar="NAME", help="an architecture (wrn_16_1), an id (wrn_16_1.cifar10_ferles) or a file")

    p = command("fetch", local.run_fetch, "download, convert and verify weights, and print where they are")
    p.add_argument("weights", nargs="+", metavar="WEIGHTS", help="ids, architectures, patterns, files or folders")
    p.add_argument("--force", action="store_true", help="download and make the file anew")
    p.add_argument("-j", "--jobs", type=int, default=8, metavar="N", help="downloads at once (default: %(default)s)")

    p = command("convert", local.run_convert, "turn a foreign checkpoint into a safetensors file that describes itself")
    p.add_argument("file", type=_path, metavar="FILE", help="the checkpoint as its authors published it")
    p.add_argument("--dataset", required=True, help="what it was trained on: cifar10, cifar100, svhn, imagenet1k")
    p.add_argument("--layout", help=f"whose checkpoint it is: {', '.join(LAYOUTS)} (default: recognised)")
    p.add_argument("--arch", help="the architecture, such as resnet56 (default: recognised)")
    p.add_argument("--output", type=_path, required=True, metavar="OUT", help="the .safetensors file to write")
    p.add_argument(
        "--mean", type=float, nargs="+", help="mean it was trained with, of [0, 1] values, if not the layout's"
    )
    p.add_argument("--std", type=float, nargs="+", help="standard deviation, likewise")
    p.add_argument(
        "--force", action="store_true", help="convert even if the manifest knows these tensors from another data set"
    )

    p = command("verify", local.run_verify, "hash local weights again and compare them with the manifest")
    p.add_argument("weights", nargs="*", metavar="WEIGHTS", help="ids, architectures, patterns, files or folders")
    p.add_argument("--all", action="store_true", help="all of the manifest, and what else lies in the cache")

    p = command("evaluate", measure.run_evaluate, "evaluate weights on their data set and print both verdicts")
    p.add_argument(
        "weights",
        nargs="*",
        metavar="WEIGHTS",
        help="ids, architectures, patterns, .safetensors files or folders (default: what comes with the package)",
    )
    p.add_argument("--data-dir", type=_path, metavar="D", help="folder of the data sets (default: PYRAMIDZOO_DATA)")
    p.add_argument("--download", action="store_true", help="download the data set where it is absent")
    p.add_argument("--split", help="test or train (default: the tested one, which is val for ImageNet)")
    p.add_argument(
        "--class-order",
        type=_class_order,
        metavar="ORDER",
        help="which class each folder of images is: 'text' or 'number' sorts their names, a file has one name a line",
    )
    p.add_argument("--output", type=_path, metavar="DIR", help="keep predictions and records, and resume from them")
    p.add_argument(
        "-b", "--batch-size", type=int, default=128, metavar="N", help="images at once (default: %(default)s)"
    )
    p.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")
    p.add_argument("-j", "--jobs", type=int, metavar="N", help="processes that decode images (default: one a core)")
    p.add_argument("--resize", type=int, metavar="N", help="shorter side of large images, instead of the weights' own")
    p.add_argument("--crop", type=int, metavar="N", help="side of the square cut from their centre, likewise")
    p.add_argument("--interpolation", choices=("bilinear", "bicubic"), help="how they are resized, likewise")
    p.add_argument("--tensor-resize", action="store_true", help="resize them faster; recorded as not strict")
    p.add_argument("--channels-last", action="store_true", help="faster memory layout; recorded as not strict")
    p.add_argument("--optimize", action="store_true", help="rewrite the network for inference; recorded as not strict")
    p.add_argument(
        "--precision",
        choices=("fp32", "tf32", "bf16", "fp16"),
        default="fp32",
        help="of the whole network; all but %(default)s, the default, are recorded as not strict",
    )
    p.add_argument("--amp", action="store_true", help="mixed precision; recorded as not strict")
    p.add_argument("--amp-dtype", choices=("bf16", "fp16"), help="for --amp (default: bf16)")
    p.add_argument("--compile", action="store_true", help="torch.compile the network; recorded as not strict")
    p.add_argument("--cuda-graph", action="store_true", help="record its kernels once; recorded as not strict")
    p.add_argument("--compare", action="store_true", help="compute strictly too, and list predictions that moved")

    p = command("bench", speed.run_bench, "time networks, rewritten forms of them and the same in other libraries")
    p.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"architectures, ids of weights, patterns (default: {', '.join(speed.DEFAULT)})",
    )
    p.add_argument(
        "-b", "--batch-size", type=int, nargs="+", default=[64], metavar="N", help="images at once (default: 64)"
    )
    p.add_argument(
        "--variants",
        nargs="+",
        default=["plain", "optimized", "optimized_bf16"],
        metavar="V",
        help="plain and optimized, alone or with _tf32, _bf16, _fp16, _channelslast, _compiled, _graph (default: "
        "plain optimized optimized_bf16)",
    )
    p.add_argument(
        "--peers", nargs="+", default=["auto"], metavar="P", help="pytorchcv, timm, torchvision, none (default: auto)"
    )
    p.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each (default: %(default)s)")
    p.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")
    p.add_argument("--threads", type=int, metavar="N", help="of a CPU (default: PyTorch's own choice)")

    p = command("train", fit.run_train, "train networks by recipes; resumes where it stopped")
    p.add_argument("arch", nargs="+", metavar="ARCH", help="the architecture, such as wrn_16_1")
    p.add_argument("--recipe", nargs="+", metavar="NAME", help="recipes, such as he2015_cifar10, instead of --dataset")
    p.add_argument("--dataset", default="digits", help="the data set and its recipe (default: %(default)s)")
    p.add_argument("--output", type=_path, required=True, metavar="DIR", help="where weights and log are written")
    p.add_argument("--seed", type=int, default=0, help="of initialisation and order (default: %(default)s)")
    p.add_argument("--seeds", type=int, nargs="+", metavar="N", help="several seeds, one network for each")
    p.add_argument("--epochs", type=int, metavar="N", help="instead of the recipe's")
    p.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="bf16: autocast (default: fp32)")
    p.add_argument(
        "--algorithms",
        default="fixed",
        choices=("fixed", "fastest"),
        help="fixed: the same bits each time; fastest: what cuDNN finds fastest (default: fixed)",
    )
    p.add_argument("--minutes", type=float, metavar="M", help="stop in time; the same command goes on")
    p.add_argument("--data-dir", type=_path, metavar="D", help="folder of the data sets (default: PYRAMIDZOO_DATA)")
    p.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1")

    p = command("tables", measure.run_tables, "print the published tables, every row, beside what was measured")
    p.add_argument("tables", nargs="*", metavar="TABLE", help="F1, P1, P2, P3, W1, W2, H1 .. H6, Z (default: all)")
    p.add_argument(
        "--records", type=_path, metavar="DIR", help="an --output folder of evaluate, instead of the manifest"
    )

    p = command("publish", share.run_publish, "publish measured weights on the Hub, as their licence allows")
    p.add_argument("weights", nargs="?", metavar="WEIGHTS", help="an id, or an architecture's default")
    p.add_argument("--repo-id", metavar="OWNER/NAME", help="the repository, made if need be")
    p.add_argument("--all", action="store_true", help="all of the manifest that may be published; resumes")
    p.add_argument("--org", help="whose repositories: each set of weights goes to ORG/ID")
    p.add_argument("--private", action="store_true", help="make new repositories private")
    p.add_argument("--dry-run", action="store_true", help="only write the folder that would be uploaded")
    p.add_argument("--output", type=_path, metavar="DIR", help="keep it as DIR/ID (--dry-run: publish/ID by default)")
    p.add_argument(
        "--records", type=_path, metavar="DIR", help="an --output folder of evaluate, beside the manifest's results"
    )
    p.add_argument("--write", action="store_true", help="put the published place into the manifest file")
    return parser


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code says how it ended. Data go to stdout, everything else to stderr."""
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115 (closed by whoever started us)
    if sys.stdout is None:
        print("pyramidzoo: there is no standard output to print to", file=sys.stderr)
        return 5
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without "±" is no reason to lose a result
    args = build_parser().parse_args(argv)
    try:
        announce_manifest()
        if threading.current_thread() is threading.main_thread():
            # a scheduler's ways to stop a job, and a terminal's: clean up as for Ctrl-C
            for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
                signal.signal(number, _interrupt)
        code: int = args.run(args)
        print(end="", flush=True)
        return code
    except PyramidzooError as error:
        print(f"pyramidzoo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("pyramidzoo: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # whatever the system refuses, a name too long or a folder that may not be entered
        print(f"pyramidzoo: {UnavailableError.from_os_error(error)}", file=sys.stderr)
        return UnavailableError.exit_code
    except Exception as error:  # noqa: BLE001 (a traceback is a bug; its text is kept for the report)
        if os.environ.get("PYRAMIDZOO_DEBUG"):
            import traceback

            traceback.print_exc()
        print(
            f"pyramidzoo: internal error, {type(error).__name__}: {error}; please report it with what the same command "
            "prints under PYRAMIDZOO_DEBUG=1",
            file=sys.stderr,
        )
        return 1
