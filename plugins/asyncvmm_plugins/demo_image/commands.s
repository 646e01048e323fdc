# The monitor's commands, but for `block`.

.equ DEFAULT_PAGES, 256
.equ MAX_CODE, 65535

.text

cmd_help:
    la   a0, help_text
    tail puts

cmd_echo:
    addi sp, sp, -16
    sd   ra, 0(sp)
    call puts
    la   a0, newline
    call puts
    ld   ra, 0(sp)
    addi sp, sp, 16
    ret

cmd_uptime:
    addi sp, sp, -32
    sd   ra, 0(sp)
    sd   s1, 8(sp)
    la   a0, up_text
    call puts
    li   t0, MTIME
    ld   s1, 0(t0)
    li   t0, TICKS_PER_SECOND
    divu a0, s1, t0
    remu s1, s1, t0
    li   a1, 1
    call put_decimal
    li   a0, '.'
    call putc
    li   t0, TICKS_PER_MICROSECOND
    divu a0, s1, t0
    li   a1, 6
    call put_decimal
    la   a0, seconds_text
    call puts
    ld   ra, 0(sp)
    ld   s1, 8(sp)
    addi sp, sp, 32
    ret

# Each pattern is a mask and a value: the dword at A is to hold (A & mask) ^ value.
# s1 first address, s2 end, s3 pattern.
cmd_memtest:
    addi sp, sp, -48
    sd   ra, 0(sp)
    sd   s1, 8(sp)
    sd   s2, 16(sp)
    sd   s3, 24(sp)
    sd   s4, 32(sp)
    la   s1, image_end
    addi s1, s1, 2047
    addi s1, s1, 2047
    srli s1, s1, PAGE_SHIFT     # image_end is even, so this rounds up
    slli s1, s1, PAGE_SHIFT
    la   t0, ram_end
    ld   s4, 0(t0)
    sub  s4, s4, s1
    srli s4, s4, PAGE_SHIFT     # how many pages there are
    li   a1, DEFAULT_PAGES
    bgeu s4, a1, 1f
    mv   a1, s4
1:  call number_or
    bnez a1, bad_pages
    beqz a0, bad_pages
    bltu s4, a0, bad_pages
    slli s2, a0, PAGE_SHIFT
    add  s2, s2, s1
    la   s3, patterns
2:  ld   t0, 0(s3)
    ld   t1, 8(s3)
    mv   t2, s1
3:  and  t3, t2, t0
    xor  t3, t3, t1
    sd   t3, 0(t2)
    addi t2, t2, 8
    bltu t2, s2, 3b
    mv   t2, s1
4:  ld   t4, 0(t2)
    and  t3, t2, t0
    xor  t3, t3, t1
    bne  t3, t4, memory_bad
    addi t2, t2, 8
    bltu t2, s2, 4b
    addi s3, s3, 16
    la   t0, patterns_end
    bltu s3, t0, 2b
    la   a0, memtest_text
    call puts
    sub  a0, s2, s1
    li   a1, 1
    call put_decimal
    la   a0, bytes_at_text
    call puts
    mv   a0, s1
    li   a1, 8
    call put_hex
    la   a0, ok_text
memtest_says:
    call puts
    ld   ra, 0(sp)
    ld   s1, 8(sp)
    ld   s2, 16(sp)
    ld   s3, 24(sp)
    ld   s4, 32(sp)
    addi sp, sp, 48
    ret
bad_pages:
    la   a0, bad_pages_text
    call puts
    mv   a0, s4
    li   a1, 1
    call put_decimal
    la   a0, newline
    j    memtest_says
memory_bad:
    mv   s1, t2
    mv   s2, t3
    mv   s3, t4
    la   a0, memory_bad_text
    call puts
    mv   a0, s1
    li   a1, 16
    call put_hex
    la   a0, wrote_text
    call puts
    mv   a0, s2
    li   a1, 16
    call put_hex
    la   a0, read_text
    call puts
    mv   a0, s3
    li   a1, 16
    call put_hex
    la   a0, newline
    j    memtest_says

# Call every hart that has shown itself, and see which answer. s1 its number, s2 those that answered.
cmd_harts:
    addi sp, sp, -32
    sd   ra, 0(sp)
    sd   s1, 8(sp)
    sd   s2, 16(sp)
    sd   s3, 24(sp)
    la   a0, hart_0_text
    call puts
    li   s1, 1
    li   s2, 1
1:  la   s3, answers
    add  s3, s3, s1
    lbu  t0, 0(s3)
    beqz t0, 4f
    sb   zero, 0(s3)
    fence
    li   t0, CLINT
    slli t1, s1, 2
    add  t0, t0, t1
    li   t1, 1
    sw   t1, 0(t0)
    li   t0, MTIME
    ld   t1, 0(t0)
    li   t2, CALL_TICKS
    add  t1, t1, t2
2:  lbu  t2, 0(s3)
    bnez t2, 3f
    ld   t2, 0(t0)
    bltu t2, t1, 2b
    li   t0, 1
    sb   t0, 0(s3)              # so that the next call tries it again
    la   a0, hart_text
    call puts
    mv   a0, s1
    li   a1, 1
    call put_decimal
    la   a0, silent_text
    call puts
    j    4f
3:  addi s2, s2, 1
    la   a0, hart_text
    call puts
    mv   a0, s1
    li   a1, 1
    call put_decimal
    la   a0, answered_text
    call puts
4:  addi s1, s1, 1
    li   t0, MAX_HARTS
    blt  s1, t0, 1b
    mv   a0, s2
    li   a1, 1
    call put_decimal
    la   a0, in_all_text
    call puts
    ld   ra, 0(sp)
    ld   s1, 8(sp)
    ld   s2, 16(sp)
    ld   s3, 24(sp)
    addi sp, sp, 32
    ret

# crash [load|store|jump|illegal|ecall]
cmd_crash:
    addi sp, sp, -16
    sd   ra, 0(sp)
    sd   s1, 8(sp)
    mv   s1, a0
    lbu  t0, 0(a0)
    beqz t0, crash_load
    la   a1, load_name
    call same_string
    bnez a0, crash_load
    mv   a0, s1
    la   a1, store_name
    call same_string
    bnez a0, crash_store
    mv   a0, s1
    la   a1, jump_name
    call same_string
    bnez a0, crash_jump
    mv   a0, s1
    la   a1, illegal_name
    call same_string
    bnez a0, crash_illegal
    mv   a0, s1
    la   a1, ecall_name
    call same_string
    bnez a0, crash_ecall
    la   a0, crash_text
    call puts
    ld   ra, 0(sp)
    ld   s1, 8(sp)
    addi sp, sp, 16
    ret
crash_load:
    ld   t0, 8(zero)
crash_store:
    sd   zero, 16(zero)
crash_jump:
    li   t0, 0x40000000
    jr   t0
crash_illegal:
    .word 0
crash_ecall:
    ecall

cmd_poweroff:
    addi sp, sp, -16
    sd   ra, 0(sp)
    li   a1, 0
    call number_or
    bnez a1, 2f
    li   t0, MAX_CODE
    bltu t0, a0, 2f
    li   t0, FINISH_PASS
    beqz a0, 1f
    li   t0, FINISH_FAIL
    slli a0, a0, 16
    or   t0, t0, a0
1:  li   t1, FINISHER
    sw   t0, 0(t1)
    j    stay
2:  la   a0, bad_code_text
    call puts
    ld   ra, 0(sp)
    addi sp, sp, 16
    ret

cmd_reboot:
    li   t0, FINISH_RESET
    li   t1, FINISHER
    sw   t0, 0(t1)
stay:
    wfi
    j    stay

.rodata
.balign 8
patterns:
    .dword -1, 0
    .dword -1, -1
    .dword 0, 0x5555555555555555
    .dword 0, 0xaaaaaaaaaaaaaaaa
patterns_end:
commands:
    .dword help_name, cmd_help
    .dword uptime_name, cmd_uptime
    .dword memtest_name, cmd_memtest
    .dword echo_name, cmd_echo
    .dword block_name, cmd_block
    .dword harts_name, cmd_harts
    .dword crash_name, cmd_crash
    .dword poweroff_name, cmd_poweroff
    .dword reboot_name, cmd_reboot
    .dword 0, 0
causes:
    .dword c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c_other, c11, c12, c13, c_other, c15
c0:  .asciz ", instruction address misaligned"
c1:  .asciz ", instruction access fault"
c2:  .asciz ", illegal instruction"
c3:  .asciz ", breakpoint"
c4:  .asciz ", load address misaligned"
c5:  .asciz ", load access fault"
c6:  .asciz ", store address misaligned"
c7:  .asciz ", store access fault"
c8:  .asciz ", environment call from U-mode"
c9:  .asciz ", environment call from S-mode"
c11: .asciz ", environment call from M-mode"
c12: .asciz ", instruction page fault"
c13: .asciz ", load page fault"
c15: .asciz ", store page fault"
c_other: .asciz ""

help_name:     .asciz "help"
uptime_name:   .asciz "uptime"
memtest_name:  .asciz "memtest"
echo_name:     .asciz "echo"
block_name:    .asciz "block"
harts_name:    .asciz "harts"
crash_name:    .asciz "crash"
poweroff_name: .asciz "poweroff"
reboot_name:   .asciz "reboot"
load_name:     .asciz "load"
store_name:    .asciz "store"
jump_name:     .asciz "jump"
illegal_name:  .asciz "illegal"
ecall_name:    .asciz "ecall"

help_text:
    .ascii "help              this list\n"
    .ascii "uptime            time since power-on\n"
    .ascii "memtest [PAGES]   test that many 4 KiB pages of RAM (256)\n"
    .ascii "echo TEXT         say TEXT\n"
    .ascii "block [SECTOR]    show a sector of the first virtio disk\n"
    .ascii "harts             call the other harts\n"
    .ascii "crash [KIND]      load, store, jump, illegal or ecall: take a trap\n"
    .ascii "poweroff [CODE]   end with an exit code\n"
    .asciz "reboot            start again\n"

banner:          .asciz "\nasyncvmm demo monitor, "
banner_end:      .asciz " MiB of RAM. Try `help`.\n"
prompt_text:     .asciz "demo> "
unknown_text:    .asciz "unknown command: "
unknown_end:     .asciz " (try `help`)\n"
trap_text:       .asciz "\ntrap: cause "
epc_text:        .asciz ", at 0x"
tval_text:       .asciz ", value 0x"
up_text:         .asciz "up "
seconds_text:    .asciz " s\n"
memtest_text:    .asciz "memtest: "
bytes_at_text:   .asciz " bytes at 0x"
ok_text:         .asciz ": ok\n"
memory_bad_text: .asciz "memtest: FAILED at 0x"
wrote_text:      .asciz ": wrote 0x"
read_text:       .asciz ", read 0x"
bad_pages_text:  .asciz "memtest takes a number of pages, 1 to "
hart_text:       .asciz "hart "
hart_0_text:     .asciz "hart 0 is at the prompt\n"
answered_text:   .asciz " answers\n"
silent_text:     .asciz " does not answer\n"
in_all_text:     .asciz " in all\n"
crash_text:      .asciz "crash takes load, store, jump, illegal or ecall\n"
bad_code_text:   .asciz "poweroff takes an exit code, 0 to 65535\n"

.bss
.balign 16
ram_end:  .zero 8
answers:  .zero MAX_HARTS
.balign 16
stack:    .zero 4096
stack_end:
image_end:
