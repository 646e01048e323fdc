"""A stub on a small machine, spoken to without a connection."""

from __future__ import annotations

from typing import Any

from asyncvmm.gdb import MachineTarget, Request, Resume, Stop, Stub
from asyncvmm.gdb.packets import PacketReader, frame
from asyncvmm.isa.asm import assemble
from asyncvmm.isa.elf_writer import to_elf
from asyncvmm.machine import RAN_HALT, BootFile, BootFiles, GuestConfig, Machine


def small_machine(source: str, **options: Any) -> Machine:
    """A machine without devices that runs ``source`` in M-mode from 0x80000000."""
    elf = to_elf(assemble(source, 0x80000000))
    config = GuestConfig(elf="program.elf", **{"memory": "1M", **options})
    return Machine(config, BootFiles(elf=BootFile("program.elf", elf)), {})


class Client:
    """gdb's side: packets to a stub, and its answers."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.target = MachineTarget(machine)
        self.target.attach()
        self.stub = Stub(self.target)
        self.requests: list[Request] = []

    def ask(self, payload: bytes) -> bytes:
        """The answer to a packet, or b"(later)"."""
        self.requests = self.stub.receive(frame(payload))
        return self.answer()

    def answer(self) -> bytes:
        """What the stub said."""
        said = [each for each in PacketReader().feed(self.stub.take_output()) if each != "ack"]
        assert len(said) < 2
        return bytes(said[0]) if said and isinstance(said[0], bytes) else b"(later)"

    def go(self, payload: bytes, most: int = 100_000) -> bytes:
        """Resume by a packet, run to where the guard stops a hart, and return the stop reply."""
        assert self.ask(payload) == b"(later)"
        (resume,) = self.requests
        assert isinstance(resume, Resume)
        self.target.prepare(resume)
        if self.machine.run(max_steps=most) == RAN_HALT:
            self.stub.stopped(self.target.take_stop())
        else:
            self.stub.stopped(Stop(self.target.current_hart(), 2))
        return self.answer()
