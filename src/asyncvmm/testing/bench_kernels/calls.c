/* Indirect jumps and calls: a small stack machine runs a program, whose leaves recurse. */
#include "bench.h"

const char kernel_name[] = "calls";

enum opcode { PUSH, ADD, MULTIPLY, SWAP, DUPLICATE, ROTATE, FIBONACCI, JUMP_IF, DECREMENT, HALT };

static const u8 program[] = {
    PUSH, 30, SWAP, DUPLICATE, MULTIPLY, PUSH, 7, ADD, PUSH, 9, FIBONACCI, ADD, ROTATE,
    SWAP, DECREMENT, DUPLICATE, JUMP_IF, 2, ADD, HALT,
};

struct machine {
    u64 stack[16];
    u32 depth, at;
};

typedef int (*operation)(struct machine *);

static u64 pop(struct machine *m)
{
    return m->stack[--m->depth & 15];
}

static int push(struct machine *m, u64 value)
{
    m->stack[m->depth++ & 15] = value;
    return 1;
}

__attribute__((noinline)) static u64 fibonacci(u64 n)
{
    if (n < 2)
        return n;
    u64 before = fibonacci(n - 2);
    __asm__ volatile("" : "+r"(before)); /* keeps the second call a call */
    return before + fibonacci(n - 1);
}

static int do_push(struct machine *m) { return push(m, program[m->at++]); }
static int do_add(struct machine *m) { u64 value = pop(m); return push(m, pop(m) + value); }
static int do_multiply(struct machine *m) { u64 value = pop(m); return push(m, pop(m) * value); }
static int do_rotate(struct machine *m) { u64 v = pop(m); return push(m, v << 13 | v >> 51); }
static int do_fibonacci(struct machine *m) { return push(m, fibonacci(pop(m))); }
static int do_decrement(struct machine *m) { return push(m, pop(m) - 1); }
static int do_halt(struct machine *m) { (void)m; return 0; }

static int do_duplicate(struct machine *m)
{
    u64 value = pop(m);
    push(m, value);
    return push(m, value);
}

static int do_swap(struct machine *m)
{
    u64 top = pop(m), below = pop(m);
    push(m, top);
    return push(m, below);
}

static int do_jump_if(struct machine *m)
{
    u32 target = program[m->at++];
    if (pop(m))
        m->at = target;
    return 1;
}

static const operation operations[] = {
    [PUSH] = do_push, [ADD] = do_add, [MULTIPLY] = do_multiply, [SWAP] = do_swap,
    [DUPLICATE] = do_duplicate, [ROTATE] = do_rotate, [FIBONACCI] = do_fibonacci,
    [JUMP_IF] = do_jump_if, [DECREMENT] = do_decrement, [HALT] = do_halt,
};

void kernel_prepare(void)
{
}

u64 kernel_run(u64 rounds)
{
    u64 sum = 1;
    for (u64 round = 0; round < rounds; round++) {
        struct machine machine = {{0}, 0, 0};
        push(&machine, sum);
        while (operations[program[machine.at++]](&machine))
            ;
        sum = fold(sum, pop(&machine)) | 1;
    }
    return sum;
}
