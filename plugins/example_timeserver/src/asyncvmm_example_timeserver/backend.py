"""The time server. It knows virtual time, its cable and its state, and nothing else."""

from __future__ import annotations

import ipaddress

from asyncvmm.plugin import NetworkBackend, NetworkIo
from asyncvmm_example_timeserver import packets
from asyncvmm_example_timeserver.config import TimeServerConfig
from asyncvmm_example_timeserver.state import MOST_WAITING, Answer, TimeServerState

MILLION = 1_000_000


class TimeServer(NetworkBackend):
    """Answers ARP and SNTP. Its clock follows from virtual time, so every run of a seed sees the same."""

    state_type = TimeServerState

    def __init__(self, config: TimeServerConfig, io: NetworkIo) -> None:
        super().__init__(config, io)
        self._address = ipaddress.IPv4Address(config.address).packed
        self._waiting: list[Answer] = []
        self._asked = 0

    def date_ns(self, now_ns: int) -> int:
        """Its own clock at an instant of virtual time, in Unix nanoseconds."""
        passed = now_ns * (MILLION + self.config.drift_ppm) // MILLION
        return int(self.config.epoch * packets.SECOND + passed)

    def arrive(self, frame: bytes) -> None:
        """See NetworkBackend."""
        mac, now_ns = self.io.net.mac, self.io.clock.now_ns
        arp = packets.arp_answer(frame, mac, self._address)
        if arp is not None:
            self.send(arp)
        asked = packets.question(frame, self._address)
        if asked is None or len(self._waiting) >= MOST_WAITING:
            return
        self._asked += 1
        due_ns = now_ns + self.io.rng.below(1000 * self.config.jitter_us + 1)
        times = self.date_ns(now_ns), self.date_ns(due_ns)
        self._wait(Answer(due_ns, packets.answer(asked, mac, self._address, *times)))

    def _wait(self, answer: Answer) -> None:
        self._waiting.append(answer)
        self.io.clock.after(max(answer.due_ns - self.io.clock.now_ns, 0), self._leave)

    def _leave(self) -> None:
        """One answer's time has come."""
        first = min(self._waiting, key=lambda answer: answer.due_ns)
        self._waiting.remove(first)
        self.send(first.frame)

    def state(self) -> TimeServerState:
        """See NetworkBackend."""
        return TimeServerState(tuple(self._waiting), self._asked)

    def restore(self, state: TimeServerState) -> None:
        """See NetworkBackend."""
        self._waiting, self._asked = list(state.waiting), state.asked

    def resume(self) -> None:
        """Timers are in no snapshot: set them again."""
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            self._wait(answer)
