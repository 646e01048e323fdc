/* The harness round a kernel: page tables, timing by instret, the report, the end.
 *
 * The end is told twice: to `tohost` (asyncvmm, Spike) and to the test finisher at 0x100000
 * (QEMU's virt board), so that one ELF runs on all of them. */
#include "bench.h"

#ifndef BENCH_ROUNDS
#define BENCH_ROUNDS 1
#endif
#ifndef BENCH_PAGING
#define BENCH_PAGING 0
#endif

enum { BARE = 0, SV39 = 1 };

#define RAM_BASE 0x80000000UL
#define RAM_PAGES (32UL << 20 >> 12)
#define UART ((volatile u8 *)0x10000000UL)
#define UART_LSR 5
#define UART_LSR_THRE 0x20
#define FINISHER ((volatile u32 *)0x100000UL)
#define PTE_LEAF_RWX 0xCFUL /* D A X W R V */
#define PTE_LEAF_RW 0xC7UL
#define PTE_TABLE 0x01UL
#define SATP_SV39 (8UL << 60)

/* May be changed in the ELF instead of built anew. */
volatile u64 bench_iterations = BENCH_ROUNDS;
volatile u64 bench_paging = BENCH_PAGING;

volatile u32 bench_exiting;
volatile u64 tohost __attribute__((section(".tohost"), aligned(64)));
volatile u64 fromhost __attribute__((section(".tohost"), aligned(64)));

static u64 root_table[512] __attribute__((aligned(4096)));
static u64 ram_table[512] __attribute__((aligned(4096)));
static u64 leaf_tables[RAM_PAGES] __attribute__((aligned(4096)));

void enter_supervisor(u64 satp);

/* Compilers call these two whatever they are told. */
void *memcpy(void *to, const void *from, u64 size)
{
    u8 *out = to;
    const u8 *in = from;
    while (size--)
        *out++ = *in++;
    return to;
}

void *memset(void *to, int value, u64 size)
{
    u8 *out = to;
    while (size--)
        *out++ = (u8)value;
    return to;
}

static void print(const char *text)
{
    for (; *text; text++) {
        while (!(UART[UART_LSR] & UART_LSR_THRE))
            ;
        UART[0] = (u8)*text;
    }
}

static void print_hex(u64 value)
{
    char text[17];
    for (int i = 15; i >= 0; i--, value >>= 4)
        text[i] = "0123456789abcdef"[value & 15];
    text[16] = 0;
    print(text);
}

static void print_decimal(u64 value)
{
    char text[21];
    char *at = text + 20;
    *at = 0;
    do
        *--at = (char)('0' + value % 10);
    while (value /= 10);
    print(at);
}

__attribute__((noreturn)) static void finish(u32 code)
{
    bench_exiting = 1;
    __asm__ volatile("fence" ::: "memory");
    tohost = (u64)code << 1 | 1;
    *FINISHER = code ? code << 16 | 0x3333 : 0x5555;
    for (;;)
        ;
}

/* RAM in 4 KiB pages, the first gigabyte (devices) as one leaf; all virtual = physical. */
static u64 build_tables(void)
{
    for (u64 page = 0; page < RAM_PAGES; page++)
        leaf_tables[page] = ((RAM_BASE >> 12) + page) << 10 | PTE_LEAF_RWX;
    for (u64 i = 0; i < RAM_PAGES / 512; i++)
        ram_table[i] = (u64)&leaf_tables[i * 512] >> 12 << 10 | PTE_TABLE;
    root_table[RAM_BASE >> 30] = (u64)ram_table >> 12 << 10 | PTE_TABLE;
    root_table[0] = PTE_LEAF_RW;
    return SATP_SV39 | (u64)root_table >> 12;
}

static inline u64 instructions_retired(void)
{
    u64 value;
    __asm__ volatile("csrr %0, instret" : "=r"(value)::"memory");
    return value;
}

void bench_trapped(u64 cause, u64 pc, u64 value)
{
    static int before;
    if (before++)
        finish(4); /* there is no UART to say it on */
    print("bench trap cause=");
    print_hex(cause);
    print(" pc=");
    print_hex(pc);
    print(" tval=");
    print_hex(value);
    print("\n");
    finish(3);
}

void bench_main(void)
{
    u64 entry = instructions_retired(); /* QEMU may have let time pass before the first one */
    if (bench_paging == SV39)
        enter_supervisor(build_tables());
    kernel_prepare();
    u64 before = instructions_retired();
    u64 checksum = kernel_run(bench_iterations);
    u64 spent = instructions_retired() - before;
    print("bench ");
    print(kernel_name);
    print(" checksum=");
    print_hex(checksum);
    print(" kernel=");
    print_decimal(spent);
    print(" total=");
    print_decimal(instructions_retired() - entry);
    print("\n");
    finish(0);
}
