"""The machine that figures were measured on."""

import os
import platform
from pathlib import Path

import torch


def machine() -> str:
    """One line: processor, cores, torch and its threads."""
    name = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return f"{name}, {os.cpu_count()} cores ({capability}); torch {torch.__version__}, {threads} threads"
