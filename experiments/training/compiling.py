"""Options for XLA, and what its programs need of a device's memory."""

from typing import Any

# XLA's YNNPACK fusions make small steps about 1.1x slower than its own reductions and matmuls, and a scheduler that
# looks for concurrency costs a little more where there are as many devices as cores.
CPU_COMPILER: dict[str, Any] = {
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_enable_concurrency_optimized_scheduler": False,
}

# XLA for TPUs turns every gather of a split matrix before its matmul into a loop of permutations, which compiles three
# times longer and keeps the scheduler from prefetching the gather: only above so many MiB.
TPU_COMPILER: dict[str, Any] = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}

# For what runs once: on a CPU half of its time was compilation at the usual effort.
QUICK_CPU_COMPILER: dict[str, Any] = {"xla_backend_optimization_level": 0}


def options(backend: str) -> dict[str, Any] | None:
    """Return the compiler options of a kind of device; None: its defaults."""
    return {"cpu": CPU_COMPILER, "tpu": TPU_COMPILER}.get(backend)


def quick_options(backend: str) -> dict[str, Any] | None:
    """Return the compiler options for a function that runs once; None: the defaults."""
    return QUICK_CPU_COMPILER if backend == "cpu" else None


def peak_bytes(compiled: Any) -> int | None:
    """Return the memory of one device that a compiled function needs at its peak; None where the backend is silent."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    # Compilers count what lies with the host in the peak. State is there all the time; what comes and goes (remat) need
    # not be there when the device has most: then all of the device's arguments and temporaries bound its peak as well.
    on_host = memory.host_argument_size_in_bytes + memory.host_output_size_in_bytes - memory.host_alias_size_in_bytes
    peak = memory.peak_memory_in_bytes - on_host
    if memory.host_temp_size_in_bytes:
        arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        peak = min(peak, arguments + memory.temp_size_in_bytes)
    return int(peak)
