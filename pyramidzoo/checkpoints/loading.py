"""Loading a weights file into a network: check the file, map it, and assign its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pyramidzoo.checkpoints.finite_values import check_finite
from pyramidzoo.checkpoints.hashes import FileState, file_state, forget_hashes, require_hash
from pyramidzoo.checkpoints.safetensors_file import Content, read_content
from pyramidzoo.checkpoints.signatures import COUNTER, check_signatures, signatures_of, stored_signatures
from pyramidzoo.errors import IntegrityError, UnavailableError
from pyramidzoo.models._interface import ImageClassifier

_ATTEMPTS = 100  # to read a file in one state while other processes keep replacing it
_checked: set[FileState] = set()  # states of files whose header and values were accepted in this process


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
        state = file_state(path)
        if sha256:
            require_hash(path, sha256, "it was replaced while it was being loaded; load it again")
        content = read_content(path, header_checked=state in _checked)
        if state == file_state(path):
            break  # The file did not change meanwhile: what was mapped is what was hashed.
    else:
        raise UnavailableError(f"{path} is being replaced again and again; load it when that is over")
    if state not in _checked:
        values = {name: tensor for name, tensor in content.tensors.items() if not name.endswith(COUNTER)}
        check_finite(values, what=str(path))
        if state is not None:
            _checked.add(state)
    return content


def load_weights(model: ImageClassifier, content: Content, *, head: Literal["require", "drop"] = "require") -> None:
    """Give a network the tensors of a weights file.

    Names, dtypes and shapes must be exactly those of the network; only batch counters may be
    absent. The network's tensors are replaced and not written to: they become the file's private
    memory map.

    Args:
        model: A network of the zoo.
        content: What `read_weights` returned.
        head: "require" to load all tensors; "drop" to leave the classifier of the file out,
            whatever its size, and to keep that of the network.

    Raises:
        IntegrityError: The file does not fit the network, which then is unchanged.
    """
    own_tensors = model.state_dict()
    tensors = dict(content.tensors)
    actual, expected = signatures_of(tensors), stored_signatures(model)
    if head == "drop":
        head_prefix = f"{model.classifier_name}."
        head_names = [name for name in tensors if name.startswith(head_prefix)]
        if not head_names:
            raise IntegrityError(f"{content.path} has no classifier to leave out; it is not a classifier's file")
        for name in head_names:
            del tensors[name], actual[name]
        tensors |= {name: tensor for name, tensor in own_tensors.items() if name.startswith(head_prefix)}
        expected = {name: part for name, part in expected.items() if not name.startswith(head_prefix)}
    check_signatures(
        actual, expected, what=f"{content.path} does not fit", next_step="is it another architecture, or not float32?"
    )
    for name in own_tensors.keys() - tensors.keys():  # After the check only batch counters can be absent.
        tensors[name] = torch.zeros((), dtype=own_tensors[name].dtype, device="cpu")
    _assign_tensors(model, tensors)


def forget_verified() -> None:
    """Verify every file again from here on, as a new process would: its hash, its header and its values."""
    forget_hashes()
    _checked.clear()


def _assign_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Do what `load_state_dict(assign=True)` does, several times as fast, with tensors that are known to fit."""
    for prefix, module in model.named_modules():
        start = f"{prefix}." if prefix else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(tensors[start + name], requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = tensors[start + name]
