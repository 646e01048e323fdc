/* What a kernel gives to the harness (main.c) and may use from it. */
#ifndef BENCH_H
#define BENCH_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef int i32;
typedef long i64;

/* The kernel's name as it stands in the table of bench.py. */
extern const char kernel_name[];

/* Fills the working set; not part of the measured region. */
void kernel_prepare(void);

/* The measured region: this many rounds; the checksum depends on every result. */
u64 kernel_run(u64 rounds);

/* xorshift64*: the same stream in every kernel and on every machine. */
static inline u64 next_random(u64 *state)
{
    u64 x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545F4914F6CDD1DUL;
}

static inline u64 fold(u64 sum, u64 value)
{
    return (sum << 7 | sum >> 57) ^ (value * 0x9E3779B97F4A7C15UL);
}

#endif
