/* Memory stream: z = x, then back with a word changed. */
#include "stream.h"

const char kernel_name[] = "copy";

__attribute__((noinline)) static void copy(u64 *to, const u64 *from)
{
    for (u32 i = 0; i < WORDS; i++)
        to[i] = from[i];
}

u64 kernel_run(u64 rounds)
{
    for (u64 round = 0; round < rounds; round++) {
        copy(z, x);
        z[round % WORDS] += round;
        copy(x, z);
    }
    return sum_of(x) ^ y[0];
}
