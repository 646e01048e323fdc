"""``kill -9`` at random instants while a machine's folder is used: nothing acknowledged is lost.

    python -m tools.kill_campaign --count 200 --seed 1

A process uses the folder, says line by line what is done, and is killed. Then everything is looked at.
What there is to do, and what must hold after any kill, is a module of ``tools.kill_campaign.of`` each:
``config`` (vm.toml), ``snapshots``, ``disks`` (writes, flushes, commits), ``nvram`` (flash, clock and
identity from two threads), ``flash`` (a guest that programs its flash and sets its date), ``journal`` (a
recording) and ``restore`` (disks and state go back).

Reading order: ``work.py`` (what such a module has), ``of/config.py`` (the shortest one), ``campaign.py``.
"""

from tools.kill_campaign.campaign import WORKS, run

__all__ = ["WORKS", "run"]
