"""Where a command's work is done: the options of runners, and several GPUs of this machine by their names.

Must not know what the work is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from segment.cli.option_groups import OptionGroup
from segment.errors import WrongUse, near

if TYPE_CHECKING:
    from segment.runners.runner import Runner

RunnerName = Annotated[
    str,
    typer.Option(
        "--runner",
        help="local, or ray: images in processes of Ray (extra `ray`); default: local, ray for several --device.",
        show_default=False,
    ),
]
RayAddress = Annotated[
    str, typer.Option(help="Address of a Ray cluster, as HOST:6379, or auto; default: a Ray on this machine alone.")
]
Actors = Annotated[
    int | None, typer.Option(help="Processes of Ray; default: the cores divided by the threads of each.")
]
ActorGpus = Annotated[float | None, typer.Option(help="GPUs of each Ray process, which may be a part of one.")]
Devices = Annotated[
    str,
    typer.Option("--device", help="auto, cpu, cuda, cuda:N, or GPUs of this machine as cuda:0,cuda:1, a process each."),
]
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class WorkPlace:
    """Where a command's work is done.

    runner: local or ray. device: the command's own. address, actors, actor_gpus: of Ray, as asked
    gpus: of this machine, which the processes of Ray alone may take; empty: any
    """

    runner: str
    device: str
    address: str = ""
    actors: int | None = None
    actor_gpus: float | None = None
    gpus: tuple[int, ...] = ()


def gpus_of(device: str) -> tuple[int, ...]:
    """Numbers of the GPUs that are named; empty for a device without a number.

    >>> gpus_of("cuda:0,cuda:1"), gpus_of("cuda:2"), gpus_of("auto")
    ((0, 1), (2,), ())
    """
    names = [name.strip() for name in device.split(",")]
    if len(names) == 1 and not re.fullmatch(r"cuda:\d+", names[0]):
        return ()
    if wrong := [name for name in names if not re.fullmatch(r"cuda:\d+", name)]:
        raise WrongUse(f"--device {device}: {wrong[0]!r} is no GPU by its number; write several as cuda:0,cuda:1.")
    numbers = tuple(int(name.removeprefix("cuda:")) for name in names)
    if twice := [number for number in numbers if numbers.count(number) > 1]:
        raise WrongUse(f"--device {device} names cuda:{twice[0]} twice. Several processes on a GPU: --actor-gpus .5.")
    return numbers


@dataclass(frozen=True, kw_only=True)
class PlaceOptions(OptionGroup):
    """The device, or the machines, that a command works on."""

    device: Devices = "auto"
    runner: RunnerName = ""
    ray_address: RayAddress = ""
    actors: Actors = None
    actor_gpus: ActorGpus = None

    def work_place(self, engine: str = "torch") -> WorkPlace:
        """Where a command line has its work done. Errors: WrongUse for options that contradict each other.

        engine: of the passes; OpenVINO's are on a processor
        """
        device = "cpu" if engine == "openvino" and self.device == "auto" else self.device
        gpus = gpus_of(device)
        if self.runner not in ("", "local", "ray"):
            raise WrongUse(f"--runner is local or ray, not {self.runner!r}.{near(self.runner, ('local', 'ray'))}")
        if self.runner == "local" and len(gpus) > 1:
            raise WrongUse(f"--device {device} is for --runner ray: leave --runner local out, or name one device.")
        if self.runner != "ray" and len(gpus) < 2:
            of_ray = {"--ray-address": self.ray_address, "--actors": self.actors, "--actor-gpus": self.actor_gpus}
            for option, value in of_ray.items():
                if value:
                    raise WrongUse(f"{option} {value} is for --runner ray.")
            return WorkPlace("local", device)
        if gpus and self.ray_address:
            raise WrongUse(
                f"--device {device} names GPUs of this machine, --ray-address {self.ray_address} a cluster: take "
                "--device cuda for its GPUs, or leave --ray-address out."
            )
        if self.actors is not None and self.actors < len(gpus):
            raise WrongUse(
                f"--actors {self.actors} leaves GPUs of --device {device} without work: give {len(gpus)} or more."
            )
        # of the GPUs that are named a process sees those alone, so the first of them is its cuda:0
        address = "local" if gpus else self.ray_address
        return WorkPlace("ray", "cuda:0" if gpus else device, address, self.actors, self.actor_gpus, gpus)


def visible_gpus(gpus: Sequence[int], count: int, visible: str | None) -> str:
    """CUDA_VISIBLE_DEVICES for these of the GPUs alone. count: those there are; visible: what it was.

    Errors: WrongUse for a GPU that is not there.

    >>> visible_gpus((1, 0), 2, None), visible_gpus((1,), 2, "4,7")
    ('1,0', '7')
    """
    if absent := [number for number in gpus if number >= count]:
        there = f"there are {count}, from cuda:0 to cuda:{count - 1}" if count > 1 else "there is cuda:0 alone"
        raise WrongUse(
            f"--device cuda:{absent[0]} is not here: {there if count else 'torch sees no GPU; take --device cpu'}."
        )
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return ",".join(names[number] for number in gpus)


def see_alone(gpus: Sequence[int]) -> None:
    """Let this process, and those that it starts, see these GPUs alone; before anything is put on one.

    Errors: WrongUse for a GPU that is not there.
    """
    if not gpus:
        return
    import torch

    os.environ[VISIBLE] = visible_gpus(gpus, torch.cuda.device_count(), os.environ.get(VISIBLE))


@contextmanager
def runner_at(place: WorkPlace, device: str) -> Iterator[Runner]:
    """The runner; a Ray that it starts ends with the block. device: type of the network's."""
    from segment.runners.runner import LOCAL

    if place.runner == "local":
        yield LOCAL
        return
    from segment.runners.on_ray import RayRunner

    with RayRunner(place.actors, place.address, gpus=place.actor_gpus, device=device) as runner:
        yield runner
