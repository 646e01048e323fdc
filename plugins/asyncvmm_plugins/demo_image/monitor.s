# The demo guest: a monitor in M-mode on the board that QEMU calls `virt`.
#
# Hart 0 is at the prompt; the others sleep until the command `harts` calls them. a0-a7 and t0-t6 are
# scratch, functions keep s0-s11; a command gets its arguments as a string in a0.

.equ CLINT, 0x02000000
.equ MTIME, 0x0200bff8
.equ TICKS_PER_SECOND, 10000000
.equ TICKS_PER_MICROSECOND, 10
.equ FINISHER, 0x00100000
.equ FINISH_FAIL, 0x3333
.equ FINISH_PASS, 0x5555
.equ FINISH_RESET, 0x7777
.equ RAM, 0x80000000
.equ MIB_SHIFT, 20
.equ PAGE_SHIFT, 12
.equ MSIE, 0x8
.equ MAX_HARTS, 64
.equ CAUSES, 16
.equ CALL_TICKS, 1000000        # a hart that does not answer within 0.1 s is given up

.text
_start:
    csrw mie, zero
    la   t0, trap
    csrw mtvec, t0
    bnez a0, other_hart
    la   sp, stack_end
    call console_init
    call size_ram
    la   a0, banner
    call puts
    la   t0, ram_end
    ld   a0, 0(t0)
    li   t0, RAM
    sub  a0, a0, t0
    srli a0, a0, MIB_SHIFT
    li   a1, 1
    call put_decimal
    la   a0, banner_end
    call puts

prompt:
    la   a0, prompt_text
    call puts
    call read_line
    la   a0, line
    call skip_spaces
    mv   s1, a0                 # the command's name
    lbu  t0, 0(s1)
    beqz t0, prompt
1:  addi a0, a0, 1
    lbu  t0, 0(a0)
    beqz t0, 2f
    li   t1, ' '
    bne  t0, t1, 1b
    sb   zero, 0(a0)
    addi a0, a0, 1
    call skip_spaces
2:  mv   s2, a0                 # its arguments
    la   s3, commands
3:  ld   a1, 0(s3)
    beqz a1, 4f
    mv   a0, s1
    call same_string
    bnez a0, 5f
    addi s3, s3, 16
    j    3b
4:  la   a0, unknown_text
    call puts
    mv   a0, s1
    call puts
    la   a0, unknown_end
    call puts
    j    prompt
5:  mv   a0, s2
    ld   t0, 8(s3)
    jalr t0
    j    prompt

# Any exception: say where and why, then go on at the prompt.
.balign 4
trap:
    la   sp, stack_end
    la   a0, trap_text
    call puts
    csrr a0, mcause
    li   a1, 1
    call put_decimal
    csrr t0, mcause
    li   t1, CAUSES
    bgeu t0, t1, 1f
    la   t1, causes
    slli t0, t0, 3
    add  t1, t1, t0
    ld   a0, 0(t1)
    call puts
1:  la   a0, epc_text
    call puts
    csrr a0, mepc
    li   a1, 16
    call put_hex
    la   a0, tval_text
    call puts
    csrr a0, mtval
    li   a1, 16
    call put_hex
    la   a0, newline
    call puts
    j    prompt

# The word at a0 into a0 and 1 into a1, or 0 into both when nothing answers there.
peek:
    la   t0, 1f
    csrrw t1, mtvec, t0
    lwu  a0, 0(a0)
    li   a1, 1
    csrw mtvec, t1
    ret
.balign 4
1:  csrw mtvec, t1
    li   a0, 0
    li   a1, 0
    ret

# RAM ends where nothing answers any more, to the MiB.
size_ram:
    addi sp, sp, -32
    sd   ra, 0(sp)
    sd   s1, 8(sp)
    sd   s2, 16(sp)
    li   s1, RAM
    li   s2, 1 << MIB_SHIFT
1:  add  a0, s1, s2
    addi a0, a0, -4
    call peek
    beqz a1, 2f
    add  s1, s1, s2
    j    1b
2:  la   t0, ram_end
    sd   s1, 0(t0)
    ld   ra, 0(sp)
    ld   s1, 8(sp)
    ld   s2, 16(sp)
    addi sp, sp, 32
    ret

skip_spaces:
    li   t0, ' '
1:  lbu  t1, 0(a0)
    bne  t1, t0, 2f
    addi a0, a0, 1
    j    1b
2:  ret

# Whether the strings at a0 and a1 are the same.
same_string:
    lbu  t0, 0(a0)
    lbu  t1, 0(a1)
    addi a0, a0, 1
    addi a1, a1, 1
    bne  t0, t1, 1f
    bnez t0, same_string
    li   a0, 1
    ret
1:  li   a0, 0
    ret

# The number (decimal, or hexadecimal after 0x) that is all of the string at a0, or a1 when it is
# empty. a1 is then 0, or 1 when it is no number below 2**48.
number_or:
    lbu  t0, 0(a0)
    bnez t0, 1f
    mv   a0, a1
    j    4f
1:  mv   t1, a0
    li   a0, 0
    li   t2, 10
    li   t3, '0'
    bne  t0, t3, 2f
    lbu  t0, 1(t1)
    ori  t0, t0, 0x20
    li   t3, 'x'
    bne  t0, t3, 2f
    addi t1, t1, 2
    li   t2, 16
2:  lbu  t0, 0(t1)
    addi t3, t0, -'0'
    li   t4, 10
    bltu t3, t4, 3f
    ori  t3, t0, 0x20
    addi t3, t3, 10 - 'a'
    bltu t3, t4, 5f
    bgeu t3, t2, 5f
3:  mul  a0, a0, t2
    add  a0, a0, t3
    srli t3, a0, 48
    bnez t3, 5f
    addi t1, t1, 1
    lbu  t0, 0(t1)
    li   t3, ' '
    beq  t0, t3, 6f
    bnez t0, 2b
4:  li   a1, 0
    ret
6:  addi t1, t1, 1              # nothing but spaces may follow
    lbu  t0, 0(t1)
    beq  t0, t3, 6b
    beqz t0, 4b
5:  li   a1, 1
    ret

# Harts other than 0: be counted, then answer every call (a software interrupt) until the end.
other_hart:
    csrr t0, mhartid
    la   t1, answers
    add  t1, t1, t0
    li   t2, CLINT
    slli t3, t0, 2
    add  t2, t2, t3
    csrsi mie, MSIE
    li   t4, 1
1:  sb   t4, 0(t1)
    fence
    wfi
    sw   zero, 0(t2)
    j    1b
