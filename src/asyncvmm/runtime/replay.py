"""Repeats a run from its journal: what entered then enters again, at the same instants.

``open_replay`` opens a host like the one that was recorded, lets the recorded inputs in, and compares
the guests with the digests that the journal has. Nobody else brings anything in until ``live`` is called.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from asyncvmm.base.errors import AsyncvmmError, ConfigError
from asyncvmm.base.texts import shown
from asyncvmm.base.units import MS
from asyncvmm.machine import GuestConfig, Machine
from asyncvmm.machine.renewal import FREEZE, IDENTITY, Identity
from asyncvmm.network.gateway import Gateway, OpenRequest, Request, ResolveRequest
from asyncvmm.network.nat import DatagramFlow
from asyncvmm.network.tcp import TcpConnection
from asyncvmm.plugin import PluginManager
from asyncvmm.runtime import journal_file as kinds
from asyncvmm.runtime.backends import give
from asyncvmm.runtime.fingerprints import boot_hashes, folder_digests
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.host_snapshots import HostSnapshot
from asyncvmm.runtime.inputs import Script
from asyncvmm.runtime.journal_file import JournalError, Record, Recorded, beside, read_journal
from asyncvmm.runtime.kept_disks import KeptDisks, check_disks
from asyncvmm.runtime.replay_settings import read_settings
from asyncvmm.runtime.snapshots import Snapshot, thin_out
from asyncvmm.runtime.vsock import VSOCK_PLACE
from asyncvmm.runtime.workers import check_workers
from asyncvmm.timeline.events import FOREVER

MARK_EVERY_NS: Final = 20 * MS  # of virtual time, at first
MAX_MARKS: Final = 24
MAX_TEXT: Final = 2000  # characters of an error that are shown
WITHOUT_EFFECT: Final = frozenset((kinds.ANSWER, kinds.CUT, kinds.END, kinds.LOST))


@attrs.frozen
class Mark:
    """The host at ``time_ns``, before record number ``at``; ``asked`` counts the gateways' requests."""

    time_ns: int
    at: int
    asked: tuple[tuple[str, int], ...]
    snapshot: HostSnapshot


class Stage:
    """The one host of a replay, in a task of its own, so that another can take its place."""

    def __init__(self, nursery: trio.Nursery, settings: Mapping[str, Any]) -> None:
        self.wrong: Exception | None = None
        self._nursery = nursery
        self._settings = settings
        self._host: Host | None = None
        self._there = False
        self._leave = trio.Event()
        self._gone = trio.Event()

    @property
    def host(self) -> Host:
        """The one that is there now, or was at the end."""
        assert self._host is not None
        return self._host

    async def change(self, snapshot: HostSnapshot | None) -> Host:
        """Another host: as the settings say, or from a snapshot. ConfigError when it cannot be."""
        await self.clear()
        self._leave, self._gone = trio.Event(), trio.Event()
        settings = self._settings
        if snapshot is not None:
            settings = {k: v for k, v in settings.items() if k in ("workers", "plugins")}
        await self._nursery.start(
            self._keep, {**settings, "snapshot": snapshot or settings.get("snapshot")}
        )
        if self.wrong is not None:
            raise self.wrong
        return self.host

    async def clear(self) -> None:
        """No host."""
        if self._there:
            self._leave.set()
            await self._gone.wait()

    async def _keep(
        self,
        settings: Mapping[str, Any],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        began = False
        try:
            async with open_host(paused=True, **settings) as host:
                self._host = host
                self._there = began = True
                task_status.started()
                await self._leave.wait()
        except Exception as error:  # whoever uses the replay gets it, not the nursery's group
            self.wrong = error
            if began:
                self._nursery.cancel_scope.cancel()
            else:
                task_status.started()
        finally:
            self._there = False
            self._gone.set()


@attrs.frozen
class Compared:
    """One digest of the journal's beside that of the replay; None for a guest that is not there."""

    time_ns: int
    guest: str
    recorded: str
    replayed: str | None

    @property
    def equal(self) -> bool:
        """The guest was the same, to the bit."""
        return self.recorded == self.replayed


class Replay(Script):
    """A replay under way on ``host``, from which time comes and to which the inputs go.

    ``guests`` are all that were started, also those that have ended; ``compared`` grows as digests are
    come to.
    """

    def __init__(self, recorded: Recorded, stage: Stage, engine: str | None = None) -> None:
        self.recorded: Final = recorded
        self.guests: dict[str, Guest] = {}
        self.compared: list[Compared] = []
        self.ended = trio.Event()
        self.marks: list[Mark] = []
        self._stage = stage
        self._engine = engine
        self._at = 0
        self._cut = False
        self._to_end = False
        self._pause_after = FOREVER  # the number of a record
        self._passed = trio.Event()
        self._error: AsyncvmmError | None = None
        self._spacing_ns = MARK_EVERY_NS
        self._last_goto = {
            str(one.names.get("guest")): number
            for number, one in enumerate(recorded.records)
            if one.kind == kinds.GOTO
        }
        self._snapshots: dict[str | int, Snapshot] = {}
        self._connections: dict[tuple[Any, ...], tuple[Gateway, TcpConnection]] = {}
        self._requests: dict[tuple[str, int], Request] = {}

    @property
    def host(self) -> Host:
        """The host on which it is; another one after ``goto``."""
        return self._stage.host

    async def begin(self, mark: Mark | None = None) -> None:
        """Be where the run began, or at a mark."""
        snapshot = None if mark is None else mark.snapshot
        host = await self._stage.change(snapshot)
        self.guests = dict(host.guests)
        now_ns = host.now_ns if mark is not None else -1
        self.compared = [one for one in self.compared if one.time_ns < now_ns]
        self._connections.clear()
        self._requests.clear()
        self._at = 0 if mark is None else mark.at
        self._to_end = False
        self._cut = False
        self._pause_after = FOREVER
        self._error = None
        self.ended = trio.Event()
        if self._at >= len(self.recorded.records):
            self.ended.set()
        for place, asked in () if mark is None else mark.asked:
            host.gateway(place).asked = asked
        host.follow(self, self.requested)

    async def goto(self, time_ns: int) -> None:
        """Be at an instant of virtual time, back or forth: by the last mark before it, and from there on.

        ``host`` and ``guests`` are new objects when it is back. Marks are snapshots of the whole host,
        taken as the replay passes every so often, first close and then, when they are many, every other
        one is given up. Digests are compared again on the way.
        """
        if time_ns < self.host.now_ns or (self._cut and time_ns > self.host.now_ns):
            past = [mark for mark in self.marks if mark.time_ns <= time_ns]
            await self.begin(past[-1] if past else None)
        while (next_ns := self._next_mark_ns()) < min(time_ns, self.end_ns):
            await self.run(next_ns)
            await self._mark()
        await self.run(time_ns)

    def _next_mark_ns(self) -> int:
        grid_ns = self._spacing_ns - self._spacing_ns % self.host.quantum_ns
        return (self.host.now_ns // grid_ns + 1) * grid_ns

    async def _mark(self) -> None:
        """A snapshot of the host, unless it has a connection to the world, which would not be in it."""
        now_ns = self.host.now_ns
        if self._connections or self._requests or any(m.time_ns == now_ns for m in self.marks):
            return
        if self._remembers:  # a past is in no snapshot
            return
        asked = tuple((place, gateway.asked) for place, gateway in self.host.gateways.items())
        self.marks.append(Mark(now_ns, self._at, asked, await self.host.snapshot()))
        self.marks.sort(key=lambda mark: mark.time_ns)
        if len(self.marks) > MAX_MARKS:
            self._spacing_ns *= 2
            self.marks = thin_out(self.marks, self.marks)

    def close(self) -> None:
        """Give the marks back, and the states that guests went on from."""
        for mark in self.marks:
            mark.snapshot.close()
        self.marks.clear()
        for snapshot in self._snapshots.values():
            snapshot.close()
        self._snapshots.clear()

    @property
    def differing(self) -> list[Compared]:
        """Where the replay is not the run, in the order of their instants."""
        return [one for one in self.compared if not one.equal]

    @property
    def end_ns(self) -> int:
        """The instant of the last thing that the journal has."""
        return self.recorded.records[-1].time_ns if self.recorded.records else 0

    async def run(self, until_ns: int | None = None) -> None:
        """Go on to an instant, or to the end of the journal, and stand still there: what entered at that
        instant has entered. Where the run itself did not stand still, off the grid, a quantum ends early,
        which a guest with several harts can see.

        JournalError when something cannot be done again.
        """
        host = self.host
        if until_ns is not None and until_ns < self.end_ns:
            answer = self._last_answer(until_ns)
            if answer is not None:
                self._pause_after, self._passed = answer, trio.Event()
                host.resume()
                await self._passed.wait()
            await host.run_until(until_ns, exact=True)
            stood = answer is not None and self.recorded.records[answer].time_ns == until_ns
            # Where it stands still off the grid the run did not: from there it would be another one.
            self._cut = not stood and host.now_ns % host.quantum_ns != 0
        elif not self.ended.is_set():
            self._to_end = True
            host.resume()
            await self.ended.wait()
        if self._error is not None:
            raise self._error

    def _last_answer(self, until_ns: int) -> int | None:
        """The last record, of those to come up to an instant, of a stretch that ended early: it has to be
        planned as it was, not to end at that instant.
        """
        records = self.recorded.records
        after = bisect_right(records, until_ns, self._at, key=lambda one: one.time_ns)
        for number in range(after - 1, self._at - 1, -1):
            if records[number].kind == kinds.ANSWER:
                return number
        return None

    def live(self) -> None:
        """Forget what the journal has from here on: the guests take inputs of ours."""
        self._at = len(self.recorded.records)
        for guest in self.host.guests.values():
            guest.forget_history()
        self.ended.set()

    @property
    def _remembers(self) -> bool:
        """Whether a guest's past is kept."""
        return any(guest.keeps_history for guest in self.host.guests.values())

    def _goes_back(self, guest: str) -> bool:
        """Whether a guest goes back in what is to come: only then its past is worth keeping."""
        return self._last_goto.get(guest, -1) >= self._at

    # -- what the conductor asks (Script)

    def next_ns(self) -> int:
        """See Script."""
        if self._at >= len(self.recorded.records):
            return FOREVER
        record = self.recorded.records[self._at]
        planned = record.names.get("until_ns") if record.kind == kinds.ANSWER else None
        if isinstance(planned, int) and record.time_ns < planned < FOREVER:
            return planned
        return record.time_ns

    def answer_ns(self) -> int:
        """See Script."""
        if self._at < len(self.recorded.records):
            record = self.recorded.records[self._at]
            if record.kind == kinds.ANSWER:
                return record.time_ns
        return FOREVER

    def due(self, now_ns: int, turn: int) -> bool:
        """See Script."""
        if self._at >= len(self.recorded.records):
            return False
        record = self.recorded.records[self._at]
        return record.time_ns < now_ns or (record.time_ns == now_ns and record.turn <= turn)

    async def enter(self) -> None:
        """See Script."""
        record = self.recorded.records[self._at]
        self._at += 1
        try:
            await self._enter(record)
        except (
            Exception
        ) as error:  # whoever wrote the record is not trusted: whatever comes of it is its
            place = f"{self.recorded.path}: record {self._at} at {record.time_ns} ns"
            self._error = JournalError(f"{place} ({kinds.NAMES[record.kind]}): {_words(error)}")
            self._error.__cause__ = error
            self._at = len(self.recorded.records)
        if self._at > self._pause_after:
            self._pause_after = FOREVER
            self.host.pause()
            self._passed.set()
        if self._at == len(self.recorded.records):
            if self._to_end:
                self.host.pause()
            self.ended.set()

    # -- one thing after the other

    async def _enter(self, record: Record) -> None:
        names, data, kind = record.names, record.data, record.kind
        if kind in WITHOUT_EFFECT:
            return
        if kind == kinds.START:
            await self._start(names)
        elif kind == kinds.DIGESTS:
            self._compare(record.time_ns, _mapping(names, "guests"))
        elif kind == kinds.GONE:
            gone = self.guests[names["guest"]]
            digest = None if gone.exit is None else gone.machine.digest()
            self.compared.append(Compared(record.time_ns, gone.name, str(names["digest"]), digest))
        elif kind == kinds.SHAPE:
            self.host.shape(names["network"], names["guest"], **_mapping(names, "changes"))
        elif kind in (kinds.CONNECT, kinds.OPENED, kinds.RESOLVED, kinds.DATAGRAM):
            self.host.enter_gateway(self._gateway(names), self._at_gateway(record))
        elif kind == kinds.OUTLET:
            self.host.enter_outlet(str(names["place"]), str(names["backend"]), data)
        elif kind in (kinds.SEND, kinds.RECEIVE, kinds.FINISH, kinds.HANG_UP, kinds.ABORT):
            self._at_connection(kind, names, data)
        else:
            await self._at_guest(kind, self.host.guests[names["guest"]], names, data)

    async def _at_guest(
        self, kind: int, guest: Guest, names: Mapping[str, Any], data: bytes
    ) -> None:
        if kind == kinds.CLOSE:
            await guest.aclose()
        elif kind == kinds.POLICY:
            guest.policy.update(**_mapping(names, "knobs"))
        elif kind == kinds.SNAPSHOT:
            number = int(names["snapshot"])
            if number in self._snapshots:  # passed again
                self._snapshots.pop(number).close()
            self._snapshots[number] = await guest.snapshot()
        elif kind == kinds.VSOCK:
            guest.vsock.again(kind, names, data)
        elif kind == kinds.BALLOON:
            guest.balloon.again(names)
        elif kind == kinds.HISTORY:
            if self._goes_back(guest.name):
                spacing, snapshots = int(names["spacing"]), int(names["snapshots"])
                guest.keep_history(spacing=spacing, snapshots=snapshots)
        elif kind == kinds.GOTO:
            await guest.goto(names["time_ns"], steps=names["steps"])
            if not self._goes_back(guest.name):
                guest.forget_history()
        elif kind == kinds.GIVEN:
            guest.at_device(str(names["device"]), lambda device: give(device, data))
        elif kind == kinds.TAKEN:
            guest.at_device(str(names["device"]), lambda device: device.io.inbox.take())
        elif kind == kinds.INPUT:
            guest.at_port(str(names["port"]), lambda port: port.push(data))
        elif kind == kinds.TAKE:
            count = int(names["count"])
            guest.at_port(str(names["port"]), lambda port: port.take_output(count))
        else:
            size = int(names["columns"]), int(names["rows"])
            guest.at_port(str(names["port"]), lambda port: port.resize(*size))

    async def _start(self, names: Mapping[str, Any]) -> None:
        values = dict(_mapping(names, "config"))
        if self._engine is not None:
            values["engine"] = self._engine
        config = GuestConfig.from_mapping({**values, "clock": "virtual"})
        kept = names.get("snapshot")
        source: GuestConfig | Snapshot = config
        renewed: dict[str, Any] = {}
        if kept is not None:
            source, renewed = await self._snapshot(kept, names, config)
        disks = [] if kept is not None else list(names["disks"])
        guest = await self.host.start(
            source,
            name=str(names["guest"]),
            max_instructions=_whole(names["most"]),
            apart=bool(names["apart"]),
            check=lambda machine: _check(names, config, machine),
            open_blob=KeptDisks(beside(self.recorded.path, "disks"), disks),
            **renewed,
        )
        self.guests[guest.name] = guest

    async def _snapshot(
        self, kept: int | str, names: Mapping[str, Any], config: GuestConfig
    ) -> tuple[Snapshot, dict[str, Any]]:
        """What a guest goes on from, and how it is another one than that was."""
        if kept not in self._snapshots:
            path = self.recorded.path.absolute().parent / str(kept)
            self._snapshots[kept] = await trio.to_thread.run_sync(Snapshot.load, path)
        snapshot = self._snapshots[kept]
        renewed: dict[str, Any] = {"clock": names.get("date", FREEZE)}
        if "identity" in names:
            renewed["reseed"] = Identity(**_mapping(names, "identity"))
            was = {key: getattr(snapshot.config, key) for key in IDENTITY}
            config = attrs.evolve(config, **was)
        return snapshot.with_config(config), renewed

    def _compare(self, time_ns: int, digests: Mapping[str, Any]) -> None:
        for name, recorded in digests.items():
            guest = self.host.guests.get(name)
            digest = None if guest is None else guest.machine.digest()
            self.compared.append(Compared(time_ns, name, str(recorded), digest))

    # -- the network's door

    def _gateway(self, names: Mapping[str, Any]) -> Gateway:
        return self.host.gateway(str(names["gateway"]))

    def requested(self, gateway: Gateway, number: int, request: Request) -> None:
        """A gateway asked for something outside: the answer is in the journal, or never came."""
        self._requests[(gateway.place, number)] = request

    def _at_gateway(self, record: Record) -> Callable[[int], None]:
        names, data, kind = record.names, record.data, record.kind
        gateway = self._gateway(names)

        def act(now_ns: int) -> None:
            if kind == kinds.CONNECT:
                address, port = bytes.fromhex(names["address"]), int(names["port"])
                if len(address) != 4 or not 1 <= port <= 65535:
                    raise ValueError(f"no guest is at {shown(names['address'])}, port {port}")
                key, connection = gateway.connect(now_ns, address, port)
                self._connections[(gateway.place, *key)] = (gateway, connection)
            elif kind == kinds.DATAGRAM:
                source, port, target, target_port = names["flow"]
                flow = DatagramFlow(bytes.fromhex(source), port, bytes.fromhex(target), target_port)
                gateway.datagram(now_ns, flow, data)
            else:
                request = self._requests.pop((gateway.place, int(names["request"])))
                if isinstance(request, OpenRequest):
                    opened = gateway.opened(now_ns, request, bool(names["works"]))
                    if opened is not None:
                        self._connections[(gateway.place, *request.key)] = (gateway, opened)
                elif isinstance(request, ResolveRequest):
                    found = [bytes.fromhex(address) for address in names["found"]]
                    gateway.resolved(now_ns, request, found)

        return act

    def _at_connection(self, kind: int, names: Mapping[str, Any], data: bytes) -> None:
        place = str(names["gateway"])
        if place.startswith(VSOCK_PLACE):
            guest = self.host.guests.get(place.removeprefix(VSOCK_PLACE))
            if guest is not None:
                guest.vsock.again(kind, names, data)
            return
        source, port, target, target_port = names["key"]
        key = (bytes.fromhex(source), int(port), bytes.fromhex(target), int(target_port))
        gateway, connection = self._connections[(place, *key)]

        def act(now_ns: int) -> None:
            if kind == kinds.SEND:
                connection.send(data, now_ns)
            elif kind == kinds.RECEIVE:
                connection.receive(int(names["limit"]))
            elif kind == kinds.FINISH:
                connection.finish(now_ns)
            elif kind == kinds.HANG_UP:
                connection.close(now_ns)
            else:
                connection.abort()
            gateway.changed(key, now_ns)

        self.host.enter_gateway(gateway, act)


def printable(error: Exception) -> str:
    """What an error says, of which somebody else may have written a part: not endless, and no surrogates."""
    text = str(error).encode(errors="backslashreplace").decode()
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


def _words(error: Exception) -> str:
    """What went wrong when a record was done again."""
    if isinstance(error, LookupError):
        return f"names what is not there, or names nothing: {printable(error)}"
    if isinstance(error, ConfigError):
        return printable(error)
    return f"{type(error).__name__}: {printable(error)}"


def _mapping(names: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = names[key]
    if not isinstance(value, dict):
        raise TypeError(f"{key} is not a mapping")
    return value


def _whole(value: object) -> int | None:
    if value is not None and (type(value) is not int or value < 0):
        raise TypeError(f"{shown(value)} is no number of instructions")
    return value


def _check(names: Mapping[str, Any], config: GuestConfig, machine: Machine) -> None:
    """ConfigError when the guest is made from other files than it was."""
    recorded, boot = _mapping(names, "boot"), boot_hashes(machine.files)
    for name in sorted({*recorded, *boot}):
        if recorded.get(name) != boot.get(name):
            raise ConfigError(f"{getattr(config, name)}: has changed since the run was recorded")
    if names.get("snapshot") is None:  # which has its disks with it
        check_disks(machine, names["disks"])
    if folder_digests(machine) != names.get("folders", []):
        raise ConfigError(
            f"guest {machine.name}: a shared folder ({', '.join(config.shares)}) has changed since the "
            "run was recorded"
        )


@asynccontextmanager
async def open_replay(
    path: Path | str,
    *,
    engine: str | None = None,
    workers: int | None = None,
    plugins: PluginManager | None = None,
) -> AsyncIterator[Replay]:
    """A host on which the run of a journal is repeated: ``async with open_replay("f") as replay``.

    Time stands still until ``replay.run`` is awaited. JournalError names what is wrong with the file.
    """
    check_workers(workers)
    recorded = await trio.to_thread.run_sync(read_journal, path)
    settings = read_settings(recorded)
    folder = settings.pop("snapshot", None)
    if folder is not None:
        place = recorded.path.absolute().parent / str(folder)
        settings["snapshot"] = await trio.to_thread.run_sync(HostSnapshot.load, place)
    wrong: Exception | None = None
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery, {**settings, "workers": workers, "plugins": plugins})
        replay = Replay(recorded, stage, engine)
        try:
            try:
                await replay.begin()
            except (ConfigError, TypeError, ValueError, LookupError, AttributeError) as error:
                raise JournalError(f"{path}: the header's host: {printable(error)}") from error
            yield replay
        except Exception as error:  # carried past the nursery, which would wrap it in a group
            wrong = error
        finally:
            with trio.CancelScope(shield=True):
                await stage.clear()
            replay.close()
            nursery.cancel_scope.cancel()
    wrong = wrong or stage.wrong
    if wrong is not None:
        raise wrong
