/* dwarfs.h: the paper's scientific programs. Each is given a size and how often to repeat, and checks its own answer. */
#ifndef DWARFS_H
#define DWARFS_H

#include <stddef.h>
#include <time.h>

/* What a program found. */
struct answer {
    /* Nanoseconds of the part that counts. */
    double nanoseconds;
    /* A number that must be the same, but for rounding, in every model. */
    double value;
    /* How far the result is from the known answer, and how far it may be. */
    double error, allowed;
};

struct answer blas1(size_t n, size_t iterations, int single);
struct answer blas2(size_t n, size_t iterations, int single);
struct answer blas3(size_t n, size_t iterations, int single);
struct answer laplace(size_t n, size_t iterations);
struct answer pi(size_t intervals, size_t iterations);
/* which: barrier, spread, reduce, all. */
struct answer collective(const char *which, size_t parties, size_t iterations);
struct answer nbody(size_t particles, size_t steps, size_t dimensions);

static inline double clock_now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

/* Known once main has begun. */
extern double nanoseconds_a_tick;

/* Nanoseconds by a counter that costs no system call: in a guest the clock does, 10 µs, as long as the shortest programs take. */
static inline double now(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc() * nanoseconds_a_tick;
#else
    return clock_now();
#endif
}

#endif
