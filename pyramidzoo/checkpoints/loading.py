"""Loading a weights file into a network: check the file, map it into memory, and give its tensors to the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pyramidzoo.checkpoints.finite_values import check_finite
from pyramidzoo.checkpoints.hashes import FileState, forget_hashes, get_file_state, require_hash
from pyramidzoo.checkpoints.safetensors_file import Content, read_content
from pyramidzoo.checkpoints.signatures import COUNTER, check_signatures, get_signatures, get_stored_signatures
from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.models._interface import ImageClassifier

_ATTEMPTS = 100  # how often a file is read again because another process replaced it meanwhile
_accepted_states: set[FileState] = set()  # the states of files whose header and values this process has accepted


def read_weights(path: Path, *, sha256: str | None = None) -> Content:
    """Read a weights file and check it.

    The header and the values are checked when a process reads a file for the first time, and again
    after the file has changed. The tensors are a private memory map of the file.

    Args:
        path: The safetensors file.
        sha256: The hash that the file must have, in lower-case hex digits; None if no hash is
            known.

    Returns:
        The content of the file, on the CPU.

    Raises:
        IntegrityError: The file is damaged, has another hash, or holds values that are not finite.
        UnavailableError: The file cannot be read.
    """
    for _ in range(_ATTEMPTS):
        state = get_file_state(path)
        if sha256:
            require_hash(path, sha256, "it was replaced while it was being loaded; load it again")
        content = read_content(path, header_checked=state in _accepted_states)
        if state == get_file_state(path):
            break  # The file did not change meanwhile, so the tensors are those of the file that was hashed.
    else:
        raise UnavailableError(f"{path} is being replaced again and again; load it when that is over")
    if state not in _accepted_states:
        values = {name: tensor for name, tensor in content.tensors.items() if not name.endswith(COUNTER)}
        check_finite(values, error_start=str(path))
        if state is not None:
            _accepted_states.add(state)
    return content


def load_weights(model: ImageClassifier, content: Content, *, head: Literal["require", "drop"] = "require") -> None:
    """Give a network the tensors of a weights file.

    Names, dtypes and shapes must be exactly those of the network; only batch counters may be
    absent. The network's tensors are replaced by those of the file. Their memory is not copied: it
    is a private memory map of the file.

    Args:
        model: A network of the zoo.
        content: What `read_weights` returned.
        head: "require" loads all tensors. "drop" loads all but the file's classifier, which may
            have any size; the network keeps its own classifier.

    Raises:
        IntegrityError: The file does not fit the network, which then is unchanged.
    """
    model_tensors = model.state_dict()
    tensors = dict(content.tensors)
    actual, expected = get_signatures(tensors), get_stored_signatures(model)
    if head == "drop":
        head_prefix = f"{model.classifier_name}."
        head_names = [name for name in tensors if name.startswith(head_prefix)]
        if not head_names:
            raise IntegrityError(f"{content.path} has no classifier to leave out; it is not a classifier's file")
        # The network keeps its own classifier, so the classifiers are left out of the comparison below.
        for name in head_names:
            del tensors[name], actual[name]
        tensors |= {name: tensor for name, tensor in model_tensors.items() if name.startswith(head_prefix)}
        expected = {name: signature for name, signature in expected.items() if not name.startswith(head_prefix)}
    check_signatures(
        actual,
        expected,
        error_start=f"{content.path} does not fit",
        next_step="is it another architecture, or not float32?",
    )
    for name in model_tensors.keys() - tensors.keys():  # After the check only batch counters can be absent.
        tensors[name] = torch.zeros((), dtype=model_tensors[name].dtype, device="cpu")
    _assign_tensors(model, tensors)


def forget_verified() -> None:
    """Forget which files were verified: the hash, header and values of each file are checked again at its next use."""
    forget_hashes()
    _accepted_states.clear()


def _assign_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors into a network in place of its own parameters and buffers.

    The result is that of `load_state_dict(assign=True)`, in a fraction of the time. Names, dtypes
    and shapes are not checked, so the caller must have checked them.
    """
    # PyTorch keeps the tensors of a module in these two dictionaries. Writing to them directly skips
    # the checks that take most of the time of `load_state_dict`.
    for module_name, module in model.named_modules():
        prefix = f"{module_name}." if module_name else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(tensors[prefix + name], requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = tensors[prefix + name]
