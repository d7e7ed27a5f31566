"""`hauberk up`: runs every process of mesh.toml on this machine until Ctrl-C, or once through (--once)."""

import asyncio
import dataclasses
import logging
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from hauberk import log
from hauberk.certs.errors import CertsError
from hauberk.cli import authority
from hauberk.cli.errors import CommandFailed
from hauberk.cli.local_mesh import LocalMesh, Replica, Row
from hauberk.cli.logs import Logs
from hauberk.cli.mesh_changes import keep_overriding
from hauberk.cli.mesh_file import MeshFile, Once
from hauberk.cli.options import json_option, print_json, table
from hauberk.cli.process import NoProgram, Process, process_group
from hauberk.cli.rolling import RollingRestart
from hauberk.cli.state import State
from hauberk.cli.supervisor import Child, Supervisor
from hauberk.cli.trip import Hop, Trip
from hauberk.cli.up_socket import Asker, Request, listening
from hauberk.errors import MeshError
from hauberk.racing import first_of

T = TypeVar("T")

READY_S = 60.0
"""How long --once waits until all serve; without it, how often it is said who does not."""
RECORDS_S = 3.0
"""How long --once waits for the records of a trip after the command that made it."""
ONE_PRESS_S = 0.5
"""Signals closer together are one: terminal, shell and wrapper may each pass on the same Ctrl-C."""
_TRACE = re.compile(r"trace ([0-9a-f]{32})", re.ASCII)


@click.command("up", epilog="Example:  hauberk up mesh.toml --once")
@click.argument("mesh_file", default="mesh.toml", envvar="HAUBERK_MESH", metavar="[mesh.toml]", type=Path)
@click.option("--once", is_flag=True, help="Run the [once] command through the mesh, print one trip, end.")
@json_option
def command(mesh_file: Path, once: bool, as_json: bool) -> None:
    """Run the whole mesh on this machine.

    Makes .hauberk/ and its CA beside mesh.toml where they are missing, starts the control plane and every
    replica, restarts what dies, and prints a table when all serve. Ctrl-C stops all of it in order.
    """
    log.set_up(logging.WARNING, f"hauberk | {log.FORMAT}")
    state = State.beside(mesh_file)
    mesh = state.mesh()
    state.make()
    claim = state.claim()
    try:
        state.forget_addresses()  # of a run that was killed
        if authority.exists(state):
            authority.load(state, mesh)
        else:
            authority.create(state, mesh)
        failures = asyncio.run(_run(state, mesh, once=once, as_json=as_json))
    finally:
        state.forget_addresses()
        os.close(claim)
    if failures:
        raise CommandFailed("; ".join(failures))


async def _run(state: State, mesh: MeshFile, *, once: bool, as_json: bool) -> list[str]:
    """One run after another, should our own certificate end in between; what failed in the last."""
    logs = Logs(state.logs, say=_say)
    try:
        while True:
            run = _Run(state, mesh, logs, once=once, as_json=as_json)
            failures = await run.to_its_end()
            if not run.again:
                return failures
            _say("our own certificate has ended: starting everything again")
    finally:
        logs.close()


class _Ended(Exception):
    """Whoever started us wants us to stop."""


class _Run:
    """One run of a mesh, from the first process to the last."""

    def __init__(self, state: State, mesh: MeshFile, logs: Logs, *, once: bool, as_json: bool) -> None:
        self._state = state
        self._mesh = mesh
        self._once = once
        self._as_json = as_json
        self._began = time.monotonic()
        self._logs = logs
        self._told_to_stop = asyncio.Event()
        self._hops: list[Hop] = []
        self._answer: dict[str, Any] = {}
        self.again = False
        """Whether it ended only because the certificate we invite with did; a new run gets a new one."""

    async def to_its_end(self) -> list[str]:
        """Start, serve, stop; what failed, a line each."""
        async with process_group() as group, asyncio.TaskGroup() as tasks:
            supervisor = Supervisor(group, on_line=self._line, say=self._say)
            local = LocalMesh(self._state, self._mesh, supervisor, access_log=self._once)
            self._logs.keep_only(["up", *local.names])
            self._listen_for_signals(supervisor)
            tasks.create_task(supervisor.keep(local.control))
            try:
                failures = await self._with_control(local, supervisor, group, tasks)
            except _Ended:
                failures = ["stopped before the end"] if self._once and not supervisor.given_up else []
            except (CertsError, MeshError, CommandFailed) as error:
                failures = [str(error)]
            finally:
                await local.stop_control()
        if local.has_left and not self._once and not self._told_to_stop.is_set():
            self.again = True
            return []
        failures += [f"{child.name} was given up" for child in supervisor.given_up]
        if self._once:
            failures += [f"{child.name} died {child.deaths} times" for child in supervisor.died]
        if self._as_json and (self._once or failures):
            print_json(self._answer | {"failures": failures})
        return failures

    async def _with_control(
        self, local: LocalMesh, supervisor: Supervisor, group: int, tasks: asyncio.TaskGroup
    ) -> list[str]:
        await self._unless_ended(local.answers(), local, supervisor)
        async with local.joined():
            await local.override(self._mesh)  # before anybody serves what it closes
            following = keep_overriding(self._state, self._mesh, local.override, self._say)
            overriding = tasks.create_task(following)
            for child in local.workloads.values():
                tasks.create_task(supervisor.keep(child))
            try:
                async with self._answering(local, supervisor, tasks):
                    return await self._serving(local, supervisor, group)
            finally:
                overriding.cancel()
                self._say(f"stopping {len(local.workloads) + 1} processes")
                await local.stop()

    @asynccontextmanager
    async def _answering(
        self, local: LocalMesh, supervisor: Supervisor, tasks: asyncio.TaskGroup
    ) -> AsyncIterator[None]:
        """Be there for other commands while the block runs; a mesh that cannot be asked runs all the same."""
        restart = RollingRestart(local, supervisor, tasks)

        async def answer(request: Request, asker: Asker) -> None:
            if request.ask == "restart":
                await restart.answer(request, asker)
            else:
                await asker.tell({"children": [_described(child) for child in supervisor.children.values()]})

        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(listening(self._state.socket, answer, tasks))
            except OSError as error:
                self._say(f"`hauberk restart` will not work: cannot listen on {self._state.socket}: {error}")
            yield

    async def _serving(self, local: LocalMesh, supervisor: Supervisor, group: int) -> list[str]:
        rows = await self._unless_ended(self._all_serve(local), local, supervisor)
        if rows is None:
            return [f"not all serve after {READY_S:g} s"]
        self._show(rows)
        if not self._once:
            if self._as_json:
                print_json(self._answer)
            await self._until_over(local, supervisor)
        elif self._mesh.once:
            return await self._unless_ended(self._drive(local, self._mesh.once, group), local, supervisor)
        return []

    async def _until_over(self, local: LocalMesh, supervisor: Supervisor) -> None:
        """Wait for a signal, or until what was given up leaves nothing to go on for."""
        while not self._told_to_stop.is_set() and not self._is_lost(local, supervisor):
            if supervisor.failed.is_set():
                supervisor.failed.clear()
                names = " ".join(dict.fromkeys(_workload_of(child) for child in supervisor.given_up))
                self._say(f"the mesh runs on without it; mend it, then: hauberk restart {names}")
            await first_of(self._told_to_stop.wait(), supervisor.failed.wait(), local.left())

    def _is_lost(self, local: LocalMesh, supervisor: Supervisor) -> bool:
        """A mesh is not without us, its control plane, or every workload; --once can miss nobody."""
        if self._once:
            return local.has_left or bool(supervisor.given_up)
        workloads = local.workloads.values()
        nobody = bool(workloads) and all(one.is_given_up for one in workloads)
        return local.has_left or local.control.is_given_up or nobody

    async def _all_serve(self, local: LocalMesh) -> list[Row] | None:
        while True:
            try:
                async with asyncio.timeout(READY_S):
                    return await local.all_serve()
            except TimeoutError:
                late = [f"{row.name} ({row.status})" for row in await local.rows() if not row.serves]
                self._say(f"still not serving: {', '.join(late)}")
                if self._once:
                    return None

    async def _drive(self, local: LocalMesh, once: Once, group: int) -> list[str]:
        """Run the [once] command, then print the trip that its last line names."""
        lines: list[str] = []

        def on_line(stream: str, line: str) -> None:
            self._line(once.workload, stream, line)
            if stream == "out" and line.strip():
                lines.append(line)

        try:
            driver = await Process.start(await local.once().launch(), group, on_line)
        except NoProgram as error:
            return [f"the [once] command: {error}"]
        try:
            code = await driver.wait()
        finally:
            driver.signal(signal.SIGTERM)
        self._answer["once"] = {"exit_code": code, "output": lines}
        if code != 0:
            return [f"the [once] command ended with exit code {code}"]
        named = _TRACE.fullmatch(lines[-1].strip()) if lines else None
        if named is None:
            return ["the last line of the [once] command is not: trace TRACE_ID"] if once.through else []
        trip, missing = await self._trip(named[1], once)
        self._answer["trip"] = trip.json()
        if not self._as_json:
            click.echo(f"\n{trip.text()}\n")
        return missing + trip.failures()

    async def _trip(self, trace_id: str, once: Once) -> tuple[Trip, list[str]]:
        """The trip as recorded, once it is whole or nothing more can be expected; and what it lacks."""
        identity = str(self._mesh.id_of(once.workload))
        through = [str(self._mesh.id_of(name)) for name in once.through]
        ends = time.monotonic() + RECORDS_S
        while True:
            trip = Trip.of(trace_id, self._hops)
            missing = trip.missing(starts_with=identity, through=through)
            if not missing or time.monotonic() > ends:
                return trip, missing
            await asyncio.sleep(0.05)

    def _show(self, rows: list[Row]) -> None:
        took = time.monotonic() - self._began
        self._answer |= {
            "serving_after_s": round(took, 3),
            "workloads": [dataclasses.asdict(row) for row in rows],
        }
        if not self._as_json:
            heads = ("WORKLOAD", "IDENTITY", "ADDRESS", "STATUS", "PID", "SVID UNTIL")
            cells = [(r.name, r.identity, r.address, r.status, str(r.pid or ""), r.expires) for r in rows]
            missing = [row.name for row in rows if not row.serves]
            who = f"all but {', '.join(missing)}" if missing else "all"
            click.echo(f"\n{table(heads, cells)}\n\n{who} serve after {took:.1f} s")
            if not self._once:
                click.echo("Ctrl-C stops them; look around: hauberk ps, hauberk policy show, hauberk doctor")
                click.echo(f"what they say is kept in {self._state.logs}")

    def _line(self, name: str, stream: str, line: str) -> None:
        """One line of a child's output: logged; kept if it records a call, else printed, with its name."""
        self._logs.write(name, line)
        if self._once and stream == "err" and (hop := Hop.parse(line)):
            self._hops.append(hop)
        elif stream == "out" and self._mesh.once and name == self._mesh.once.workload and not self._as_json:
            click.echo(line)
        else:
            click.echo(f"{name} | {line}", err=True)

    def _say(self, text: str) -> None:
        self._logs.write("up", text)
        _say(text)

    def _listen_for_signals(self, supervisor: Supervisor) -> None:
        told_at = -ONE_PRESS_S

        def stop() -> None:
            nonlocal told_at
            before, told_at = told_at, time.monotonic()
            if told_at - before < ONE_PRESS_S:
                return
            if self._told_to_stop.is_set():
                self._say("told twice: ending all processes at once")
                supervisor.kill()
            self._told_to_stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop)

    async def _unless_ended(
        self, work: Coroutine[Any, Any, T], local: LocalMesh, supervisor: Supervisor
    ) -> T:
        """What `work` returns; _Ended if a signal comes first, or the mesh is lost."""
        result: list[T] = []

        async def working() -> None:
            result.append(await work)

        await first_of(working(), self._until_over(local, supervisor))
        if not result:
            raise _Ended
        return result[0]


def _say(text: str) -> None:
    click.echo(f"hauberk | {text}", err=True)


def _described(child: Child) -> dict[str, Any]:
    """What is said of a child to whoever asks."""
    return {
        "process": child.name,
        "workload": _workload_of(child),
        "replica": child.replica if isinstance(child, Replica) else "1",
        "condition": str(child.condition),
        "pid": child.pid,
        "restarts": child.deaths,
        "last_ending": child.last_ending,
    }


def _workload_of(child: Child) -> str:
    return child.workload if isinstance(child, Replica) else child.name
