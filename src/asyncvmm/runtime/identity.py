"""How a system that has booted already takes over an identity that is new to it.

The devices of a reseeded guest have their new addresses and dates; what its kernel and its files have is
changed from within, by a shell script that its agent runs (see ``Guest.renew_identity``).
"""

from __future__ import annotations

from typing import Final

from asyncvmm.machine import Machine
from asyncvmm.machine.renewal import machine_id

# Cards are found by the addresses they had.
RENEW: Final = """
for card in /sys/class/net/*; do
    has=$(cat $card/address)
    set -- $NEW
    for old in $OLD; do
        if [ "$has" = "$old" ] && [ "$old" != "$1" ]; then
            ip link set dev ${card##*/} down && ip link set dev ${card##*/} address $1 &&
            ip link set dev ${card##*/} up
        fi
        shift
    done
done
if [ -w /etc ]; then echo $MACHINE_ID > /etc/machine-id; fi
hwclock -s -u 2> /dev/null || true
"""


def environment(machine: Machine) -> dict[str, str]:
    """The variables of RENEW: the addresses that the cards had and have, and the machine-id."""
    cards = [
        (device.device.mac, device.io.net.mac)
        for device in machine.devices
        if device.type.net(device.config) is not None and hasattr(device.device, "mac")
    ]
    return {
        "OLD": " ".join(old.hex(":") for old, _ in cards),
        "NEW": " ".join(new.hex(":") for _, new in cards),
        "MACHINE_ID": machine_id(machine.config, machine.name),
    }
