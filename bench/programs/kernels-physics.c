/* kernels-physics.c: the other dwarfs' arithmetic, in double precision. */
#include "kernels.h"
#include <math.h>

double jacobi(size_t n, size_t lo, size_t hi, const double *restrict from, double *restrict to)
{
    double most = 0;
    for (size_t i = lo; i < hi; i++) {
        const double *row = from + i * n;
#pragma omp simd reduction(max : most)
        for (size_t j = 1; j < n - 1; j++) {
            double new = 0.25 * (row[j - n] + row[j + n] + row[j - 1] + row[j + 1]);
            double change = fabs(new - row[j]);
            to[i * n + j] = new;
            most = change > most ? change : most;
        }
    }
    return most;
}

double quarter_circle(size_t n, size_t first, size_t parties)
{
    double width = 1.0 / n, sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = first; i < n; i += parties) {
        double x = (i + 0.5) * width;
        sum += 4.0 / (1.0 + x * x);
    }
    return sum * width;
}

double lennard_jones(size_t n, size_t dimensions, size_t lo, size_t hi, const double *restrict at, double *restrict force)
{
    const double *x = at, *y = at + n, *z = dimensions == 3 ? at + 2 * n : at;
    double depth = dimensions == 3, potential = 0;
    for (size_t i = lo; i < hi; i++) {
        double fx = 0, fy = 0, fz = 0, energy = 0;
#pragma omp simd reduction(+ : fx, fy, fz, energy)
        for (size_t j = 0; j < n; j++) {
            double dx = x[i] - x[j], dy = y[i] - y[j], dz = depth * (z[i] - z[j]);
            double square = dx * dx + dy * dy + dz * dz;
            /* A particle is at no distance from itself: a large one in its place gives nothing. */
            square = square == 0 ? 1e12 : square;
            double inverse = 1 / square, six = inverse * inverse * inverse;
            double strength = 24 * inverse * six * (2 * six - 1);
            fx += strength * dx;
            fy += strength * dy;
            fz += strength * dz;
            energy += 4 * six * (six - 1);
        }
        force[i] = fx;
        force[n + i] = fy;
        if (dimensions == 3)
            force[2 * n + i] = fz;
        potential += 0.5 * energy;
    }
    return potential;
}
