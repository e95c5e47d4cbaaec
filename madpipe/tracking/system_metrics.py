"""What the machine is busy with, under the names that MLflow's own "System metrics" tab shows; needs psutil.

MLflow has a monitor of its own. It runs in a thread and writes by itself: what it cannot send to a server that is away
would be lost, where metrics of a run are kept.
"""

from functools import cache
from typing import Any

_MEGABYTE = 1e6


def system_metrics() -> dict[str, float]:
    """CPU and memory in use now, of the machine and of this process; nothing where psutil is not installed.

    CPU is measured since the last call, in percent of all cores; a first call gives 0.
    """
    process = _process()
    if process is None:
        return {}
    import psutil

    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": float(psutil.cpu_percent()),
        "system/system_memory_usage_megabytes": memory.used / _MEGABYTE,
        "system/system_memory_usage_percentage": float(memory.percent),
        "system/process_memory_usage_megabytes": process.memory_info().rss / _MEGABYTE,
    }


@cache
def _process() -> Any:
    """This process, with the first look at the CPU taken; None without psutil."""
    try:
        import psutil
    except ImportError:
        return None
    psutil.cpu_percent()
    return psutil.Process()
