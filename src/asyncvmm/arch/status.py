"""Fields of mstatus, satp, menvcfg and the PMP configuration (privileged architecture, chapter 3)."""

from __future__ import annotations

from typing import Final

SIE: Final = 1 << 1
MIE: Final = 1 << 3
SPIE: Final = 1 << 5
MPIE: Final = 1 << 7
SPP: Final = 1 << 8
MPP: Final = 3 << 11
MPP_SHIFT: Final = 11
FS: Final = 3 << 13
FS_SHIFT: Final = 13
FS_DIRTY: Final = 3
MPRV: Final = 1 << 17
SUM: Final = 1 << 18
MXR: Final = 1 << 19
TVM: Final = 1 << 20
TW: Final = 1 << 21
TSR: Final = 1 << 22
XLEN_FIELDS: Final = 0xA << 32  # SXL and UXL: 64 bits, constant
SD: Final = -0x8000000000000000

MSTATUS_WRITE: Final = SIE | MIE | SPIE | MPIE | SPP | MPP | FS | MPRV | SUM | MXR | TVM | TW | TSR
SSTATUS_WRITE: Final = SIE | SPIE | SPP | FS | SUM | MXR
SSTATUS_READ: Final = SSTATUS_WRITE | (2 << 32)

ADUE: Final = 1 << 61  # menvcfg: hardware updates A and D bits (Svadu)
MENVCFG_WRITE: Final = ADUE | 1
SATP_BARE: Final = 0
SATP_SV39: Final = 8
SATP_SV48: Final = 9

PMP_R: Final = 1
PMP_W: Final = 2
PMP_X: Final = 4
PMP_A: Final = 0x18
PMP_A_SHIFT: Final = 3
PMP_LOCK: Final = 0x80

# Interrupt bits of mip and mie.
SSI: Final = 1 << 1
MSI: Final = 1 << 3
STI: Final = 1 << 5
MTI: Final = 1 << 7
SEI: Final = 1 << 9
MEI: Final = 1 << 11
SUPERVISOR_INTERRUPTS: Final = SSI | STI | SEI
ALL_INTERRUPTS: Final = SUPERVISOR_INTERRUPTS | MSI | MTI | MEI

# Exception causes (mcause).
FETCH_MISALIGNED: Final = 0
FETCH_ACCESS: Final = 1
ILLEGAL: Final = 2
BREAKPOINT: Final = 3
LOAD_MISALIGNED: Final = 4
LOAD_ACCESS: Final = 5
STORE_MISALIGNED: Final = 6
STORE_ACCESS: Final = 7
ECALL_USER: Final = 8
FETCH_PAGE: Final = 12
LOAD_PAGE: Final = 13
STORE_PAGE: Final = 15
INTERRUPT: Final = -0x8000000000000000
DELEGABLE: Final = 0xB3FF
