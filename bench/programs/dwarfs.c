/* dwarfs.c: runs the programs that its arguments name and prints what came of each.
 *
 *     dwarfs PROGRAM:VARIANT:SIZE:REPETITIONS...
 *
 * A program is blas1, blas2 or blas3 (VARIANT f32 or f64), laplace (f64), pi (f64), nbody (2d or 3d), or collective (barrier, spread, reduce or
 * all; its size is the number of parties). Rank 0 prints a line for each:
 *
 *     JOB NANOSECONDS VALUE ERROR ALLOWED
 */
#include "dwarfs.h"
#include "crew.h"
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static struct answer once(const char *job, const char *program, const char *variant, size_t size, size_t repetitions)
{
    int single = strcmp(variant, "f32") == 0, two = strcmp(variant, "2d") == 0;
    if (strcmp(program, "blas1") == 0)
        return blas1(size, repetitions, single);
    if (strcmp(program, "blas2") == 0)
        return blas2(size, repetitions, single);
    if (strcmp(program, "blas3") == 0)
        return blas3(size, repetitions, single);
    if (strcmp(program, "laplace") == 0)
        return laplace(size, repetitions);
    if (strcmp(program, "pi") == 0)
        return pi(size, repetitions);
    if (strcmp(program, "nbody") == 0)
        return nbody(size, repetitions, two ? 2 : 3);
    if (strcmp(program, "collective") == 0)
        return collective(variant, size, repetitions);
    crew_fail("%s: there is no such program", job);
}

/* A few repetitions that are not measured come first, in every model: pages are touched, connections made, caches filled. Two, since programs
 * use pairs of arrays in turn. */
static struct answer run(const char *job)
{
    char program[16], variant[16], rest;
    size_t size, repetitions;
    if (sscanf(job, "%15[^:]:%15[^:]:%zu:%zu%c", program, variant, &size, &repetitions, &rest) != 4)
        crew_fail("%s: not PROGRAM:VARIANT:SIZE:REPETITIONS", job);
    if (size < 1 || size > 1 << 30 || repetitions < 1)
        crew_fail("%s: size and repetitions must be at least 1, and the size at most %d", job, 1 << 30);
    once(job, program, variant, size, repetitions < 10 ? 1 : 2);
    return once(job, program, variant, size, repetitions);
}

static int work(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct answer answer = run(argv[i]);
        if (crew_rank() == 0) {
            printf("%s %.0f %.17g %.3g %.3g\n", argv[i], answer.nanoseconds, answer.value, answer.error, answer.allowed);
            fflush(stdout);
        }
    }
    return 0;
}

double nanoseconds_a_tick = 1;

/* The clock, and the counter in the middle of reading it: the quickest of some readings, since one that is interrupted knows less. */
static double clock_and_counter(double *counter)
{
    double least = INFINITY, time = 0;
    for (int i = 0; i < 20; i++) {
        double before = now(), read = clock_now(), after = now();
        if (after - before < least) {
            least = after - before;
            *counter = before + least / 2;
            time = read;
        }
    }
    return time;
}

/* Compares the counter with the clock, long enough for the clock's own cost not to matter. */
static void learn_ticks(void)
{
    double first, last, began = clock_and_counter(&first);
    while (clock_now() < began + 20e6)
        ;
    double ended = clock_and_counter(&last);
    nanoseconds_a_tick = (ended - began) / (last - first);
}

int main(int argc, char **argv)
{
    learn_ticks();
    return crew_run(argc, argv, work);
}
