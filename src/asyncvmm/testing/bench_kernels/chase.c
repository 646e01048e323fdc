/* A random cycle through 4 MiB, one step per cache line: loads that miss every TLB but a large one. */
#include "bench.h"

const char kernel_name[] = "chase";

#define LINES 65536
#define STEPS 65536

struct line {
    struct line *next;
    u64 value;
    u64 filler[6];
};

static struct line lines[LINES];
static u32 order[LINES];
static struct line *here;

void kernel_prepare(void)
{
    u64 seed = 0x9999;
    for (u32 i = 0; i < LINES; i++)
        order[i] = i;
    for (u32 i = LINES - 1; i; i--) {
        u32 j = (u32)(next_random(&seed) >> 32) % (i + 1);
        u32 swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (u32 i = 0; i < LINES; i++) {
        lines[order[i]].next = &lines[order[(i + 1) % LINES]];
        lines[order[i]].value = next_random(&seed);
    }
    here = lines;
}

u64 kernel_run(u64 rounds)
{
    u64 sum = 0;
    struct line *line = here;
    for (u64 round = 0; round < rounds; round++)
        for (u32 i = 0; i < STEPS; i++) {
            sum += line->value;
            line = line->next;
            __asm__ volatile("" : "+r"(sum));
        }
    here = line;
    return sum;
}
