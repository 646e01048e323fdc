# devmem ADDRESS [WIDTH [VALUE]]: reads or writes a physical address through /dev/mem.
#
# As busybox's devmem, which the installer's busybox lacks: WIDTH is 8, 16, 32 (which it is when left out)
# or 64 bits; numbers are decimal, or hexadecimal after 0x. What was read is printed, 0x and all its digits.
# Exit status: 0, 1 when the system refuses, 2 for a wrong argument. (A bus error kills it.)

.equ SYS_openat, 56
.equ SYS_write, 64
.equ SYS_exit_group, 94
.equ SYS_mmap, 222
.equ O_RDWR_SYNC, 0x101002
.equ DATA, 0x400000

.globl _start
_start:
    j    begin
path:
    .asciz "/dev/mem"
usage_text:
    .ascii "usage: devmem ADDRESS [8|16|32|64 [VALUE]]\n"
usage_end:
refused_text:
    .ascii "devmem: the system does not let me\n"
refused_end:
.balign 4

begin:
    ld   s1, 0(sp)              # argc
    addi t0, s1, -2
    li   t1, 3
    bgeu t0, t1, usage          # 2, 3 or 4
    ld   a0, 16(sp)
    jal  number
    mv   s2, a0                 # the address
    li   s3, 4                  # bytes
    li   t0, 3
    blt  s1, t0, opened
    ld   a0, 24(sp)
    jal  number
    srli s3, a0, 3
    andi t0, a0, 7
    bnez t0, usage
    li   t0, 9
    bgeu s3, t0, usage
    beqz s3, usage
    addi t0, s3, -1
    and  t0, t0, s3
    bnez t0, usage              # no power of two
    li   t0, 4
    blt  s1, t0, opened
    ld   a0, 32(sp)
    jal  number
    mv   s4, a0                 # the value
opened:
    addi t0, s3, -1
    and  t0, t0, s2
    bnez t0, usage              # not aligned
    li   a0, -100
    la   a1, path
    li   a2, O_RDWR_SYNC
    li   a3, 0
    li   a7, SYS_openat
    ecall
    bltz a0, refused
    mv   a4, a0
    li   a0, 0
    li   a1, 4096
    li   a2, 3                  # PROT_READ | PROT_WRITE
    li   a3, 1                  # MAP_SHARED
    li   t0, -4096
    and  a5, s2, t0
    li   a7, SYS_mmap
    ecall
    li   t0, -4096
    bgeu a0, t0, refused        # -4095 to -1 are errors
    slli t0, s2, 52
    srli t0, t0, 52
    add  s5, a0, t0             # where it is
    li   t0, 4
    beq  s1, t0, store
    li   t0, 1
    beq  s3, t0, 1f
    li   t0, 2
    beq  s3, t0, 2f
    li   t0, 4
    beq  s3, t0, 4f
    ld   s4, 0(s5)
    j    print
1:  lbu  s4, 0(s5)
    j    print
2:  lhu  s4, 0(s5)
    j    print
4:  lwu  s4, 0(s5)
print:
    li   a1, DATA
    li   t1, '0'
    sb   t1, 0(a1)
    li   t1, 'x'
    sb   t1, 1(a1)
    slli t2, s3, 1              # digits
    add  t3, a1, t2
    addi t3, t3, 2
    li   t1, 10
    sb   t1, 0(t3)              # the newline
    addi a2, t2, 3
1:  andi t0, s4, 15
    srli s4, s4, 4
    addi t1, t0, '0'
    li   t4, 10
    blt  t0, t4, 2f
    addi t1, t0, 'A'-10
2:  addi t3, t3, -1
    sb   t1, 0(t3)
    addi t2, t2, -1
    bnez t2, 1b
    li   a0, 1
    li   a7, SYS_write
    ecall
    li   a0, 0
    j    exit
store:
    li   t0, 1
    beq  s3, t0, 1f
    li   t0, 2
    beq  s3, t0, 2f
    li   t0, 4
    beq  s3, t0, 4f
    sd   s4, 0(s5)
    j    3f
1:  sb   s4, 0(s5)
    j    3f
2:  sh   s4, 0(s5)
    j    3f
4:  sw   s4, 0(s5)
3:  li   a0, 0
exit:
    li   a7, SYS_exit_group
    ecall

# a0: a text -> its number.
number:
    li   t0, 0
    li   t1, 10                 # base
    lbu  t2, 0(a0)
    beqz t2, usage
    li   t3, '0'
    bne  t2, t3, 1f
    lbu  t2, 1(a0)
    ori  t2, t2, 32
    li   t3, 'x'
    bne  t2, t3, 1f
    li   t1, 16
    addi a0, a0, 2
    lbu  t2, 0(a0)
    beqz t2, usage
1:  lbu  t2, 0(a0)
    beqz t2, 4f
    addi t3, t2, -48
    li   t4, 10
    bltu t3, t4, 2f
    ori  t2, t2, 32
    addi t3, t2, -97
    li   t4, 6
    bgeu t3, t4, usage
    addi t3, t3, 10
2:  bgeu t3, t1, usage
    mul  t0, t0, t1
    add  t0, t0, t3
    addi a0, a0, 1
    j    1b
4:  mv   a0, t0
    ret

usage:
    la   a1, usage_text
    li   a2, usage_end - usage_text
    li   s6, 2
    j    complain
refused:
    la   a1, refused_text
    li   a2, refused_end - refused_text
    li   s6, 1
complain:
    li   a0, 2
    li   a7, SYS_write
    ecall
    mv   a0, s6
    j    exit
