/* crew.h: what the programs here need of a programming model. One source file for each model has it:
 *
 *     crew-serial.c   one process
 *     crew-sysv.c     processes that share a System V segment: one kernel's, or Vshmem's, in one domain or several; the program is the same
 *     crew-openmp.c   threads
 *     crew-mpi.c      processes that send messages
 *
 * Where memory is shared, what one party writes before an exchange the others see after it, and nothing is copied; with messages it is sent. */
#ifndef CREW_H
#define CREW_H

#include <stddef.h>

/* This party's number, and how many there are. */
int crew_rank(void);
int crew_parties(void);

/* Memory for arrays of which each party fills its part: the same for all where memory is shared. Valid until the next call. */
void *crew_memory(size_t bytes);

/* Waits until all have come here. */
void crew_barrier(void);
/* Gives everybody rank 0's number. */
double crew_spread(double number);
/* The sum of everybody's numbers, to rank 0; what the others get means nothing. */
double crew_reduce(double number);
/* The sum, and the largest, of everybody's numbers, to everybody. */
double crew_sum(double number);
double crew_max(double number);
/* Arrays one after another, each of count elements of width bytes and divided as by crew_part: everybody gets the others' parts. */
void crew_gather(void *first, size_t arrays, size_t count, size_t width);
/* A grid of rows, of which lo to hi - 1 are this party's: it gets its neighbours' rows lo - 1 and hi. Where memory is shared it gets them with the
 * next reduction. */
void crew_borders(void *grid, size_t row_bytes, size_t lo, size_t hi);

/* Runs work once in each party. */
int crew_run(int argc, char **argv, int (*work)(int argc, char **argv));

/* This party's share of count things: from *lo to *hi - 1. */
static inline void crew_part(size_t count, int rank, int parties, size_t *lo, size_t *hi)
{
    *lo = count * rank / parties;
    *hi = count * (rank + 1) / parties;
}

/* Ends the program, all of it, with a message. */
void crew_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
