/* Memory stream: z = x + y, and x = z + y. */
#include "stream.h"

const char kernel_name[] = "add";

__attribute__((noinline)) static void add(u64 *to, const u64 *left, const u64 *right)
{
    for (u32 i = 0; i < WORDS; i++)
        to[i] = left[i] + right[i];
}

u64 kernel_run(u64 rounds)
{
    for (u64 round = 0; round < rounds; round++) {
        add(z, x, y);
        add(x, z, y);
    }
    return sum_of(x) ^ sum_of(z);
}
