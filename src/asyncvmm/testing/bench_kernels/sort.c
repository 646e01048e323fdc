/* Quicksort (recursive) with insertion sort at the leaves, over 16,384 words; then 4,096 searches. */
#include "bench.h"

const char kernel_name[] = "sort";

#define COUNT 16384
#define SHORT 12

static i64 values[COUNT];

void kernel_prepare(void)
{
}

static void insertion(i64 *low, i64 *high)
{
    for (i64 *at = low + 1; at <= high; at++) {
        i64 value = *at;
        i64 *hole = at;
        for (; hole > low && hole[-1] > value; hole--)
            *hole = hole[-1];
        *hole = value;
    }
}

__attribute__((noinline)) static void quicksort(i64 *low, i64 *high)
{
    while (high - low > SHORT) {
        i64 first = *low, middle = low[(high - low) / 2], last = *high;
        i64 pivot = first < middle ? (middle < last ? middle : first < last ? last : first)
                                   : (first < last ? first : middle < last ? last : middle);
        i64 *left = low, *right = high;
        while (left <= right) {
            while (*left < pivot)
                left++;
            while (*right > pivot)
                right--;
            if (left <= right) {
                i64 swap = *left;
                *left++ = *right;
                *right-- = swap;
            }
        }
        quicksort(low, right);
        low = left;
    }
    insertion(low, high);
}

static u32 search(i64 key)
{
    u32 low = 0, high = COUNT;
    while (low < high) {
        u32 middle = (low + high) / 2;
        if (values[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

u64 kernel_run(u64 rounds)
{
    u64 sum = 0;
    for (u64 round = 0; round < rounds; round++) {
        u64 seed = round * 2 + 1;
        for (u32 i = 0; i < COUNT; i++)
            values[i] = (i64)next_random(&seed);
        quicksort(values, values + COUNT - 1);
        for (u32 i = 0; i < COUNT / 4; i++)
            sum = fold(sum, search((i64)next_random(&seed)));
        for (u32 i = 1; i < COUNT; i++)
            sum += values[i - 1] > values[i];
    }
    return sum;
}
