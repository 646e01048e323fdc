# The command `block`: reads a sector from the first virtio disk (virtio 1.2, 3.1.1, 4.2 and 5.2).

.equ VIRTIO, 0x10001000
.equ VIRTIO_STRIDE, 0x1000
.equ VIRTIO_SLOTS, 8
.equ VIRTIO_MAGIC, 0x74726976
.equ BLOCK_DEVICE, 2

.equ DEVICE_ID, 0x008
.equ DRIVER_FEATURES, 0x020
.equ DRIVER_FEATURES_SEL, 0x024
.equ QUEUE_SEL, 0x030
.equ QUEUE_NUM, 0x038
.equ QUEUE_READY, 0x044
.equ QUEUE_NOTIFY, 0x050
.equ INTERRUPT_STATUS, 0x060
.equ INTERRUPT_ACK, 0x064
.equ STATUS, 0x070
.equ QUEUE_DESC, 0x080
.equ QUEUE_DRIVER, 0x090
.equ QUEUE_DEVICE, 0x0a0
.equ CAPACITY, 0x100

.equ ACKNOWLEDGE, 1
.equ DRIVER, 2
.equ DRIVER_OK, 4
.equ FEATURES_OK, 8

.equ QUEUE_SIZE, 4
.equ DESC_NEXT, 1
.equ DESC_WRITE, 2
.equ SECTOR_BYTES, 512

.text

# s1 the device's registers, s2 the sector, s3 the number of sectors.
cmd_block:
    addi sp, sp, -48
    sd   ra, 0(sp)
    sd   s1, 8(sp)
    sd   s2, 16(sp)
    sd   s3, 24(sp)
    sd   s4, 32(sp)
    li   a1, 0                  # sector 0 unless the line says otherwise
    call number_or
    bnez a1, bad_sector
    mv   s2, a0
    call find_disk
    mv   s1, a0
    la   a0, no_disk
    beqz s1, block_says
    lwu  s3, CAPACITY(s1)
    lwu  t0, CAPACITY+4(s1)
    slli t0, t0, 32
    or   s3, s3, t0
    bgeu s2, s3, beyond_disk

    call start_disk
    la   a0, disk_refuses
    beqz a1, block_says
    la   t0, request
    sw   zero, 0(t0)            # VIRTIO_BLK_T_IN
    sw   zero, 4(t0)
    sd   s2, 8(t0)
    la   t0, status
    li   t1, 0xff
    sb   t1, 0(t0)
    fence
    la   t0, available_ring
    li   t1, 1
    sh   t1, 2(t0)
    fence
    sw   zero, QUEUE_NOTIFY(s1)
1:  la   t0, used_ring
    lhu  t0, 2(t0)
    bnez t0, 2f
    li   a0, 0
    call sleep
    call hush_disk
    j    1b
2:  fence
    call hush_disk
    sw   zero, STATUS(s1)       # reset: the device is nobody's again
    la   t0, status
    lbu  s4, 0(t0)
    bnez s4, read_failed
    la   a0, sector_text
    call puts
    mv   a0, s2
    li   a1, 1
    call put_decimal
    la   a0, of_text
    call puts
    mv   a0, s3
    li   a1, 1
    call put_decimal
    la   a0, newline
    call puts
    la   a0, sector
    slli a1, s2, 9
    call dump
block_done:
    ld   ra, 0(sp)
    ld   s1, 8(sp)
    ld   s2, 16(sp)
    ld   s3, 24(sp)
    ld   s4, 32(sp)
    addi sp, sp, 48
    ret
block_says:
    call puts
    j    block_done
bad_sector:
    la   a0, bad_sector_text
    j    block_says
beyond_disk:
    la   a0, beyond_text
    call puts
    mv   a0, s3
    li   a1, 1
    call put_decimal
    la   a0, sectors_text
    j    block_says
read_failed:
    la   a0, failed_text
    call puts
    mv   a0, s4
    li   a1, 1
    call put_decimal
    la   a0, newline
    j    block_says

# Acknowledge the interrupts of the device at s1.
hush_disk:
    lw   t0, INTERRUPT_STATUS(s1)
    sw   t0, INTERRUPT_ACK(s1)
    ret

# The first slot with a disk: its registers in a0 (0 when there is none), its interrupt enabled.
find_disk:
    addi sp, sp, -32
    sd   ra, 0(sp)
    sd   s1, 8(sp)
    sd   s2, 16(sp)
    li   s1, VIRTIO
    li   s2, 1                  # the slots' PLIC sources are 1 to 8
1:  mv   a0, s1
    call peek                   # a slot may be empty: then nothing answers there
    beqz a1, 2f
    li   t0, VIRTIO_MAGIC
    bne  a0, t0, 2f
    lw   t0, DEVICE_ID(s1)
    li   t1, BLOCK_DEVICE
    beq  t0, t1, 3f
2:  li   t0, VIRTIO_STRIDE
    add  s1, s1, t0
    addi s2, s2, 1
    li   t0, VIRTIO_SLOTS
    ble  s2, t0, 1b
    li   s1, 0
    j    4f
3:  mv   a0, s2
    call enable_source
4:  mv   a0, s1
    ld   ra, 0(sp)
    ld   s1, 8(sp)
    ld   s2, 16(sp)
    addi sp, sp, 32
    ret

# Reset the device at s1 and make it live, ready for one request; a1 is 0 if it refuses.
start_disk:
    sw   zero, STATUS(s1)
    li   t0, ACKNOWLEDGE | DRIVER
    sw   t0, STATUS(s1)
    sw   zero, DRIVER_FEATURES_SEL(s1)
    sw   zero, DRIVER_FEATURES(s1)
    li   t0, 1
    sw   t0, DRIVER_FEATURES_SEL(s1)
    sw   t0, DRIVER_FEATURES(s1)    # VIRTIO_F_VERSION_1 and nothing else
    li   t0, ACKNOWLEDGE | DRIVER | FEATURES_OK
    sw   t0, STATUS(s1)
    lw   t1, STATUS(s1)
    andi a1, t1, FEATURES_OK
    beqz a1, 1f
    sw   zero, QUEUE_SEL(s1)
    li   t1, QUEUE_SIZE
    sw   t1, QUEUE_NUM(s1)
    la   t1, descriptors            # all of it is below 4 GiB
    sw   t1, QUEUE_DESC(s1)
    sw   zero, QUEUE_DESC+4(s1)
    la   t2, available_ring
    sw   t2, QUEUE_DRIVER(s1)
    sw   zero, QUEUE_DRIVER+4(s1)
    la   t3, used_ring
    sw   t3, QUEUE_DEVICE(s1)
    sw   zero, QUEUE_DEVICE+4(s1)
    sw   zero, 0(t3)
    sw   zero, 0(t2)                # flags 0, index 0; the ring's first entry is head 0
    sw   zero, 4(t2)
    la   t4, request
    sd   t4, 0(t1)
    li   t4, DESC_NEXT << 32 | 1 << 48 | 16
    sd   t4, 8(t1)
    la   t4, sector
    sd   t4, 16(t1)
    li   t4, (DESC_NEXT | DESC_WRITE) << 32 | 2 << 48 | SECTOR_BYTES
    sd   t4, 24(t1)
    la   t4, status
    sd   t4, 32(t1)
    li   t4, DESC_WRITE << 32 | 1
    sd   t4, 40(t1)
    li   t4, 1
    sw   t4, QUEUE_READY(s1)
    ori  t0, t0, DRIVER_OK
    sw   t0, STATUS(s1)
1:  ret

# Show the sector at a0; its offset on the disk is a1.
dump:
    addi sp, sp, -48
    sd   ra, 0(sp)
    sd   s1, 8(sp)
    sd   s2, 16(sp)
    sd   s3, 24(sp)
    sd   s4, 32(sp)
    mv   s1, a0
    mv   s2, a1
    addi s3, s1, SECTOR_BYTES
1:  mv   a0, s2
    li   a1, 10
    call put_hex
    li   s4, 0
2:  li   a0, ' '
    call putc
    add  t0, s1, s4
    lbu  a0, 0(t0)
    li   a1, 2
    call put_hex
    addi s4, s4, 1
    li   t0, 16
    blt  s4, t0, 2b
    la   a0, bar_text
    call puts
    li   s4, 0
3:  add  t0, s1, s4
    lbu  a0, 0(t0)
    addi t1, a0, -32
    li   t0, 95
    bltu t1, t0, 4f
    li   a0, '.'
4:  call putc
    addi s4, s4, 1
    li   t0, 16
    blt  s4, t0, 3b
    la   a0, bar_end_text
    call puts
    addi s1, s1, 16
    addi s2, s2, 16
    bltu s1, s3, 1b
    ld   ra, 0(sp)
    ld   s1, 8(sp)
    ld   s2, 16(sp)
    ld   s3, 24(sp)
    ld   s4, 32(sp)
    addi sp, sp, 48
    ret

.rodata
no_disk:         .asciz "block: there is no virtio disk\n"
disk_refuses:    .asciz "block: the disk refuses VIRTIO_F_VERSION_1\n"
bad_sector_text: .asciz "block takes the number of a sector\n"
beyond_text:     .asciz "block: the disk has "
sectors_text:    .asciz " sectors\n"
failed_text:     .asciz "block: reading failed with status "
sector_text:     .asciz "sector "
of_text:         .asciz " of "
bar_text:        .asciz "  |"
bar_end_text:    .asciz "|\n"

.bss
.balign 16
descriptors:     .zero 16 * QUEUE_SIZE
used_ring:       .zero 8 + 8 * QUEUE_SIZE
available_ring:  .zero 8 + 2 * QUEUE_SIZE
request:         .zero 16
sector:          .zero SECTOR_BYTES
status:          .zero 8
