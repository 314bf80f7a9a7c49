"""A screen on a cluster larger than any at hand: a discrete-event simulation of its jobs, with simpy.

    python bench/scale.py [--out docs]          # all cases: a table and a figure

The chain of each plate is simulated job by job, as the Snakefile makes it: a job starts when its inputs are there and
the driver has seen so (it polls), waits for a GPU or a core, starts, reads and writes through one shared storage, and
fails now and then, to be tried again with the time of a whole job lost. Sizes and rates are those of
`plateflow.estimate`, which are measured; what isn't is stated in `Case`.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import simpy

from plateflow.config import Config, LabelSet, Parts
from plateflow.estimate import RATES, Estimate, Rate, Size

HEADLINE = Size(wells=384, fields=9, channels=5, z=1, t=1, field_mpx=1.1664, canvas_mpx=10.4976, image_mpx=10.4976)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One simulation; the defaults are the headline case of issue 7."""

    plates: int = 100
    gpus: int = 16
    cores: int = 200
    parts: tuple[int, int] = (8, 2)
    tiles_s: float = 300.0
    storage_gb_s: float = 2.0
    failures: float = 0.02
    poll_s: float = 40.0
    start_s: float = 20.0
    load_s: float = 15.0
    """Start of the program and of the model, in a GPU job."""
    jobs: int = 200
    """Jobs in the queue at a time, as the profile's `jobs`."""
    flows: str = "as is"
    """How often flows go through the storage: "as is", written once and read twice, end points too; "fused",
    flows written and read once and no end points, as if one job followed and stitched."""
    order: str = "plate"
    """Which of the waiting jobs goes first: of the earliest plate, or the longest waiting ("fifo")."""


class Cluster:
    """GPUs, cores, and storage that divides its bandwidth among those who use it."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        config = Config(
            parts=Parts(cpu=case.parts[0], gpu=case.parts[1]),
            segmentation={"nuclei": LabelSet(channels=["DNA"]), "cells": LabelSet(channels=["AGP"])},
            device="cuda",
        )
        gpu_rate = Rate(seconds=case.load_s, per_unit=1 / case.tiles_s, memory_mb=0)
        self.case, self.estimate = case, Estimate(HEADLINE, config, {"infer cuda": gpu_rate})
        self.env, self.random = simpy.Environment(), random.Random(seed)
        self.gpus = simpy.PriorityResource(self.env, case.gpus)
        self.cores = simpy.PriorityResource(self.env, case.cores)
        self.slots = simpy.PriorityResource(self.env, case.jobs)
        self.storage = simpy.Resource(self.env, 1)
        self.gpu_busy = self.gpu_work = self.core_busy = self.moved_gb = 0.0
        self.failed = self.run = 0

    def traffic_gb(self, stage: str) -> float:
        """What a job reads and writes."""
        traffic, sizes = self.estimate.traffic_gb(), self.estimate.storage()
        if self.case.flows == "fused":
            flows = self.estimate.size.wells * self.estimate.label_mpx * 6e-3
            traffic["follow"] = flows
            traffic["stitch"] -= sizes["scratch_gb"]
        return traffic.get(stage, 0.01) / self.estimate.jobs(stage)

    def job(self, plate: int, stage: str):
        """One job with its attempts; ends when the driver knows that it is done."""
        case, env = self.case, self.env
        on_gpu = stage == "infer"
        seconds = self.estimate.seconds(stage)
        priority = plate if case.order == "plate" else 0
        for attempt in range(4):
            with self.slots.request(priority=priority) as slot:
                yield slot
                pool = self.gpus if on_gpu else self.cores
                with pool.request(priority=priority) as place:
                    yield place
                    began = env.now
                    yield env.timeout(case.start_s)
                    fails = self.random.random() < case.failures and attempt < 3
                    spread = self.random.uniform(0.9, 1.1)
                    transfer = env.process(self.transfer(self.traffic_gb(stage)))
                    if on_gpu:  # reads ahead and writes behind: the slower of the two counts
                        yield env.timeout(seconds * spread) & transfer
                    else:
                        yield transfer
                        yield env.timeout(seconds * spread)
                    self.run += 1
                    self.failed += fails
                    if on_gpu:
                        self.gpu_busy += env.now - began
                        self.gpu_work += 0 if fails else (seconds - case.load_s) * spread
                    else:
                        self.core_busy += env.now - began
                # The place is free at once; the driver sees the end at its next poll.
                yield env.timeout(self.random.uniform(0, case.poll_s))
            if not fails:
                return

    def transfer(self, gigabytes: float):
        """Bytes through the storage, one job's gigabyte after the other's, so that all share its bandwidth."""
        self.moved_gb += gigabytes
        while gigabytes > 0:
            part = min(1.0, gigabytes)
            with self.storage.request() as turn:
                yield turn
                yield self.env.timeout(part / self.case.storage_gb_s)
            gigabytes -= part

    def plate(self, number: int):
        """All jobs of a plate, as the Snakefile lets them wait for each other."""
        cpu, gpu = self.case.parts
        env = self.env
        yield env.process(self.job(number, "ingest"))
        yield env.all_of([env.process(self.job(number, "tile")) for _ in range(cpu)])
        yield env.process(self.job(number, "normalise"))
        yield env.all_of([env.process(self.group(number, cpu // gpu)) for _ in range(gpu)])
        yield env.process(self.job(number, "aggregate"))
        yield env.process(self.job(number, "report"))

    def group(self, number: int, parts: int):
        """A GPU part, then the CPU parts that wait for it."""
        yield self.env.process(self.job(number, "infer"))
        yield self.env.all_of([self.env.process(self.part(number)) for _ in range(parts)])

    def part(self, number: int):
        for stage in ("follow", "stitch", "features"):
            yield self.env.process(self.job(number, stage))


def simulate(case: Case, seed: int = 0) -> dict[str, float]:
    """Run a case; hours, shares and counts."""
    cluster = Cluster(case, seed)
    done = cluster.env.all_of([cluster.env.process(cluster.plate(n)) for n in range(case.plates)])
    cluster.env.run(done)
    makespan, estimate = cluster.env.now, cluster.estimate
    sizes = estimate.storage()
    return {
        "makespan_h": makespan / 3600,
        "gpu_occupancy": cluster.gpu_busy / (case.gpus * makespan),
        "gpu_useful": cluster.gpu_work / (case.gpus * makespan),
        "gpu_needed_share": cluster.gpu_work / cluster.gpu_busy,
        "gpu_h": cluster.gpu_busy / 3600,
        "core_occupancy": cluster.core_busy / (case.cores * makespan),
        "core_h": cluster.core_busy / 3600,
        "storage_use": cluster.moved_gb / case.storage_gb_s / makespan,
        "moved_tb": cluster.moved_gb / 1000,
        "infer_min": estimate.seconds("infer") / 60,
        "features_min": estimate.seconds("features") / 60,
        "jobs": cluster.run,
        "failed": cluster.failed,
        "files_m": case.plates * (sizes["result_files"] + sizes["scratch_files"]) / 1e6,
        "scratch_tb": case.plates * sizes["scratch_gb"] / 1000,
    }


def average(case: Case) -> dict[str, float]:
    """The mean over a few seeds: which job fails late alone moves the makespan by a quarter of an hour."""
    runs = [simulate(case, seed) for seed in range(1 if case.plates > 400 else 5)]
    return {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}


HEAD = Case(plates=100, gpus=16)
PLATES, GPUS = (100, 1000), (8, 16, 32, 64)
WHAT_IF = {
    "headline: 100 plates, 16 GPUs, parts {cpu: 8, gpu: 2}": HEAD,
    "parts {cpu: 8, gpu: 1}": replace(HEAD, parts=(8, 1)),
    "parts {cpu: 8, gpu: 4}": replace(HEAD, parts=(8, 4)),
    "parts {cpu: 4, gpu: 1}": replace(HEAD, parts=(4, 1)),
    "parts {cpu: 16, gpu: 2}": replace(HEAD, parts=(16, 2)),
    "100 jobs in the queue": replace(HEAD, jobs=100),
    "300 jobs in the queue": replace(HEAD, jobs=300),
    "2 GPUs, parts {cpu: 8, gpu: 1}": replace(HEAD, gpus=2, parts=(8, 1)),
    "4 GPUs": replace(HEAD, gpus=4),
    "4 GPUs, parts {cpu: 8, gpu: 1}": replace(HEAD, gpus=4, parts=(8, 1)),
    "4 GPUs, 4 GB/s, 400 cores, parts {cpu: 16, gpu: 1}": replace(
        HEAD, gpus=4, storage_gb_s=4.0, cores=400, parts=(16, 1), jobs=500
    ),
    "100 cores": replace(HEAD, cores=100),
    "400 cores": replace(HEAD, cores=400, jobs=500),
    "4 GB/s": replace(HEAD, storage_gb_s=4.0),
    "8 GB/s": replace(HEAD, storage_gb_s=8.0),
    "12 GB/s, 800 cores": replace(HEAD, storage_gb_s=12.0, cores=800, jobs=1000),
    "12 GB/s, 800 cores, parts {cpu: 16, gpu: 1}": replace(
        HEAD, storage_gb_s=12.0, cores=800, parts=(16, 1), jobs=1000
    ),
    "12 GB/s, 800 cores, parts {cpu: 16, gpu: 1}, 400 plates": replace(
        HEAD, plates=400, storage_gb_s=12.0, cores=800, parts=(16, 1), jobs=1000
    ),
    "20 GB/s, 1,600 cores, parts {cpu: 48, gpu: 2}, polling and start 5 s": replace(
        HEAD, storage_gb_s=20.0, cores=1600, parts=(48, 2), jobs=3000, poll_s=5.0, start_s=5.0
    ),
    "flows read once, no end points": replace(HEAD, flows="fused"),
    "flows read once, no end points, 4 GB/s, 400 cores": replace(
        HEAD, flows="fused", storage_gb_s=4.0, cores=400, jobs=500
    ),
    "longest waiting first": replace(HEAD, order="fifo"),
    "no failures": replace(HEAD, failures=0.0),
    "polling 5 s, start 2 s": replace(HEAD, poll_s=5.0, start_s=2.0),
    "100 tiles a second a GPU": replace(HEAD, tiles_s=100.0),
}


def limits(found: dict[str, float]) -> str:
    shares = {
        "GPUs": found["gpu_occupancy"],
        "cores": found["core_occupancy"],
        "storage": found["storage_use"],
    }
    name, share = max(shares.items(), key=lambda item: item[1])
    return name if share > 0.7 else "none above 70 %: waiting"


def row(name: str, found: dict[str, float]) -> str:
    return (
        f"| {name} | {found['makespan_h']:.1f} | {found['gpu_occupancy']:.2f} | {found['gpu_useful']:.2f} | "
        f"{found['gpu_needed_share']:.2f} | {found['core_occupancy']:.2f} | {found['storage_use']:.2f} | "
        f"{found['gpu_h']:.0f} | {found['core_h']:.0f} | {found['jobs']:,.0f} | {limits(found)} |"
    )


HEADER = (
    "| case | makespan, h | GPUs held | GPUs at work | at work while held | cores held | storage | GPU h | core h | "
    "jobs | limit |\n|" + " --- |" * 11
)


def figure(results: dict[tuple[int, int], dict[str, float]], path: Path) -> None:
    """Makespan and occupancy by the number of GPUs."""
    import altair as alt

    shares = {"GPUs held": "gpu_occupancy", "GPUs at work": "gpu_useful", "cores": "core_occupancy"}
    shares |= {"storage": "storage_use"}
    rows = [
        {"plates": f"{plates} plates", "GPUs": str(gpus), "what": what, "value": found[key]}
        for (plates, gpus), found in results.items()
        for what, key in shares.items()
    ]
    times = [
        {"plates": f"{plates} plates", "GPUs": str(gpus), "hours": found["makespan_h"]}
        for (plates, gpus), found in results.items()
    ]
    x = alt.X("GPUs:O", sort=[str(n) for n in GPUS], axis=alt.Axis(labelAngle=0))
    share = alt.Chart(alt.Data(values=rows)).mark_line(point=True)
    share = share.encode(x=x, y=alt.Y("value:Q", title="share in use", scale=alt.Scale(domain=[0, 1])), color="what:N")
    hours = alt.Chart(alt.Data(values=times)).mark_line(point=True, color="black")
    hours = hours.encode(x=x, y=alt.Y("hours:Q", title="makespan, h", scale=alt.Scale(type="log")))
    panels = []
    for plates in PLATES:
        mine = f"datum.plates == '{plates} plates'"
        size = {"width": 230, "height": 170}
        panels.append(
            hours.transform_filter(mine).properties(title=f"{plates} plates", **size)
            | share.transform_filter(mine).properties(**size)
        )
    alt.vconcat(*panels).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for scale.svg; without it only the tables are printed")
    out = parser.parse_args().out
    print(json.dumps({"headline": asdict(HEAD), "rates": {name: asdict(rate) for name, rate in RATES.items()}}))
    results = {(n, g): average(replace(HEAD, plates=n, gpus=g)) for n in PLATES for g in GPUS}
    print(HEADER)
    for (plates, gpus), found in results.items():
        print(row(f"{plates} plates, {gpus} GPUs", found), flush=True)
    print(HEADER)
    for name, case in WHAT_IF.items():
        print(row(name, average(case)), flush=True)
    print(json.dumps({f"{n} plates, {g} GPUs": found for (n, g), found in results.items()}))
    if out is not None:
        figure(results, out / "scale.svg")


if __name__ == "__main__":
    main()
