"""Checks of what a device saves: complete, upgraded from older versions, and never believed."""

from __future__ import annotations

import copy
import json
from typing import Any, Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.testing.device_specimen import Specimen, Step, Subject, Wait, blame

AHEAD: Final = 20  # steps that a restored device goes along with the original
EVENTS_PER_WAIT: Final = 4
STRIDE: Final = 8  # at which of the boundaries without an event the device is restored


def check_snapshots(subject: Subject) -> None:
    """A device restored at an event boundary goes on as the original does: answers, line and state."""
    if subject.device_type.live:
        return
    probe = subject.make()
    steps: list[Step] = []
    at_event: set[int] = set()
    for step in subject.script():
        for piece, rang in _to_events(probe, step):
            steps.append(piece)
            if rang:
                at_event.add(len(steps) - 1)
    original = subject.make()
    seen = [original.perform(step) for step in steps]
    again = subject.make()
    states: dict[int, str] = {}
    copies: list[tuple[int, Specimen]] = []
    for number, step in enumerate(steps):
        assert again.perform(step) == seen[number], f"{step} is answered differently"
        for begun, restored in copies:
            where = f"restored after {steps[begun]}, step {begun}"
            answer = restored.perform(step)
            assert answer == seen[number], f"{where}: {step} gives {answer}, not {seen[number]}"
        if copies:
            states[number] = again.snapshot()
            for begun, restored in copies:
                assert restored.snapshot() == states[number], (
                    f"restored after {steps[begun]}, step {begun}: another state after {step}"
                )
        copies = [(begun, restored) for begun, restored in copies if number - begun < AHEAD]
        if number in at_event or number % STRIDE == 0:
            copies.append((number, _restored(subject, again, step)))


def _restored(subject: Subject, original: Specimen, step: Step) -> Specimen:
    restored = subject.make()
    restored.become(original)
    assert restored.snapshot() == original.snapshot(), f"{step}: load does not give what was saved"
    assert restored.bench.irq == original.bench.irq, f"{step}: load forgets the interrupt line"
    return restored


def _to_events(specimen: Specimen, step: Step) -> list[tuple[Step, bool]]:
    """A step in pieces that end at the device's events, and whether one was there."""
    if not isinstance(step, Wait):
        specimen.perform(step)
        return [(step, False)]
    left = step.ns
    pieces: list[tuple[Step, bool]] = []
    while len(pieces) < EVENTS_PER_WAIT:
        timeline = specimen.bench.timeline
        ahead = int(timeline.next_time_ns()) - int(timeline.now_ns)
        if ahead > left:
            break
        pieces.append((Wait(ahead), True))
        specimen.perform(pieces[-1][0])
        left -= ahead
    if left > 0:
        pieces.append((Wait(left), False))
        specimen.perform(pieces[-1][0])
    return pieces


def check_spoilt_states(subject: Subject) -> None:
    """Saved state is untrusted: what does not fit is refused with ConfigError and changes nothing."""
    specimen = subject.make()
    for step in subject.script()[:200]:
        specimen.perform(step)
    saved = json.loads(specimen.snapshot())
    for spoilt in _spoilt(saved):
        before = specimen.snapshot(), specimen.bench.irq
        try:
            specimen.target.load(spoilt)
        except ConfigError:
            after = specimen.snapshot(), specimen.bench.irq
            assert after == before, f"a refused load changed the device: {spoilt!r}"
        except Exception as error:
            text = f"spoilt state raises {type(error).__name__}, not ConfigError: {spoilt!r}"
            raise AssertionError(text) from error
        else:
            raise AssertionError(f"spoilt state was accepted: {spoilt!r}")


def _spoilt(saved: dict[str, Any]) -> list[dict[str, Any]]:
    """States that no device can accept: in each mapping a wrong version, and each field missing."""
    spoilt: list[dict[str, Any]] = [{}]
    for path in _mappings(saved):
        here = _at(saved, path)
        if "version" in here and path[-1:] != ("registers",):
            for version in (10**6, None, "1"):
                changed = copy.deepcopy(saved)
                _at(changed, path)["version"] = version
                spoilt.append(changed)
        for key in here:
            changed = copy.deepcopy(saved)
            del _at(changed, path)[key]
            spoilt.append(changed)
    return spoilt


def _mappings(value: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return []
    found = [path]
    for key, inner in value.items():
        found += _mappings(inner, (*path, key))
    return found


def _at(saved: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        saved = saved[key]
    return saved


def check_previous_states(subject: Subject) -> None:
    """States that older versions saved load, and are saved in today's version; there is one of each
    older version to show it.
    """
    now = json.loads(subject.make().snapshot())
    today = _versions(now)
    shown = [_versions(dict(state)) for state in subject.previous]
    for path, version in today.items():
        known = {versions.get(path) for versions in shown}
        missing = [old for old in range(1, version) if old not in known]
        assert not missing, (
            f"the version of {'.'.join(path) or 'the state'} is {version}: give the check a state of "
            f"version {missing[0]} (previous=...)"
        )
    for state in subject.previous:
        specimen = subject.make()
        with blame(f"loading the state of an older version, {dict(state)!r}"):
            specimen.target.load(copy.deepcopy(dict(state)))
            specimen.target.resume()
        assert _versions(json.loads(specimen.snapshot())) == today, "saved in another version"


def _versions(saved: dict[str, Any]) -> dict[tuple[str, ...], int]:
    found = {}
    for path in _mappings(saved):
        version = _at(saved, path).get("version")
        if type(version) is int and path[-1:] != ("registers",):
            found[path] = version
    return found
