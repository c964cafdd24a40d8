/* nbody.c: molecular dynamics by velocity Verlet in two and three dimensions (the paper's Figure 11): particles divided among the parties, positions
 * exchanged in every step. What is known is that energy is conserved. */
#include "crew.h"
#include "dwarfs.h"
#include "kernels.h"
#include <math.h>

#define STEP 5e-4

struct answer nbody(size_t n, size_t steps, size_t dimensions)
{
    size_t numbers = n * dimensions;
    /* Positions lie in two arrays used in turn: who writes one again knows that all have read it, since all have begun the step after it. */
    double *memory = crew_memory(4 * numbers * sizeof *memory);
    double *at = memory, *next = memory + numbers, *speed = memory + 2 * numbers, *force = memory + 3 * numbers;
    size_t lo, hi;
    crew_part(n, crew_rank(), crew_parties(), &lo, &hi);
    size_t side = ceil(pow(n, 1.0 / dimensions) - 1e-9);
    for (size_t i = lo; i < hi; i++)
        for (size_t d = 0, rest = i; d < dimensions; d++, rest /= side) {
            at[d * n + i] = 1.2 * (rest % side);
            speed[d * n + i] = 0.2 * sin(1.0 + 3 * i + 5 * d);
        }
    crew_gather(at, dimensions, n, sizeof *at);
    double potential = lennard_jones(n, dimensions, lo, hi, at, force), kinetic = 0;
    for (size_t d = 0; d < dimensions; d++)
        for (size_t i = lo; i < hi; i++)
            kinetic += 0.5 * speed[d * n + i] * speed[d * n + i];
    double before = crew_sum(potential + kinetic);

    double start = now();
    for (size_t step = 0; step < steps; step++) {
        for (size_t d = 0; d < dimensions; d++) {
            for (size_t i = d * n + lo; i < d * n + hi; i++) {
                speed[i] += 0.5 * STEP * force[i];
                next[i] = at[i] + STEP * speed[i];
            }
        }
        crew_gather(next, dimensions, n, sizeof *next);
        double *old = at;
        at = next;
        next = old;
        potential = lennard_jones(n, dimensions, lo, hi, at, force);
        for (size_t d = 0; d < dimensions; d++)
            for (size_t i = d * n + lo; i < d * n + hi; i++)
                speed[i] += 0.5 * STEP * force[i];
    }
    double took = now() - start;
    kinetic = 0;
    for (size_t d = 0; d < dimensions; d++)
        for (size_t i = lo; i < hi; i++)
            kinetic += 0.5 * speed[d * n + i] * speed[d * n + i];
    double after = crew_sum(potential + kinetic);
    return (struct answer){took, after, fabs(after - before), 1e-4 * (fabs(before) + 1)};
}
