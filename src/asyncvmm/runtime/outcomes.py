"""What became of a guest in its stretch: it goes on, begins again, or ends; seen to when nobody runs."""

from __future__ import annotations

from asyncvmm.base.errors import AsyncvmmError, InternalError
from asyncvmm.hypervisor import Ledger
from asyncvmm.hypervisor.ledger import BLOCKED, FAILED
from asyncvmm.machine import RAN_STEPS, RAN_STOP, RAN_TIME
from asyncvmm.runtime.places import Place, Places
from asyncvmm.runtime.residents import Resident
from asyncvmm.runtime.watchdog import Watchdog


class Outcomes:
    """Tells guests what happened to them, and the ledger what their neighbours may want to know."""

    def __init__(self, ledger: Ledger, watchdog: Watchdog, places: Places) -> None:
        self._ledger = ledger
        self._watchdog = watchdog
        self._places = places

    def see_to(self, place: Place, now_ns: int) -> None:
        """A guest has had its stretch, which began at ``now_ns``. Raises what a console's tap raised."""
        guest = place.guest
        if not self._places.lives(place):
            return
        for device, text in self._watchdog.reports(place.name):
            self._ledger.record(now_ns, BLOCKED, place.name, f"{device} {text}")
        for failure in guest.machine.containment.take_news():
            cause = f"{failure.device}: {failure.cause}"
            self._ledger.record(now_ns, FAILED, place.name, cause)
        error, place.error = place.error, None
        if error is not None:
            self._fail(guest, error, now_ns)
            return
        guest.raise_tap_error()
        why, place.why = place.why, RAN_TIME
        if why == RAN_STEPS:
            guest.limit_reached()
        elif why == RAN_STOP:
            self._stopped(place, now_ns)

    def _stopped(self, place: Place, now_ns: int) -> None:
        """Its machine stopped itself: is it over, or does it begin again?"""
        guest = place.guest
        try:
            over = guest.machine_stopped()
        except Exception as error:
            self._fail(guest, error, now_ns)
            return
        if not over:
            # It was reset: what is left of the stretch passes before it begins again.
            timeline = guest.machine.timeline
            timeline.now_ns = max(int(timeline.now_ns), place.lived_ns - place.since_ns)

    def _fail(self, guest: Resident, error: Exception, now_ns: int) -> None:
        known = error if isinstance(error, AsyncvmmError) else InternalError(repr(error))
        if isinstance(known, InternalError):
            self._ledger.record(now_ns, FAILED, guest.name, str(known))
        guest.machine_failed(known)
