/* crew-mpi.c: processes that send each other messages, with any MPI. */
#include "crew.h"
#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 64

static int rank, parties;
static void *memory;

int crew_rank(void) { return rank; }
int crew_parties(void) { return parties; }

void *crew_memory(size_t bytes)
{
    free(memory);
    memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (memory == NULL)
        crew_fail("no memory for %zu bytes", bytes);
    return memset(memory, 0, bytes);
}

void crew_barrier(void) { MPI_Barrier(MPI_COMM_WORLD); }

double crew_spread(double number)
{
    MPI_Bcast(&number, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    return number;
}

double crew_reduce(double number)
{
    double sum = 0;
    MPI_Reduce(&number, &sum, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    return sum;
}

double crew_sum(double number)
{
    double sum;
    MPI_Allreduce(&number, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    return sum;
}

double crew_max(double number)
{
    double most;
    MPI_Allreduce(&number, &most, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return most;
}

void crew_gather(void *first, size_t arrays, size_t count, size_t width)
{
    int counts[MOST], places[MOST];
    for (int other = 0; other < parties; other++) {
        size_t lo, hi;
        crew_part(count, other, parties, &lo, &hi);
        counts[other] = (hi - lo) * width;
        places[other] = lo * width;
    }
    for (size_t i = 0; i < arrays; i++)
        MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, (char *)first + i * count * width, counts, places, MPI_BYTE, MPI_COMM_WORLD);
}

void crew_borders(void *grid, size_t row_bytes, size_t lo, size_t hi)
{
    char *row = grid;
    int above = rank > 0 ? rank - 1 : MPI_PROC_NULL, below = rank + 1 < parties ? rank + 1 : MPI_PROC_NULL;
    MPI_Sendrecv(row + lo * row_bytes, row_bytes, MPI_BYTE, above, 0, row + hi * row_bytes, row_bytes, MPI_BYTE, below, 0,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Sendrecv(row + (hi - 1) * row_bytes, row_bytes, MPI_BYTE, below, 1, row + (lo - 1) * row_bytes, row_bytes, MPI_BYTE, above, 1,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

int crew_run(int argc, char **argv, int (*work)(int, char **))
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &parties);
    const char *wanted = getenv("CREW_PARTIES");
    if (parties > MOST || (wanted != NULL && atoi(wanted) != parties))
        crew_fail("MPI gave %d processes, not %s", parties, wanted);
    int result = work(argc, argv);
    MPI_Finalize();
    return result;
}

void crew_fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    MPI_Abort(MPI_COMM_WORLD, 1);
    abort();
}
