"""Devices: declared registers, the base class, and the capabilities that a device is handed.

How a machine makes one (``DeviceType`` is in ``asyncvmm.plugin``)::

    io = DeviceIo("guest/uart0", Dma(ram), InterruptLine(plic, 10), DeviceClock(timeline),
                  RandomStream(seed, "guest/uart0"))     # then io.blob, io.console, io.power
    device = device_type.factory(config, io)             # created: touches nothing outside
    target = device if device_type.kind == "mmio" else VirtioMmio(io, device)
    target.reset()                                       # power-on state; may be called again
    bus.attach(base, target.size_bytes, target, io.path) # attached: (read | write)* from here
    target.reset()                                       # at every reset of the machine
    saved = target.save()                                # plain data ...
    other.reset(); other.load(saved)                     # ... checked before any change;
    other.resume()                                       # once the whole machine is loaded

A device with state besides its registers names an attrs class in ``state_type`` and has ``state()``
and ``restore(state)``; one that lives with the world outside has ``async def run(self, io)``, a task
that the runtime starts, restarts when it fails, and cancels (``asyncvmm.plugin.BackendIo``).

A device never learns its address, the time of day or who its neighbours are. It refuses an access
with ``GuestError`` (the guest takes an access fault); any other exception is the device's bug.
"""

from asyncvmm.device.balloon import Balloon
from asyncvmm.device.blob import Blob, MemoryBlob
from asyncvmm.device.charport import CharPort
from asyncvmm.device.folder import FILE, FOLDER, LINK, Folder, FolderEntry, MemoryFolder
from asyncvmm.device.guard import BusGuard, DeviceGuard
from asyncvmm.device.inbox import Inbox
from asyncvmm.device.io import DeviceClock, DeviceIo, Dma, Power
from asyncvmm.device.mmio import MmioDevice
from asyncvmm.device.net import NetPort, Packet
from asyncvmm.device.rate import IoRate
from asyncvmm.device.registers import (
    RO,
    RW,
    UNKNOWN_FAULTS,
    UNKNOWN_IS_ZERO,
    W1C,
    WO,
    Register,
    RegisterBank,
)
from asyncvmm.device.rng import RandomStream
from asyncvmm.device.sockets import Socket, SocketHub
from asyncvmm.device.window import MemoryWindow
from asyncvmm.interrupts.lines import InterruptLine

__all__ = [
    "FILE",
    "FOLDER",
    "LINK",
    "RO",
    "RW",
    "UNKNOWN_FAULTS",
    "UNKNOWN_IS_ZERO",
    "W1C",
    "WO",
    "Balloon",
    "Blob",
    "BusGuard",
    "CharPort",
    "DeviceClock",
    "DeviceGuard",
    "DeviceIo",
    "Dma",
    "Folder",
    "FolderEntry",
    "Inbox",
    "InterruptLine",
    "IoRate",
    "MemoryBlob",
    "MemoryFolder",
    "MemoryWindow",
    "MmioDevice",
    "NetPort",
    "Packet",
    "Power",
    "RandomStream",
    "Register",
    "RegisterBank",
    "Socket",
    "SocketHub",
]
