/* Memory stream: y = 3 x + 1, and back. */
#include "stream.h"

const char kernel_name[] = "multiply";

__attribute__((noinline)) static void scale(u64 *to, const u64 *from, u64 factor)
{
    for (u32 i = 0; i < WORDS; i++)
        to[i] = from[i] * factor + 1;
}

u64 kernel_run(u64 rounds)
{
    for (u64 round = 0; round < rounds; round++) {
        scale(y, x, 3);
        scale(x, y, 5 + 2 * (round & 7));
    }
    return sum_of(x) ^ z[0];
}
