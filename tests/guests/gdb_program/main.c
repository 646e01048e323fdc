// A bare-metal program to be debugged: what it computes is asserted by test_gdb.py.
typedef unsigned long u64;
volatile u64 tohost __attribute__((section(".tohost"), aligned(64)));
volatile u64 fromhost __attribute__((section(".tohost")));
volatile int counter;
volatile u64 table[2];
volatile double ratio = 1.5;

__attribute__((noinline)) int triangle(int n) {
    int sum = 0;
    for (int i = 1; i <= n; i++) {
        sum += i;
        counter = i;
    }
    return sum;
}

__attribute__((noinline)) void work(int hart) {
    for (int round = 1; round <= 3; round++)
        table[hart] += triangle(4 + round);
}

__attribute__((noinline)) void other(int hart) {
    for (;;)
        table[hart]++;
}

__attribute__((noinline)) void done(void) {
    tohost = 1;
    for (;;)
        ;
}

void start_c(int hart) {
    if (hart)
        other(hart);
    work(hart);
    ratio = ratio * 2;
    for (int i = 0; i < 1000000; i++)
        __asm__ volatile("");
    done();
}
