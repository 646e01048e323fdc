/* Three arrays of 1 MiB, walked word by word; each stream kernel is one loop over them. */
#ifndef STREAM_H
#define STREAM_H
#include "bench.h"

#define WORDS 131072

static u64 x[WORDS], y[WORDS], z[WORDS];

void kernel_prepare(void)
{
    u64 seed = 0x5EED;
    for (u32 i = 0; i < WORDS; i++) {
        x[i] = next_random(&seed);
        y[i] = next_random(&seed);
    }
}

static u64 sum_of(const u64 *words)
{
    u64 sum = 0;
    for (u32 i = 0; i < WORDS; i += 61)
        sum = fold(sum, words[i]);
    return sum;
}

#endif
