"""gdb's remote serial protocol as state machines, and a machine as what gdb debugs. Nothing awaits.

Reading order: ``packets.py`` (bytes to packets and back), ``registers.py`` (which register has which
number, as XML for gdb), ``target.py`` (what is debugged: its interface), ``stub.py`` (packets to
answers and requests), ``resume.py`` (who is to go on, and how), ``machine_target.py`` (a machine as a
target), ``history.py`` (a machine's past).
"""

from asyncvmm.gdb.machine_target import MachineTarget
from asyncvmm.gdb.resume import Resume
from asyncvmm.gdb.stub import Detach, Interrupt, Kill, Monitor, Request, Stub
from asyncvmm.gdb.target import Stop, Target

__all__ = [
    "Detach",
    "Interrupt",
    "Kill",
    "MachineTarget",
    "Monitor",
    "Request",
    "Resume",
    "Stop",
    "Stub",
    "Target",
]
