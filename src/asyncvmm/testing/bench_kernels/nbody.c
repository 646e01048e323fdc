/* Five bodies under gravity in double precision: multiply, add, square root, division. */
#include "bench.h"

const char kernel_name[] = "nbody";

#define BODIES 5
#define STEPS 1000
#define DT 0.01

struct vector {
    double x, y, z;
};

struct body {
    struct vector at, speed;
    double mass;
};

static struct body bodies[BODIES];

static double random_double(u64 *seed)
{
    return (double)(next_random(seed) >> 40) / 16777216.0;
}

void kernel_prepare(void)
{
    u64 seed = 0xB0D1E5;
    for (int i = 0; i < BODIES; i++) {
        struct body *body = &bodies[i];
        body->at.x = random_double(&seed) * 16 * (i + 1);
        body->at.y = random_double(&seed) * 16 * (i + 1);
        body->at.z = random_double(&seed) * 16 * (i + 1);
        body->speed.x = random_double(&seed) - 0.5;
        body->speed.y = random_double(&seed) - 0.5;
        body->speed.z = random_double(&seed) - 0.5;
        body->mass = i ? random_double(&seed) / 2 : 39.5;
    }
}

static double square_root(double value)
{
    double root;
    __asm__("fsqrt.d %0, %1" : "=f"(root) : "f"(value));
    return root;
}

static void accelerate(struct vector *speed, const struct vector *distance, double factor)
{
    speed->x += distance->x * factor;
    speed->y += distance->y * factor;
    speed->z += distance->z * factor;
}

__attribute__((noinline)) static void advance(void)
{
    for (int i = 0; i < BODIES; i++) {
        struct body *one = &bodies[i];
        for (int j = i + 1; j < BODIES; j++) {
            struct body *other = &bodies[j];
            struct vector d = {
                one->at.x - other->at.x, one->at.y - other->at.y, one->at.z - other->at.z};
            double square = d.x * d.x + d.y * d.y + d.z * d.z;
            double pull = DT / (square * square_root(square));
            accelerate(&one->speed, &d, -other->mass * pull);
            accelerate(&other->speed, &d, one->mass * pull);
        }
    }
    for (int i = 0; i < BODIES; i++)
        accelerate(&bodies[i].at, &bodies[i].speed, DT);
}

static u64 bits_of(double value)
{
    union {
        double number;
        u64 bits;
    } both = {value};
    return both.bits;
}

u64 kernel_run(u64 rounds)
{
    u64 sum = 0;
    for (u64 round = 0; round < rounds; round++) {
        for (int i = 0; i < STEPS; i++)
            advance();
        for (int i = 0; i < BODIES; i++)
            sum = fold(fold(fold(sum, bits_of(bodies[i].at.x)), bits_of(bodies[i].at.y)),
                       bits_of(bodies[i].at.z));
    }
    return sum;
}
