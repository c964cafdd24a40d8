/* pi.c: π by integrating 4 / (1 + x²) (the paper's Figure 10, its MapReduce): rank 0 says how finely, everybody sums its share, the shares are
 * reduced. */
#include "crew.h"
#include "dwarfs.h"
#include "kernels.h"
#include <math.h>

struct answer pi(size_t intervals, size_t iterations)
{
    double found = 0;
    crew_barrier();
    double start = now();
    for (size_t i = 0; i < iterations; i++) {
        size_t n = crew_spread(intervals);
        found = crew_sum(quarter_circle(n, crew_rank(), crew_parties()));
    }
    double took = now() - start;
    /* The midpoint rule errs by less than 1 / (12 n²) · max f'' / 2. */
    double allowed = 1.0 / (3.0 * intervals * intervals) + 1e-11;
    return (struct answer){took, found, fabs(found - 3.14159265358979323846), allowed};
}
