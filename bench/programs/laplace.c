/* laplace.c: Laplace's equation on a square by Jacobi's method (the paper's Figure 9): rows divided among the parties, neighbours' rows exchanged
 * and the largest change reduced in every iteration.
 *
 * The border is that of x² - y², which satisfies the equation on the grid as in the plane: it is the known answer. */
#include "crew.h"
#include "dwarfs.h"
#include "kernels.h"
#include <math.h>

static double solution(size_t n, size_t i, size_t j)
{
    double x = (double)j / (n - 1), y = (double)i / (n - 1);
    return x * x - y * y;
}

static double farthest(size_t n, size_t lo, size_t hi, const double *grid)
{
    double most = 0;
    for (size_t i = lo; i < hi; i++)
        for (size_t j = 1; j < n - 1; j++)
            most = fmax(most, fabs(grid[i * n + j] - solution(n, i, j)));
    return crew_max(most);
}

struct answer laplace(size_t n, size_t iterations)
{
    if (n < (size_t)crew_parties() + 2)
        crew_fail("a grid of %zu rows cannot be divided among %d parties", n, crew_parties());
    double *from = crew_memory(2 * n * n * sizeof *from), *to = from + n * n;
    size_t lo, hi;
    crew_part(n - 2, crew_rank(), crew_parties(), &lo, &hi);
    lo++, hi++;
    /* The border is fixed; each party fills its own rows', and the outermost ones theirs. */
    for (size_t i = lo - 1; i <= hi; i++)
        for (size_t j = 0; j < n; j++)
            if (i == 0 || i == n - 1 || ((j == 0 || j == n - 1) && i >= lo && i < hi))
                from[i * n + j] = to[i * n + j] = solution(n, i, j);
    crew_borders(from, n * sizeof *from, lo, hi);
    double before = farthest(n, lo, hi, from), change = 0;
    double start = now();
    for (size_t i = 0; i < iterations; i++) {
        double mine = jacobi(n, lo, hi, from, to);
        crew_borders(to, n * sizeof *to, lo, hi);
        change = crew_max(mine);
        double *old = from;
        from = to;
        to = old;
    }
    double took = now() - start, after = farthest(n, lo, hi, from);
    /* Jacobi's error falls by cos(π / (n - 1)) an iteration, once the fast parts are gone; it never grows. */
    double rate = cos(3.14159265358979 / (n - 1));
    double allowed = before * fmin(1, 2 * pow(rate, iterations)) + 1e-12;
    return (struct answer){took, change, after, allowed};
}
