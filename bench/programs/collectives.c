/* collectives.c: what parties that meet again and again pay for it: barrier, broadcast, reduction to one, reduction to all, of a number each. */
#include "crew.h"
#include "dwarfs.h"
#include <math.h>
#include <string.h>

struct answer collective(const char *which, size_t parties, size_t iterations)
{
    if (parties != (size_t)crew_parties())
        crew_fail("%zu parties were to meet, here are %d", parties, crew_parties());
    double rank = crew_rank(), wrong = 0, all = parties * (parties - 1) / 2.0, start;
    crew_barrier();
    start = now();
    /* A branch for each, so that nothing but the collective is in the loop. */
    if (strcmp(which, "barrier") == 0)
        for (size_t i = 0; i < iterations; i++)
            crew_barrier();
    else if (strcmp(which, "spread") == 0)
        for (size_t i = 0; i < iterations; i++)
            wrong += fabs(crew_spread(rank + i) - i);
    else if (strcmp(which, "reduce") == 0)
        for (size_t i = 0; i < iterations; i++) {
            double sum = crew_reduce(rank + i);
            wrong += rank == 0 ? fabs(sum - (all + parties * i)) : 0;
        }
    else if (strcmp(which, "all") == 0)
        for (size_t i = 0; i < iterations; i++)
            wrong += fabs(crew_sum(rank + i) - (all + parties * i));
    else
        crew_fail("%s: there is no such collective", which);
    double took = now() - start;
    return (struct answer){took, all, wrong, 0};
}
