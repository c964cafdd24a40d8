/* kernels.h: the arithmetic, by one party on its rows. Compiled once for each precision, and linked into every model alike. */
#ifndef KERNELS_H
#define KERNELS_H

#include <stddef.h>

#define KERNELS(real, name)                                                                                              \
    /* y += a x */                                                                                                       \
    void name##axpy(size_t n, real a, const real *x, real *y);                                                           \
    /* x · y */                                                                                                          \
    double name##dot(size_t n, const real *x, const real *y);                                                            \
    /* y = A x, of some rows of n */                                                                                     \
    void name##gemv(size_t rows, size_t n, const real *a, const real *x, real *y);                                       \
    /* C = A B, of some rows of n */                                                                                     \
    void name##gemm(size_t rows, size_t n, const real *a, const real *b, real *c);

KERNELS(float, s)
KERNELS(double, d)

/* One Jacobi sweep over the inner cells of rows lo to hi - 1 of a grid of n columns; the largest change. */
double jacobi(size_t n, size_t lo, size_t hi, const double *from, double *to);
/* The integral of 4 / (1 + x²) from 0 to 1: every parties'th of n intervals, from the first'th. */
double quarter_circle(size_t n, size_t first, size_t parties);
/* Lennard-Jones forces of all n particles on those from lo to hi - 1, coordinate d of particle i at [d * n + i]; half of their potential energy. */
double lennard_jones(size_t n, size_t dimensions, size_t lo, size_t hi, const double *at, double *force);

#endif
