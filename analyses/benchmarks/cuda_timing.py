"""Time calls on a CUDA GPU in turns, by CUDA events; measure the shares of kernels and the peak memory."""

from collections.abc import Callable, Mapping

import torch
from torch.profiler import ProfilerActivity, profile

from analyses.benchmarks.timing import Timing


def take_turns(
    things: Mapping[str, Callable[[], object]], repetitions: int = 9, calls: int = 10
) -> dict[str, Timing]:
    """Seconds a call of each, measured over `calls` calls in a row by CUDA events, all in turn `repetitions` times.

    Call each before, until what it compiles, tunes and records is done.
    """
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(repetitions):
        for name, thing in things.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            for _ in range(calls):
                thing()
            end.record()
            end.synchronize()
            seconds[name].append(start.elapsed_time(end) / 1000 / calls)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def graphed(thing: Callable[[], object]) -> Callable[[], None]:
    """Return the call as one CUDA graph, recorded after two calls: its launches cost nothing."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            thing()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        thing()
    graph.replay()
    return graph.replay


def peak(thing: Callable[[], object]) -> float:
    """Return the peak memory of a call in MiB, above the memory in use before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    thing()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def kernel_shares(thing: Callable[[], object], calls: int = 5) -> list[dict[str, object]]:
    """List the kernels of a call: microseconds and launches per call, share of the total; longest first."""
    thing()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for _ in range(calls):
            thing()
        torch.cuda.synchronize()
    kernels = [
        (event.self_device_time_total / calls, event.count / calls, event.key)
        for event in profiled.key_averages()
        if event.device_type.name == "CUDA" and event.self_device_time_total
    ]
    total = sum(time for time, _, _ in kernels)
    return [
        {"kernel": name[:100], "us": time, "launches": launches, "share": time / total}
        for time, launches, name in sorted(kernels, reverse=True)
    ]
