/* Integer work as programs do it: a state machine over text, lists, a small matrix, a checksum. */
#include "bench.h"

const char kernel_name[] = "mix";

#define NODES 128
#define SIDE 8

struct node {
    struct node *next;
    i32 key;
    i32 value;
};

enum state { BLANK, SIGN, WHOLE, FRACTION, EXPONENT, WORD, STATES };

static const char text[] =
    "12 -7.25 apple 3e10 +44 x9 0.5e-3 -  -128 pear,17 1.2.3 5e 99999 fig 0x1f +3.14159e2 end ";

static struct node nodes[NODES];
static struct node *head;
static i32 a[SIDE][SIDE], b[SIDE][SIDE], c[SIDE][SIDE];
static u32 crc_table[256];

void kernel_prepare(void)
{
    u64 seed = 0x1234567;
    for (u32 i = 0; i < 256; i++) {
        u32 value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? value >> 1 ^ 0xEDB88320u : value >> 1;
        crc_table[i] = value;
    }
    for (u32 i = 0; i < NODES; i++) {
        struct node *node = &nodes[i * 37 % NODES];
        node->key = (i32)(next_random(&seed) >> 50);
        node->value = (i32)i;
        node->next = head;
        head = node;
    }
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            a[i][j] = (i32)(next_random(&seed) >> 52);
            b[i][j] = (i32)(next_random(&seed) >> 52);
        }
}

static enum state step(enum state state, char character)
{
    int digit = character >= '0' && character <= '9';
    switch (state) {
    case BLANK:
        if (digit)
            return WHOLE;
        if (character == '+' || character == '-')
            return SIGN;
        return character == ' ' || character == ',' ? BLANK : WORD;
    case SIGN:
        return digit ? WHOLE : character == ' ' ? BLANK : WORD;
    case WHOLE:
        if (digit)
            return WHOLE;
        if (character == '.')
            return FRACTION;
        break;
    case FRACTION:
        if (digit)
            return FRACTION;
        break;
    case EXPONENT:
        if (digit || character == '-')
            return EXPONENT;
        break;
    default:
        return character == ' ' || character == ',' ? BLANK : WORD;
    }
    if (character == 'e')
        return EXPONENT;
    return character == ' ' || character == ',' ? BLANK : WORD;
}

__attribute__((noinline)) static u32 scan(u32 turn)
{
    u32 counts[STATES] = {0};
    enum state state = BLANK;
    for (u32 i = 0; i < sizeof text - 1; i++) {
        char character = text[i];
        if (character == 'e' && turn & 1)
            character = '.';
        state = step(state, character);
        counts[state]++;
    }
    u32 sum = 0;
    for (int i = 0; i < STATES; i++)
        sum = sum * 31 + counts[i];
    return sum;
}

__attribute__((noinline)) static u32 crc(u32 sum, const u8 *bytes, u32 size)
{
    while (size--)
        sum = sum >> 8 ^ crc_table[(sum ^ *bytes++) & 255];
    return sum;
}

__attribute__((noinline)) static struct node *reverse(struct node *list)
{
    struct node *done = 0;
    while (list) {
        struct node *next = list->next;
        list->next = done;
        done = list;
        list = next;
    }
    return done;
}

__attribute__((noinline)) static i32 search(struct node *list, i32 key)
{
    i32 best = 0x7fffffff;
    for (; list; list = list->next) {
        i32 distance = list->key > key ? list->key - key : key - list->key;
        if (distance < best)
            best = distance;
        else if (list->value & 1)
            list->value += 2;
    }
    return best;
}

__attribute__((noinline)) static i32 dot(const i32 *row, const i32 *column, u32 size)
{
    i32 sum = 0;
    for (u32 i = 0; i < size; i++)
        sum += row[i] * column[i * SIDE];
    return sum;
}

__attribute__((noinline)) static u32 multiply(i32 factor)
{
    u32 sum = 0;
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            i32 cell = dot(a[i], &b[0][j], SIDE);
            c[i][j] = cell;
            sum += (u32)(cell / factor) + (u32)(cell % 7);
        }
    a[factor % SIDE][sum % SIDE] += (i32)(sum & 15) - 7;
    return sum;
}

u64 kernel_run(u64 rounds)
{
    u64 sum = 0;
    for (u64 round = 0; round < rounds; round++) {
        u32 turn = (u32)round;
        sum = fold(sum, scan(turn));
        head = reverse(head);
        sum = fold(sum, (u64)search(head, (i32)(turn * 2654435761u >> 18)));
        sum = fold(sum, multiply((i32)(turn % 97 + 3)));
        sum = fold(sum, crc((u32)sum, (const u8 *)c, sizeof c / 2));
    }
    return sum;
}
