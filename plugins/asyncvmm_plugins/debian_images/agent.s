# The run agent: runs commands for the host over a virtio-console port.
#
# Protocol: specs/run-protocol.md. Static, no libc, no stack frames but for return addresses; Linux rv64.
# Two parts of memory: this text, and a zeroed data area at DATA whose layout is the table below.
#
# s0 = DATA all the time. a0-a7, t0-t6 are scratch; a function keeps s1-s11 unless it says otherwise.

# System calls (asm-generic/unistd.h).
.equ SYS_dup3, 24
.equ SYS_fcntl, 25
.equ SYS_ioctl, 29
.equ SYS_mount, 40
.equ SYS_chdir, 49
.equ SYS_openat, 56
.equ SYS_close, 57
.equ SYS_pipe2, 59
.equ SYS_read, 63
.equ SYS_write, 64
.equ SYS_ppoll, 73
.equ SYS_signalfd4, 74
.equ SYS_sync, 81
.equ SYS_exit_group, 94
.equ SYS_nanosleep, 101
.equ SYS_kill, 129
.equ SYS_rt_sigaction, 134
.equ SYS_rt_sigprocmask, 135
.equ SYS_reboot, 142
.equ SYS_setsid, 157
.equ SYS_getpid, 172
.equ SYS_clone, 220
.equ SYS_execve, 221
.equ SYS_wait4, 260
.equ SYS_finit_module, 273

.equ EPERM, 1
.equ ENOENT, 2
.equ EAGAIN, 11
.equ EACCES, 13
.equ EBUSY, 16
.equ ENOTDIR, 20
.equ EINVAL, 22
.equ ENAMETOOLONG, 36
.equ EINTR, 4

.equ SIGUSR1, 10
.equ SIGUSR2, 12
.equ SIGPIPE, 13
.equ SIGCHLD, 17
# Bit n-1 of a signal mask is signal n.
.equ MASK_CHILD, 0x10000
.equ MASK_INIT, 0x14a02

.equ POLLIN, 1
.equ POLLOUT, 4
.equ O_CLOEXEC, 0x80000
.equ O_NONBLOCK, 0x800
.equ FIONREAD, 0x541b
.equ TIOCSWINSZ, 0x5414

.equ MAX_PAYLOAD, 65536
.equ MAX_OUTPUT, 32760
.equ MAX_STRINGS, 1022

# The data area: offsets from s0. Descriptors are -1 when closed.
.equ DATA, 0x400000
.equ PORT, 0
.equ SIGNALS, 4
.equ OUT, 8
.equ ERR, 12
.equ IN, 16
.equ PID, 20
.equ ID, 24
.equ ENDED, 28
.equ STATUS, 32
.equ AS_INIT, 36
.equ HAVE, 40
.equ PENDING, 48
.equ WRITTEN, 56
.equ TTY, 64
.equ RX, 72
.equ SPARE, 80
.equ PATH, 88
.equ SAVED, 96
.equ POLL, 128
.equ SCRATCH, 256
.equ PIPES, 512
.equ ARGV, 0x1000
.equ ENVP, 0x3800
.equ NAME, 0x6000
.equ TX, 0x8000
.equ RX_A, 0x18000
.equ RX_B, 0x30000
.equ DATA_BYTES, 0x48000

.globl _start
_start:
    li   s0, DATA
    ld   t0, 0(sp)
    li   t1, 2
    blt  t0, t1, usage
    ld   s1, 16(sp)             # the port's path
    lbu  t1, 0(s1)
    li   t2, '+'
    beq  t1, t2, load_modules
    li   t1, 2
    blt  t0, t1, 1f
    addi t1, t1, 1
    blt  t0, t1, 1f
    ld   t2, 24(sp)
    sd   t2, TTY(s0)
1:  li   t0, -1
    sw   t0, OUT(s0)
    sw   t0, ERR(s0)
    sw   t0, IN(s0)
    li   t0, RX_A
    add  t0, t0, s0
    sd   t0, RX(s0)
    li   t0, RX_B
    add  t0, t0, s0
    sd   t0, SPARE(s0)

    # Descriptors 0 to 2 must be taken, or a pipe would land on them.
2:  la   a1, dev_null
    li   a2, 2
    call open
    bltz a0, 3f
    li   t0, 3
    blt  a0, t0, 2b
    call close
3:  mv   a1, s1
    li   a2, 0x80002            # O_RDWR | O_CLOEXEC
    call open
    bltz a0, no_port
    sw   a0, PORT(s0)

    # SIGPIPE is ignored; the signals that are handled are blocked and read from a descriptor.
    li   a0, SIGPIPE
    li   a1, 1
    call set_action
    li   s1, MASK_CHILD
    li   a7, SYS_getpid
    ecall
    li   t0, 1
    bne  a0, t0, 4f
    sw   t0, AS_INIT(s0)
    li   s1, MASK_INIT
4:  addi a1, s0, SCRATCH
    sd   s1, 0(a1)
    li   a0, 0                  # SIG_BLOCK
    li   a2, 0
    li   a3, 8
    li   a7, SYS_rt_sigprocmask
    ecall
    li   a0, -1
    addi a1, s0, SCRATCH
    li   a2, 8
    li   a3, O_CLOEXEC
    li   a7, SYS_signalfd4
    ecall
    bltz a0, broken
    sw   a0, SIGNALS(s0)

    # HELLO
    call tx_payload
    li   t0, 1
    sw   t0, 0(a0)
    li   t0, MAX_PAYLOAD
    sw   t0, 4(a0)
    li   a0, 'H'
    li   a1, 0
    li   a2, 8
    call send

# The loop: wait for any of the five descriptors, then serve those that are ready.
loop:
    addi a0, s0, POLL
    li   t1, POLLIN
    lw   t0, PORT(s0)
    sw   t0, 0(a0)
    sw   t1, 4(a0)
    lw   t0, SIGNALS(s0)
    sw   t0, 8(a0)
    sw   t1, 12(a0)
    lw   t0, OUT(s0)
    sw   t0, 16(a0)
    sw   t1, 20(a0)
    lw   t0, ERR(s0)
    sw   t0, 24(a0)
    sw   t1, 28(a0)
    li   t0, -1
    ld   t1, PENDING(s0)
    beqz t1, 1f
    lw   t0, IN(s0)
1:  sw   t0, 32(a0)
    li   t1, POLLOUT
    sw   t1, 36(a0)
    li   a1, 5
    li   a2, 0
    li   a3, 0
    li   a4, 8
    li   a7, SYS_ppoll
    ecall
    bltz a0, loop

    lhu  t0, POLL+38(s0)
    beqz t0, 1f
    call feed_input
1:  lhu  t0, POLL+22(s0)
    beqz t0, 1f
    addi s1, s0, OUT
    li   s2, 'O'
    li   s3, MAX_OUTPUT
    call forward
1:  lhu  t0, POLL+30(s0)
    beqz t0, 1f
    addi s1, s0, ERR
    li   s2, 'E'
    li   s3, MAX_OUTPUT
    call forward
1:  lhu  t0, POLL+14(s0)
    beqz t0, 1f
    call take_signal
1:  lw   t0, ENDED(s0)
    beqz t0, 1f
    call finish
1:  lhu  t0, POLL+6(s0)
    beqz t0, loop
    call receive
    j    loop

# ---- input from the host -------------------------------------------------------------------------

# Reads what is missing of the current frame; acts when it is whole.
receive:
    addi sp, sp, -16
    sd   ra, 0(sp)
    ld   t0, RX(s0)
    ld   t1, HAVE(s0)
    li   a2, 8
    blt  t1, a2, 1f
    lwu  a2, 4(t0)
    addi a2, a2, 8
1:  sub  a2, a2, t1
    add  a1, t0, t1
    lw   a0, PORT(s0)
    li   a7, SYS_read
    ecall
    beqz a0, hung_up
    bltz a0, receive_failed
    ld   t1, HAVE(s0)
    add  t1, t1, a0
    sd   t1, HAVE(s0)
    li   t2, 8
    blt  t1, t2, receive_done
    ld   t0, RX(s0)
    lwu  a2, 4(t0)
    li   t3, MAX_PAYLOAD
    bltu t3, a2, broken
    addi t2, a2, 8
    bne  t1, t2, receive_done

    # A whole frame: a0 = payload, a1 = id, a2 = length.
    sd   zero, HAVE(s0)
    addi a0, t0, 8
    lhu  a1, 2(t0)
    lbu  t1, 0(t0)
    li   t2, 'R'
    beq  t1, t2, 2f
    li   t2, 'I'
    beq  t1, t2, 3f
    li   t2, 'K'
    beq  t1, t2, 4f
    li   t2, 'W'
    beq  t1, t2, 5f
    li   t2, 'Q'
    bne  t1, t2, receive_done
    li   t0, 4
    blt  a2, t0, receive_done
    lw   a0, 0(a0)
    j    shut_down
2:  call run
    j    receive_done
3:  call input
    j    receive_done
4:  call kill_command
    j    receive_done
5:  call window_size
receive_done:
    ld   ra, 0(sp)
    addi sp, sp, 16
    ret
receive_failed:
    li   t0, -EINTR
    beq  a0, t0, receive_done
    li   t0, -EAGAIN
    beq  a0, t0, receive_done
    j    no_port
hung_up:
    call pause
    j    receive_done

# KILL: a0 = payload, a1 = id, a2 = length.
kill_command:
    li   t0, 4
    blt  a2, t0, 1f
    lw   t0, PID(s0)
    beqz t0, 1f
    lw   t1, ID(s0)
    bne  t1, a1, 1f
    lw   t1, ENDED(s0)
    bnez t1, 1f
    lw   a1, 0(a0)
    neg  a0, t0
    li   a7, SYS_kill
    ecall
1:  ret

# WINSIZE: a0 = payload, a2 = length.
window_size:
    addi sp, sp, -16
    sd   ra, 0(sp)
    ld   t0, TTY(s0)
    beqz t0, 1f
    li   t1, 4
    blt  a2, t1, 1f
    lw   t1, 0(a0)
    sw   t1, SCRATCH(s0)
    sw   zero, SCRATCH+4(s0)
    mv   a1, t0
    li   a2, 0x80902            # O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC
    call open
    bltz a0, 1f
    sd   a0, SAVED(s0)
    li   a1, TIOCSWINSZ
    addi a2, s0, SCRATCH
    li   a7, SYS_ioctl
    ecall
    ld   a0, SAVED(s0)
    call close
1:  ld   ra, 0(sp)
    addi sp, sp, 16
    ret

# INPUT: a1 = id, a2 = length. The frame's buffer is kept until it is written, so no byte is copied.
input:
    addi sp, sp, -16
    sd   ra, 0(sp)
    lw   t0, PID(s0)
    beqz t0, 2f
    lw   t1, ID(s0)
    bne  t1, a1, 2f
    ld   t1, PENDING(s0)
    bnez t1, 2f
    bnez a2, 1f
    addi a0, s0, IN
    call shut
    call acknowledge
    j    2f
1:  ld   t0, RX(s0)
    ld   t1, SPARE(s0)
    sd   t1, RX(s0)
    sd   t0, SPARE(s0)
    sd   a2, PENDING(s0)
    sd   zero, WRITTEN(s0)
    call feed_input
2:  ld   ra, 0(sp)
    addi sp, sp, 16
    ret

# Writes pending input to the command; acknowledges when all is written or the command reads no more.
feed_input:
    addi sp, sp, -16
    sd   ra, 0(sp)
    lw   a0, IN(s0)
    bltz a0, 2f
    ld   a1, SPARE(s0)
    ld   t0, WRITTEN(s0)
    ld   a2, PENDING(s0)
    sub  a2, a2, t0
    addi a1, a1, 8
    add  a1, a1, t0
    li   a7, SYS_write
    ecall
    bltz a0, 1f
    ld   t0, WRITTEN(s0)
    add  t0, t0, a0
    sd   t0, WRITTEN(s0)
    ld   t1, PENDING(s0)
    beq  t0, t1, 2f
    j    3f
1:  li   t0, -EAGAIN
    beq  a0, t0, 3f
    addi a0, s0, IN
    call shut
2:  sd   zero, PENDING(s0)
    call acknowledge
3:  ld   ra, 0(sp)
    addi sp, sp, 16
    ret

acknowledge:
    li   a0, 'A'
    lw   a1, ID(s0)
    li   a2, 0
    j    send

# ---- output to the host --------------------------------------------------------------------------

# Reads at most s3 bytes from the descriptor at s1 and sends them as a frame of type s2.
# Returns in a0 what read returned; closes the descriptor at end of file.
forward:
    addi sp, sp, -16
    sd   ra, 0(sp)
    call tx_payload
    mv   a1, a0
    lw   a0, 0(s1)
    mv   a2, s3
    li   a7, SYS_read
    ecall
    sd   a0, 8(sp)
    beqz a0, 1f
    bltz a0, 2f
    mv   a2, a0
    mv   a0, s2
    lw   a1, ID(s0)
    call send
    j    2f
1:  mv   a0, s1
    call shut
2:  ld   a0, 8(sp)
    ld   ra, 0(sp)
    addi sp, sp, 16
    ret

# Sends what the pipe at s1 holds at this instant (and no more, or a busy daemon would keep us here).
drain:
    addi sp, sp, -32
    sd   ra, 0(sp)
    lw   a0, 0(s1)
    bltz a0, 3f
    sw   zero, SCRATCH(s0)
    li   a1, FIONREAD
    addi a2, s0, SCRATCH
    li   a7, SYS_ioctl
    ecall
    lw   t0, SCRATCH(s0)
    sd   t0, 8(sp)
1:  ld   s3, 8(sp)
    blez s3, 3f
    li   t0, MAX_OUTPUT
    ble  s3, t0, 2f
    mv   s3, t0
2:  call forward
    blez a0, 3f
    ld   t0, 8(sp)
    sub  t0, t0, a0
    sd   t0, 8(sp)
    j    1b
3:  mv   a0, s1
    call shut
    ld   ra, 0(sp)
    addi sp, sp, 32
    ret

# The command has ended: the rest of its output, then EXIT.
finish:
    addi sp, sp, -16
    sd   ra, 0(sp)
    addi s1, s0, OUT
    li   s2, 'O'
    call drain
    addi s1, s0, ERR
    li   s2, 'E'
    call drain
    addi a0, s0, IN
    call shut
    sd   zero, PENDING(s0)
    sw   zero, PID(s0)
    sw   zero, ENDED(s0)
    call tx_payload
    lw   t0, STATUS(s0)
    andi t1, t0, 127
    snez t2, t1
    sw   t2, 0(a0)
    bnez t1, 1f
    srli t1, t0, 8
    andi t1, t1, 255
1:  sw   t1, 4(a0)
    li   a0, 'X'
    lw   a1, ID(s0)
    li   a2, 8
    call send
    ld   ra, 0(sp)
    addi sp, sp, 16
    ret

# a0 = where the payload of the next frame to send goes.
tx_payload:
    li   a0, TX+8
    add  a0, a0, s0
    ret

# Sends a frame: a0 = type, a1 = id, a2 = length; its payload is in place.
send:
    li   t0, TX
    add  t0, t0, s0
    sb   a0, 0(t0)
    sb   zero, 1(t0)
    sh   a1, 2(t0)
    sw   a2, 4(t0)
    addi t1, a2, 8
    mv   a1, t0
1:  lw   a0, PORT(s0)
    mv   a2, t1
    li   a7, SYS_write
    ecall
    bgtz a0, 2f
    li   t2, -EINTR
    beq  a0, t2, 1b
    ret                         # the host is gone: nobody to tell
2:  add  a1, a1, a0
    sub  t1, t1, a0
    bgtz t1, 1b
    ret

# FAILED: a0 = errno, a1 = id.
send_failed:
    li   t0, TX+8
    add  t0, t0, s0
    sw   a0, 0(t0)
    li   a0, 'F'
    li   a2, 4
    j    send

# ---- running a command ---------------------------------------------------------------------------

# RUN: a0 = payload, a1 = id, a2 = length.
run:
    addi sp, sp, -16
    sd   ra, 0(sp)
    lw   t0, PID(s0)
    beqz t0, 1f
    li   a0, EBUSY
    call send_failed
    j    run_done
1:  sw   a1, ID(s0)
    li   t0, 9
    blt  a2, t0, malformed
    lwu  s1, 0(a0)              # argc
    lwu  s2, 4(a0)              # envc
    beqz s1, malformed
    add  t0, s1, s2
    li   t1, MAX_STRINGS
    bltu t1, t0, malformed
    add  s4, a0, a2             # the end
    lbu  t0, -1(s4)
    bnez t0, malformed
    addi s3, a0, 8              # the working directory
    mv   t0, s3
    call skip
    li   t1, ARGV
    add  t1, t1, s0
    mv   t2, s1
    call collect
    li   t1, ENVP
    add  t1, t1, s0
    mv   t2, s2
    call collect
    bne  t0, s4, malformed

    # Four pipes: input, output, error, and one that tells whether execve failed.
    addi s5, s0, PIPES
    addi s6, s0, PIPES+32
2:  mv   a0, s5
    li   a1, O_CLOEXEC
    li   a7, SYS_pipe2
    ecall
    bltz a0, no_pipe
    addi s5, s5, 8
    bne  s5, s6, 2b
    li   a0, SIGCHLD
    li   a1, 0
    li   a2, 0
    li   a3, 0
    li   a4, 0
    li   a7, SYS_clone
    ecall
    beqz a0, child
    mv   s7, a0
    lw   a0, PIPES(s0)
    call close
    lw   a0, PIPES+12(s0)
    call close
    lw   a0, PIPES+20(s0)
    call close
    lw   a0, PIPES+28(s0)
    call close
    sw   s7, SCRATCH+8(s0)
    bltz s7, 3f
    lw   a0, PIPES+24(s0)
    addi a1, s0, SCRATCH+8
    li   a2, 4
    li   a7, SYS_read
    ecall
    blez a0, started
    # The child could not execute the program and is ending.
    mv   a0, s7
    addi a1, s0, SCRATCH+16
    li   a2, 0
    li   a3, 0
    li   a7, SYS_wait4
    ecall
3:  lw   a0, PIPES+4(s0)
    call close
    lw   a0, PIPES+8(s0)
    call close
    lw   a0, PIPES+16(s0)
    call close
    lw   a0, PIPES+24(s0)
    call close
    lw   a0, SCRATCH+8(s0)
    neg  a0, a0
    lw   a1, ID(s0)
    call send_failed
    j    run_done

started:
    lw   a0, PIPES+24(s0)
    call close
    sw   s7, PID(s0)
    sw   zero, ENDED(s0)
    lw   a0, PIPES+4(s0)
    sw   a0, IN(s0)
    call set_nonblocking
    lw   a0, PIPES+8(s0)
    sw   a0, OUT(s0)
    call set_nonblocking
    lw   a0, PIPES+16(s0)
    sw   a0, ERR(s0)
    call set_nonblocking
    call tx_payload
    sw   s7, 0(a0)
    li   a0, 'S'
    lw   a1, ID(s0)
    li   a2, 4
    call send
run_done:
    ld   ra, 0(sp)
    addi sp, sp, 16
    ret

malformed:
    li   a0, EINVAL
    call send_failed
    j    run_done

# pipe2 failed with -a0 after those below s5 were made.
no_pipe:
    neg  s7, a0
    addi s6, s0, PIPES
1:  beq  s6, s5, 2f
    lw   a0, 0(s6)
    call close
    addi s6, s6, 4
    j    1b
2:  mv   a0, s7
    lw   a1, ID(s0)
    call send_failed
    j    run_done

# t0 = string before the end s4; returns in t0 the place after its NUL (s4 at most).
skip:
    bgeu t0, s4, 2f
1:  lbu  t3, 0(t0)
    addi t0, t0, 1
    bnez t3, 1b
2:  ret

# Puts t2 string pointers from t0 on into the table t1, and a null. A string missing leaves t0 past s4.
collect:
    mv   t4, ra
1:  beqz t2, 3f
    bltu t0, s4, 2f
    addi t0, s4, 1
    j    3f
2:  sd   t0, 0(t1)
    addi t1, t1, 8
    addi t2, t2, -1
    call skip
    j    1b
3:  sd   zero, 0(t1)
    mv   ra, t4
    ret

# In the child. s3 = working directory.
child:
    li   a7, SYS_setsid
    ecall
    lw   a0, PIPES(s0)
    li   a1, 0
    call dup
    lw   a0, PIPES+12(s0)
    li   a1, 1
    call dup
    lw   a0, PIPES+20(s0)
    li   a1, 2
    call dup
    li   s5, 1
1:  mv   a0, s5
    li   a1, 0
    call set_action
    addi s5, s5, 1
    li   t0, 32
    bne  s5, t0, 1b
    sd   zero, SCRATCH(s0)
    li   a0, 2                  # SIG_SETMASK
    addi a1, s0, SCRATCH
    li   a2, 0
    li   a3, 8
    li   a7, SYS_rt_sigprocmask
    ecall
    lbu  t0, 0(s3)
    bnez t0, 2f
    la   s3, slash
2:  mv   a0, s3
    li   a7, SYS_chdir
    ecall
    bltz a0, child_failed
    call search
child_failed:
    sw   a0, SCRATCH(s0)
    lw   a0, PIPES+28(s0)
    addi a1, s0, SCRATCH
    li   a2, 4
    li   a7, SYS_write
    ecall
    li   a0, 127
    j    exit

# Executes the program as execvp finds it. Returns only on failure: a0 = -errno.
search:
    addi sp, sp, -16
    sd   ra, 0(sp)
    li   t0, ARGV
    add  t0, t0, s0
    ld   s1, 0(t0)              # the name
    li   s6, -ENOENT            # what to say in the end
    lbu  t0, 0(s1)
    beqz t0, search_failed
    mv   t1, s1
    li   t2, '/'
1:  lbu  t0, 0(t1)
    addi t1, t1, 1
    beqz t0, 2f
    bne  t0, t2, 1b
    mv   a0, s1
    call execute
    mv   s6, a0
    j    search_failed

2:  call find_path
    mv   s2, a0                 # the rest of PATH
next_directory:
    li   s7, NAME
    add  s7, s7, s0
    li   s8, NAME+4096
    add  s8, s8, s0             # the end of the buffer
    mv   t3, s7
    li   t2, ':'
1:  lbu  t0, 0(s2)
    beqz t0, 2f
    beq  t0, t2, 2f
    addi s2, s2, 1
    bgeu t3, s8, 1b             # too long: cut here, refused below
    sb   t0, 0(t3)
    addi t3, t3, 1
    j    1b
2:  bne  t3, s7, 3f
    li   t0, '.'
    sb   t0, 0(t3)
    addi t3, t3, 1
3:  li   t0, '/'
    bgeu t3, s8, candidate_failed
    sb   t0, 0(t3)
    addi t3, t3, 1
    mv   t1, s1
4:  bgeu t3, s8, candidate_failed
    lbu  t0, 0(t1)
    sb   t0, 0(t3)
    addi t1, t1, 1
    addi t3, t3, 1
    bnez t0, 4b
    mv   a0, s7
    call execute
    li   t0, -ENOENT
    beq  a0, t0, candidate_failed
    li   t0, -ENOTDIR
    beq  a0, t0, candidate_failed
    mv   s6, a0
    li   t0, -EACCES
    bne  a0, t0, search_failed
candidate_failed:
    lbu  t0, 0(s2)
    beqz t0, search_failed
    addi s2, s2, 1
    j    next_directory
search_failed:
    mv   a0, s6
    ld   ra, 0(sp)
    addi sp, sp, 16
    ret

execute:
    li   a1, ARGV
    add  a1, a1, s0
    li   a2, ENVP
    add  a2, a2, s0
    li   a7, SYS_execve
    ecall
    ret

# a0 = the value of PATH in the command's environment, or the default.
find_path:
    li   t1, ENVP
    add  t1, t1, s0
1:  ld   a0, 0(t1)
    beqz a0, 3f
    addi t1, t1, 8
    la   t2, path_name
2:  lbu  t3, 0(t2)
    beqz t3, 4f
    lbu  t4, 0(a0)
    bne  t3, t4, 1b
    addi a0, a0, 1
    addi t2, t2, 1
    j    2b
3:  la   a0, default_path
4:  ret

# ---- signals -------------------------------------------------------------------------------------

# Reads one signal and acts on it.
take_signal:
    addi sp, sp, -16
    sd   ra, 0(sp)
    lw   a0, SIGNALS(s0)
    addi a1, s0, SCRATCH
    li   a2, 128                # struct signalfd_siginfo; its first word is the number
    li   a7, SYS_read
    ecall
    blez a0, 3f
    lw   t0, SCRATCH(s0)
    li   t1, SIGCHLD
    beq  t0, t1, 1f
    li   a0, 0
    li   t1, SIGUSR1
    beq  t0, t1, shut_down
    li   t1, SIGUSR2
    beq  t0, t1, shut_down
    li   a0, 1
    j    shut_down
1:  li   a0, -1
    addi a1, s0, SCRATCH
    li   a2, 1                  # WNOHANG
    li   a3, 0
    li   a7, SYS_wait4
    ecall
    blez a0, 3f
    lw   t0, PID(s0)
    bne  a0, t0, 1b
    lw   t0, SCRATCH(s0)
    sw   t0, STATUS(s0)
    li   t0, 1
    sw   t0, ENDED(s0)
    j    1b
3:  ld   ra, 0(sp)
    addi sp, sp, 16
    ret

# a0 = signal, a1 = handler (0 default, 1 ignore).
set_action:
    sd   a1, SCRATCH(s0)
    sd   zero, SCRATCH+8(s0)
    sd   zero, SCRATCH+16(s0)
    addi a1, s0, SCRATCH
    li   a2, 0
    li   a3, 8
    li   a7, SYS_rt_sigaction
    ecall
    ret

# ---- the end -------------------------------------------------------------------------------------

# a0 = 0 power off, 1 reboot. Does not return.
shut_down:
    mv   s1, a0
    li   s2, 15                 # SIGTERM, then SIGKILL
    call kill_all
    li   s2, 9
    call kill_all
    li   a7, SYS_sync
    ecall
    la   a0, none
    la   a1, slash
    la   a2, none
    li   a3, 0x21               # MS_REMOUNT | MS_RDONLY
    li   a4, 0
    li   a7, SYS_mount
    ecall
    call tx_payload
    sw   zero, 0(a0)
    li   a0, 'B'
    li   a1, 0
    li   a2, 4
    call send
    li   a2, 0x4321fedc         # LINUX_REBOOT_CMD_POWER_OFF
    beqz s1, 1f
    li   a2, 0x01234567         # LINUX_REBOOT_CMD_RESTART
1:  li   a0, 0xfee1dead
    li   a1, 672274793
    li   a3, 0
    li   a7, SYS_reboot
    ecall
    call pause
    j    1b

kill_all:
    addi sp, sp, -16
    sd   ra, 0(sp)
    li   a0, -1
    mv   a1, s2
    li   a7, SYS_kill
    ecall
    bltz a0, 1f                 # nobody is left
    call pause
1:  ld   ra, 0(sp)
    addi sp, sp, 16
    ret

# The channel is broken: BYE, and the end.
broken:
    call tx_payload
    li   t0, 1
    sw   t0, 0(a0)
    li   a0, 'B'
    li   a1, 0
    li   a2, 4
    call send
no_port:
    lw   t0, AS_INIT(s0)
    li   a0, 0
    bnez t0, shut_down
    li   a0, 1
    j    exit
usage:
    li   a0, 2
exit:
    li   a7, SYS_exit_group
    ecall

# ---- loading kernel modules: asyncvmm-agent + FILE... ---------------------------------------------

load_modules:
    addi s1, sp, 24
1:  ld   a1, 0(s1)
    addi s1, s1, 8
    li   a0, 0
    beqz a1, exit
    li   a2, O_CLOEXEC
    call open
    bltz a0, 1b
    mv   s2, a0
    la   a1, no_options
    li   a2, 0
    li   a7, SYS_finit_module
    ecall
    mv   a0, s2
    call close
    j    1b

# ---- small things --------------------------------------------------------------------------------

# Sleeps for 100 ms.
pause:
    sd   zero, SCRATCH(s0)
    li   t0, 100000000
    sd   t0, SCRATCH+8(s0)
    addi a0, s0, SCRATCH
    li   a1, 0
    li   a7, SYS_nanosleep
    ecall
    ret

# a1 = path, a2 = flags; a0 = descriptor or -errno.
open:
    li   a0, -100               # AT_FDCWD
    li   a3, 0
    li   a7, SYS_openat
    ecall
    ret

# a0 = descriptor.
close:
    li   a7, SYS_close
    ecall
    ret

# Closes the descriptor at address a0, if any, and marks it closed.
shut:
    mv   t0, a0
    lw   a0, 0(t0)
    li   t1, -1
    sw   t1, 0(t0)
    bgez a0, close
    ret

# a0 = descriptor, a1 = the number it gets.
dup:
    li   a2, 0
    li   a7, SYS_dup3
    ecall
    ret

set_nonblocking:
    li   a1, 4                  # F_SETFL
    li   a2, O_NONBLOCK
    li   a7, SYS_fcntl
    ecall
    ret

dev_null:
    .asciz "/dev/null"
slash:
    .asciz "/"
none:
    .asciz "none"
no_options:
    .asciz ""
path_name:
    .asciz "PATH="
default_path:
    .asciz "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
