    .section .text.start, "ax"
    .globl _start
_start:
    li t0, 0x6000
    csrs mstatus, t0
    la sp, stack_top
    csrr a0, mhartid
    slli t0, a0, 12
    sub sp, sp, t0
    j start_c
    .bss
    .balign 16
    .space 8192
stack_top:
