# The monitor's console: the ns16550, numbers, and a line editor.
#
# A hart that waits for the UART sleeps in WFI until the PLIC has something for it; no interrupt is
# ever taken (mstatus.MIE stays 0). The FIFOs stay off: turning them on would drop early input.

.equ UART, 0x10000000
.equ THR, 0
.equ IER, 1
.equ LCR, 3
.equ LSR, 5
.equ LCR_8N1, 0x03
.equ LSR_DATA_READY, 0x01
.equ LSR_THR_EMPTY, 0x20
.equ IER_RECEIVED, 0x01
.equ IER_THR_EMPTY, 0x02
.equ UART_SOURCE, 10

.equ PLIC, 0x0c000000
.equ PLIC_ENABLE, 0x0c002000    # hart 0 in M-mode is context 0
.equ PLIC_CLAIM, 0x0c200004
.equ MEIE, 0x800

.equ BELL, 7
.equ BACKSPACE, 8
.equ DELETE, 127
.equ KILL_LINE, 21              # ^U
.equ CANCEL, 3                  # ^C
.equ ESCAPE, 27
.equ LINE_BYTES, 256

.text

console_init:
    li   t0, UART
    li   t1, LCR_8N1
    sb   t1, LCR(t0)
    sb   zero, IER(t0)
    li   a0, UART_SOURCE
    li   t0, MEIE
    csrs mie, t0

# Let PLIC source a0 (below 32) wake this hart.
enable_source:
    slli t0, a0, 2
    li   t1, PLIC
    add  t0, t0, t1
    li   t1, 1
    sw   t1, 0(t0)              # its priority
    sll  t1, t1, a0
    li   t0, PLIC_ENABLE
    lw   t2, 0(t0)
    or   t1, t1, t2
    sw   t1, 0(t0)
    ret

# Sleep until a device wants something; a0 says what the UART may wake us for (IER).
sleep:
    li   t0, UART
    sb   a0, IER(t0)
    wfi
    li   t0, PLIC_CLAIM
    lw   t1, 0(t0)
    beqz t1, 1f
    sw   t1, 0(t0)
1:  ret

# Send the byte a0.
putc:
    li   t0, UART
    lbu  t1, LSR(t0)
    andi t1, t1, LSR_THR_EMPTY
    beqz t1, 1f
    sb   a0, THR(t0)
    ret
1:  addi sp, sp, -16
    sd   ra, 0(sp)
    sd   a0, 8(sp)
    li   a0, IER_THR_EMPTY
    call sleep
    ld   ra, 0(sp)
    ld   a0, 8(sp)
    addi sp, sp, 16
    j    putc

# Receive a byte into a0.
getc:
    li   t0, UART
    lbu  t1, LSR(t0)
    andi t1, t1, LSR_DATA_READY
    beqz t1, 1f
    lbu  a0, THR(t0)
    ret
1:  addi sp, sp, -16
    sd   ra, 0(sp)
    li   a0, IER_RECEIVED
    call sleep
    ld   ra, 0(sp)
    addi sp, sp, 16
    j    getc

# Send the string at a0; a line feed goes out as carriage return and line feed.
puts:
    addi sp, sp, -16
    sd   ra, 0(sp)
    sd   s1, 8(sp)
    mv   s1, a0
1:  lbu  a0, 0(s1)
    beqz a0, 3f
    li   t0, '\n'
    bne  a0, t0, 2f
    li   a0, '\r'
    call putc
    li   a0, '\n'
2:  call putc
    addi s1, s1, 1
    j    1b
3:  ld   ra, 0(sp)
    ld   s1, 8(sp)
    addi sp, sp, 16
    ret

# Send a0 in decimal, at least a1 digits.
put_decimal:
    addi sp, sp, -48
    sd   ra, 0(sp)
    addi t0, sp, 40
    sb   zero, 0(t0)
    li   t1, 10
1:  remu t2, a0, t1
    divu a0, a0, t1
    addi t2, t2, '0'
    addi t0, t0, -1
    sb   t2, 0(t0)
    addi a1, a1, -1
    bnez a0, 1b
    bgtz a1, 1b
    mv   a0, t0
    call puts
    ld   ra, 0(sp)
    addi sp, sp, 48
    ret

# Send the low a1 digits of a0 in hexadecimal.
put_hex:
    addi sp, sp, -32
    sd   ra, 0(sp)
    sd   s1, 8(sp)
    sd   s2, 16(sp)
    mv   s1, a0
    slli s2, a1, 2
1:  addi s2, s2, -4
    srl  a0, s1, s2
    andi a0, a0, 15
    addi a0, a0, '0'
    li   t0, '9'
    ble  a0, t0, 2f
    addi a0, a0, 'a' - '9' - 1
2:  call putc
    bnez s2, 1b
    ld   ra, 0(sp)
    ld   s1, 8(sp)
    ld   s2, 16(sp)
    addi sp, sp, 32
    ret

# Read a line into `line`, zero-terminated, echoing it. Backspace, ^U and ^C edit; escape sequences
# are swallowed; what is too long rings the bell.
read_line:
    addi sp, sp, -32
    sd   ra, 0(sp)
    sd   s1, 8(sp)
    sd   s2, 16(sp)
    la   s1, line
    mv   s2, s1                 # where the next byte goes
next_key:
    call getc
    la   t0, last_key
    lbu  t1, 0(t0)
    sb   a0, 0(t0)
    li   t0, '\n'
    bne  a0, t0, 1f
    li   t0, '\r'
    beq  t1, t0, next_key       # CR LF is one end of line
    j    end_of_line
1:  li   t0, '\r'
    beq  a0, t0, end_of_line
    li   t0, ESCAPE
    beq  a0, t0, escape_sequence
    li   t0, BACKSPACE
    beq  a0, t0, 2f
    li   t0, DELETE
    bne  a0, t0, 3f
2:  call rub_out
    j    next_key
3:  li   t0, KILL_LINE
    bne  a0, t0, 5f
4:  beq  s2, s1, next_key
    call rub_out
    j    4b
5:  li   t0, CANCEL
    bne  a0, t0, 6f
    la   a0, cancelled
    call puts
    mv   s2, s1
    j    end_of_line
6:  li   t0, ' '
    bgeu a0, t0, 7f
    li   t1, '\t'
    bne  a0, t1, next_key       # other control characters mean nothing
    mv   a0, t0
7:  addi t0, s1, LINE_BYTES - 1
    beq  s2, t0, 8f
    sb   a0, 0(s2)
    addi s2, s2, 1
    call putc
    j    next_key
8:  li   a0, BELL
    call putc
    j    next_key

# ESC [ ... up to a byte from 0x40, or ESC O and one byte: a cursor or function key.
escape_sequence:
    call getc
    li   t0, 'O'
    beq  a0, t0, 2f
    li   t0, '['
    bne  a0, t0, next_key
1:  call getc
    li   t0, '@'
    bltu a0, t0, 1b
    j    next_key
2:  call getc
    j    next_key

end_of_line:
    sb   zero, 0(s2)
    la   a0, newline
    call puts
    ld   ra, 0(sp)
    ld   s1, 8(sp)
    ld   s2, 16(sp)
    addi sp, sp, 32
    ret

# Take back the last character before s2 (all bytes of it in UTF-8), if the line at s1 has one.
rub_out:
    beq  s2, s1, 2f
1:  addi s2, s2, -1
    beq  s2, s1, 3f
    lbu  t0, 0(s2)
    andi t0, t0, 0xc0
    li   t1, 0x80
    beq  t0, t1, 1b
3:  la   a0, rubbed
    tail puts
2:  ret

.rodata
newline:    .asciz "\n"
rubbed:     .asciz "\b \b"
cancelled:  .asciz "^C"

.bss
line:       .zero LINE_BYTES
last_key:   .zero 8
