"""Describe what a fold is trained with beside code and data: device, precision, threads, versions.

Another of these gives other bytes, so a checkpoint belongs to one environment, and each fold's
manifest records its own. Standard library only: `digits status` asks what can be resumed here.
"""

import dataclasses
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRIVER = Path("/dev")  # where NVIDIA's driver has a file for each GPU, nvidia0 and so on
INSTRUCTIONS = {  # by the flags with which Linux names them, the fastest first
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 with bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
PACKAGES = ("tensorflow", "keras", "numpy")
CHECKPOINTS = "checkpoint-*.npz"  # a fold's, of whatever environment


@dataclass(frozen=True)
class Environment:
    """What a fold is trained with, and why; a fold's manifest records it."""

    device: str
    device_reason: str
    precision: str  # a Keras dtype policy
    precision_reason: str
    threads: int  # among which TensorFlow divides a sum
    versions: Mapping[str, str]
    node: str

    @property
    def name(self) -> str:
        """The part of a file's name that tells checkpoints of several environments apart."""
        words = " ".join(f"{key} {value}" for key, value in identity(self.metadata()).items())
        return re.sub(r"[^a-z0-9.]+", "-", words.lower())

    @property
    def checkpoint(self) -> str:
        """The name of a fold's checkpoint: a run in another environment cannot continue it."""
        return CHECKPOINTS.replace("*", self.name)

    def metadata(self) -> dict[str, Any]:
        """Return the fields, for a manifest."""
        return dataclasses.asdict(self)


def environment(device: str, device_reason: str, chosen: tuple[str, str]) -> Environment:
    """Describe this process; `chosen` is from `choose_precision`."""
    from importlib import metadata  # a third of the time of a command that has nothing to do

    versions = {name: metadata.version(name) for name in PACKAGES}
    versions["python"] = platform.python_version()
    return Environment(device, device_reason, *chosen, threads(), versions, platform.node())


def without_gpu(precision: str) -> Environment | None:
    """Describe what a fold would be trained with here; None if there may be a GPU."""
    if any(DRIVER.glob("nvidia[0-9]*")):
        return None
    return environment(cpu_name(), "", choose_precision(precision, False, None, cpu_flags()))


def identity(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an environment changes the bytes, from a fold's metadata; None if unknown."""
    versions = metadata.get("versions", {})
    found = {name: metadata.get(name) for name in ("precision", "device", "threads")}
    return found | {name: versions.get(name) for name in ("tensorflow", "keras")}


def differences(folds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say in which way some folds were trained differently, from the metadata of each.

    differences({"fold 0": {"precision": "float32"}, "fold 1": {"precision": "mixed_bfloat16"}})
    # ["precision: float32 in fold 0, mixed_bfloat16 in fold 1"]
    """
    found = []
    by_name = {name: identity(metadata) for name, metadata in folds.items()}
    for key in next(iter(by_name.values()), {}):
        groups: dict[Any, list[str]] = {}
        for name, its in by_name.items():
            if its[key] is not None:
                groups.setdefault(its[key], []).append(name)
        if len(groups) > 1:
            parts = (f"{value} in {_span(names)}" for value, names in groups.items())
            found.append(f"{key}: {', '.join(parts)}")
    return found


def _span(names: list[str]) -> str:
    """Shorten a list of names: "fold 0 to fold 3"."""
    return f"{names[0]} to {names[-1]}" if len(names) > 2 else " and ".join(names)


def choose_precision(
    wanted: str, gpu: bool, capability: tuple[int, int] | None, flags: frozenset[str]
) -> tuple[str, str]:
    """Choose the Keras dtype policy; return it with the reason.

    Args:
        wanted: the policy that the preset asks for, or "auto".
        gpu: whether it runs on a GPU.
        capability: the GPU's compute capability, if known.
        flags: the CPU's features, as Linux names them.
    """
    if wanted != "auto":
        return wanted, "train.precision asks for it"
    if gpu:
        if capability is None:
            return "float32", "the GPU's compute capability is unknown"
        known = f"the GPU's compute capability is {capability[0]}.{capability[1]}"
        policies = {(8, 0): "mixed_bfloat16", (7, 0): "mixed_float16", (0, 0): "float32"}
        return next(its for least, its in policies.items() if capability >= least), known
    if found := flags & {"avx512_bf16", "amx_bf16"}:
        return "mixed_bfloat16", f"the CPU has {max(found)}"
    return "float32", "the CPU has no bfloat16 arithmetic"


def cpu_name() -> str:
    """Name the kind of this CPU: "CPU (AVX2)"."""
    found = (name for flag, name in INSTRUCTIONS.items() if flag in cpu_flags())
    return f"CPU ({next(found, platform.machine())})"


def cpu_flags() -> frozenset[str]:
    """List the CPU's features, as Linux names them; none on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def threads() -> int:
    """Count the CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
