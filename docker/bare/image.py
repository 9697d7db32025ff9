"""Build an image's target without a container engine, by the steps of the Dockerfile itself, and run a command in it.

    sudo python docker/bare/image.py --target test --work /var/tmp/image -- pytest -n 2

makes what the Dockerfile's FROM names by debootstrap, carries out every step in namespaces of its own, one layer each,
and runs the image's entry point with the command as `docker run` would. Steps made before are reused as long as the
Dockerfile and the files they copy are the same. Only for Linux, as root, with Debian's debootstrap. SIGTERM and SIGINT
reach the command as the image's STOPSIGNAL; nothing kills it if it does not heed that.

What an engine does otherwise:

- RUN steps do not see the variables of the machine; here those for pip, uv, certificates and proxies are passed in
  (`root.PASSED`), and not counted among what a step was made from.
- The entry point is process number 1 only there; here signals do to it what they do to any, and orphans are reaped, as
  with `docker run --init`.
- Processes keep root's capabilities and all system calls there are: a namespace is no prison for what means harm.
- The network is the machine's, or none: no bridge, no ports; there are no GPUs but by `--volume /dev/nvidia0`.
- What is mounted is the folder itself: `--volume` of a folder that is not there is an error, and there are no named
  volumes. /dev/shm lets programs be executed.
- No terminal, no standard input, no limits of files or processes but the caller's, `--cpus` in whole cores.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from build import CONTAINER, Builder, Built, megabytes
from dockerfile import DockerfileError, read
from plan import PlannedStage, Settings, plan
from root import RootError, check_machine, discard, parse_bind

HERE = Path(__file__).resolve().parent
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def size(text: str) -> int:
    """``512m`` or ``8g`` to bytes."""
    match = re.fullmatch(r"(\d+)([bkmg]?)b?", text.lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of bytes, or one with k, m or g, such as 512m")
    return int(match[1]) * UNITS[match[2]]


def pair(text: str) -> tuple[str, str]:
    """``NAME=VALUE`` to both."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text}: expected NAME=VALUE")
    return name, value


def bind(text: str) -> tuple[str, str]:
    """``HOST[:INSIDE[:ro]]`` to both, as ``Root.run`` takes them."""
    try:
        return parse_bind(text)
    except RootError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python docker/bare/image.py", description=(__doc__ or "").split("\n\n")[0])
    build = made.add_argument_group("building")
    build.add_argument(
        "--file", type=Path, default=HERE.parent / "Dockerfile", help="the Dockerfile (docker/Dockerfile)"
    )
    build.add_argument("--context", type=Path, default=HERE.parents[1], help="the folder that COPY copies from")
    build.add_argument("--target", help="the stage to build; the last one where not given")
    build.add_argument("--work", type=Path, required=True, help="folder for roots, layers and build.log; may be large")
    build.add_argument("--build-arg", type=pair, action="append", default=[], metavar="NAME=VALUE")
    build.add_argument(
        *("--bind", "-b"),
        type=bind,
        action="append",
        default=[],
        metavar="HOST[:INSIDE[:ro]]",
        help="show a folder or file of this machine to the steps: a wheel house, certificates, pip's configuration",
    )
    build.add_argument("--no-cache", action="store_true", help="carry out every step anew")
    build.add_argument("--prune", action="store_true", help="afterwards remove the layers that this build did not use")
    build.add_argument("--plan", action="store_true", help="print the steps and stop; needs neither root nor Linux")
    run = made.add_argument_group("running, as docker run has them")
    run.add_argument("--no-run", action="store_true", help="only build")
    run.add_argument("--network", choices=["host", "none"], default="host")
    run.add_argument("--read-only", action="store_true")
    run.add_argument("--tmpfs", action="append", default=[], metavar="PATH[:OPTIONS]")
    run.add_argument("--shm-size", type=size, default=size("64m"), metavar="SIZE")
    run.add_argument("--memory", type=size, metavar="SIZE")
    run.add_argument("--cpus", type=int, metavar="N", help="whole cores: the command is bound to the first N")
    run.add_argument("--user", metavar="USER[:GROUP]")
    run.add_argument("--env", "-e", type=pair, action="append", default=[], metavar="NAME=VALUE")
    run.add_argument("--volume", "-v", type=bind, action="append", default=[], metavar="HOST:INSIDE[:ro]")
    run.add_argument("--workdir", "-w", metavar="PATH")
    run.add_argument("--entrypoint", metavar="PROGRAM")
    run.add_argument("command", nargs="*", help="after --; the image's own CMD where there is none")
    return made


def command_of(settings: Settings, arguments: argparse.Namespace) -> list[str]:
    """Entry point and command as an engine joins them."""
    entrypoint = [arguments.entrypoint] if arguments.entrypoint else list(settings.entrypoint)
    given = arguments.command or ([] if arguments.entrypoint else list(settings.command))
    return [*entrypoint, *given]


def run(image: Built, settings: Settings, arguments: argparse.Namespace) -> int:
    """Run the command over the image, in a layer that is thrown away; returns its exit code."""
    command = command_of(settings, arguments)
    if not command:
        raise RootError("the image has neither ENTRYPOINT nor CMD: name a command after --")
    print(f"run {' '.join(command)}", flush=True)
    started = time.monotonic()
    folder = arguments.work / f"{CONTAINER}{os.getpid()}"
    discard(folder)  # of a killed one that had this number
    with image.root.layer(folder) as container:
        done = container.run(
            command,
            cwd=arguments.workdir or settings.workdir,
            env=dict(settings.env) | dict(arguments.env),
            passed=(),
            user=arguments.user or settings.user,
            network=arguments.network != "none",
            memory=arguments.memory,
            cores=arguments.cpus,
            readonly=["/"] if arguments.read_only else [],
            tmpfs=arguments.tmpfs,
            shm=arguments.shm_size,
            binds=dict(arguments.volume),
            stop=signal.Signals[settings.stop_signal],
        )
    print(f"run ended with {done.returncode} after {time.monotonic() - started:.0f} s")
    return done.returncode


def show(stages: Sequence[PlannedStage]) -> None:
    """Print the steps of all stages, numbered as a build numbers them."""
    number, total = 0, sum(len(stage.steps) for stage in stages)
    for stage in stages:
        print(f"stage {stage.name} from {stage.base}")
        for step in stage.steps:
            number += 1
            print(f"step {number}/{total} line {step.instruction.line} {step.instruction}")


def main(given: Sequence[str] | None = None) -> int:
    """Build, tell the sizes, run; returns the exit code of what ran, 2 where recipe or machine will not do."""
    arguments = parser().parse_args(given)
    os.umask(0o022)
    try:
        build_args = dict(arguments.build_arg)
        recipe = read(arguments.file, build_args)
        stages = plan(recipe, arguments.target, build_args)
        if arguments.plan:
            show(stages)
            return 0
        check_machine()
        work = arguments.work.resolve()
        builder = Builder(
            arguments.context.resolve(), arguments.file, work, dict(arguments.bind), not arguments.no_cache
        )
        with builder.build(stages, arguments.prune) as image:
            for name, built in builder.built.items():
                print(f"stage {name}: {megabytes(built.size)}")
            return 0 if arguments.no_run else run(image, stages[-1].settings, arguments)
    except (DockerfileError, RootError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
