/* crew-openmp.c: threads, with gcc's OpenMP. CREW_PARTIES in the environment. */
#include "crew.h"
#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 64

static struct {
    _Alignas(64) double number[2];
} place[MOST];
static int parties;
static void *memory;
static __thread unsigned long reductions;

int crew_rank(void) { return omp_get_thread_num(); }
int crew_parties(void) { return parties; }

void crew_barrier(void)
{
#pragma omp barrier
}

void *crew_memory(size_t bytes)
{
#pragma omp barrier
#pragma omp single
    {
        free(memory);
        memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
        if (memory == NULL)
            crew_fail("no memory for %zu bytes", bytes);
        memset(memory, 0, bytes);
    }
    return memory;
}

static int show(double number)
{
    int turn = ++reductions % 2;
    place[crew_rank()].number[turn] = number;
#pragma omp barrier
    return turn;
}

double crew_spread(double number) { return place[0].number[show(number)]; }

double crew_reduce(double number)
{
    int turn = show(number);
    double sum = 0;
    for (int other = 0; crew_rank() == 0 && other < parties; other++)
        sum += place[other].number[turn];
    return sum;
}

double crew_sum(double number)
{
    int turn = show(number);
    double sum = 0;
    for (int other = 0; other < parties; other++)
        sum += place[other].number[turn];
    return sum;
}

double crew_max(double number)
{
    int turn = show(number);
    double most = place[0].number[turn];
    for (int other = 1; other < parties; other++)
        if (place[other].number[turn] > most)
            most = place[other].number[turn];
    return most;
}

void crew_gather(void *first, size_t arrays, size_t count, size_t width)
{
    (void)first, (void)arrays, (void)count, (void)width;
#pragma omp barrier
}

void crew_borders(void *grid, size_t row_bytes, size_t lo, size_t hi)
{
    (void)grid, (void)row_bytes, (void)lo, (void)hi;
}

int crew_run(int argc, char **argv, int (*work)(int, char **))
{
    const char *text = getenv("CREW_PARTIES");
    parties = text == NULL ? 0 : atoi(text);
    if (parties < 1 || parties > MOST)
        crew_fail("CREW_PARTIES: there may be 1 to %d", MOST);
    int results = 0, threads = 0;
#pragma omp parallel num_threads(parties) reduction(| : results) reduction(+ : threads)
    {
        threads = 1;
        if (omp_get_num_threads() != parties)
            crew_fail("OpenMP gave %d threads, not %d", omp_get_num_threads(), parties);
        results = work(argc, argv);
    }
    return threads == parties ? results : 1;
}

void crew_fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    exit(1);
}
