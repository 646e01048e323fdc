# Entry in M-mode, the way down to S-mode with Sv39, and the trap that should never come.

        .section .text.start, "ax", @progbits
        .globl  _start
_start:
        csrr    t0, mhartid
        bnez    t0, park
        la      sp, stack_top
        la      t0, trap
        csrw    mtvec, t0
        li      t0, 1 << 13             # mstatus.FS = initial
        csrs    mstatus, t0
        li      t0, 7                   # S-mode may read cycle, time and instret
        csrw    mcounteren, t0
        call    bench_main
park:   wfi
        j       park

# void enter_supervisor(u64 satp): return to the caller in S-mode with this satp.
        .text
        .globl  enter_supervisor
enter_supervisor:
        li      t0, -1                  # one PMP entry opens all of memory to S-mode
        csrw    pmpaddr0, t0
        li      t0, 0x1f
        csrw    pmpcfg0, t0
        csrw    satp, a0
        sfence.vma
        li      t0, 3 << 11
        csrc    mstatus, t0
        li      t0, 1 << 11             # mstatus.MPP = S
        csrs    mstatus, t0
        csrw    mepc, ra
        mret

        .balign 4
trap:   la      t0, bench_exiting       # Spike has no test finisher: its store faults, and that is fine
        lw      t0, 0(t0)
        bnez    t0, park
        csrr    a0, mcause
        csrr    a1, mepc
        csrr    a2, mtval
        la      sp, stack_top
        call    bench_trapped
        j       park

        .section .note.GNU-stack, "", @progbits
