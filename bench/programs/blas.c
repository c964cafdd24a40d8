/* blas.c: dense linear algebra of levels 1, 2 and 3 (the paper's Figure 8), the rows divided among the parties. */
#include "crew.h"
#include "dwarfs.h"
#include "kernels.h"
#include <math.h>

/* Written once for both precisions. */
#define LEVELS(real, name)                                                                                               \
    /* y += a x, and x · y of all, again and again. y is 1 + iterations / 1024 everywhere. */                            \
    static struct answer name##level1(size_t n, size_t iterations)                                                       \
    {                                                                                                                    \
        real *x = crew_memory(2 * n * sizeof *x), *y = x + n;                                                            \
        size_t lo, hi;                                                                                                   \
        crew_part(n, crew_rank(), crew_parties(), &lo, &hi);                                                             \
        for (size_t i = lo; i < hi; i++)                                                                                 \
            x[i] = y[i] = 1;                                                                                             \
        double product = 0;                                                                                              \
        crew_barrier();                                                                                                  \
        double start = now();                                                                                            \
        for (size_t i = 0; i < iterations; i++) {                                                                        \
            name##axpy(hi - lo, (real)1 / 1024, x + lo, y + lo);                                                         \
            product = crew_sum(name##dot(hi - lo, x + lo, y + lo));                                                      \
        }                                                                                                                \
        double took = now() - start, known = n * (1 + iterations / 1024.0);                                              \
        return (struct answer){took, product, fabs(product / known - 1), sizeof(real) == 4 ? 4e-3 : 1e-12};              \
    }                                                                                                                    \
    /* y = A x, and y becomes the next x. Each row of A averages two elements, so that x = (1, 2, 1, 2, …) becomes 1.5 and stays. */ \
    static struct answer name##level2(size_t n, size_t iterations)                                                       \
    {                                                                                                                    \
        if (n % 2 != 0)                                                                                                  \
            crew_fail("a matrix of %zu rows: the number must be even here", n);                                          \
        real *a = crew_memory((n * n + 2 * n) * sizeof *a), *x = a + n * n, *y = x + n;                                  \
        size_t lo, hi;                                                                                                   \
        crew_part(n, crew_rank(), crew_parties(), &lo, &hi);                                                             \
        for (size_t i = lo; i < hi; i++) {                                                                               \
            a[i * n + i] += 0.5;                                                                                         \
            a[i * n + (i ^ 1)] += 0.5;                                                                                   \
            x[i] = 1 + i % 2;                                                                                            \
        }                                                                                                                \
        crew_gather(x, 1, n, sizeof *x);                                                                                    \
        double start = now();                                                                                            \
        for (size_t i = 0; i < iterations; i++) {                                                                        \
            name##gemv(hi - lo, n, a + lo * n, x, y + lo);                                                               \
            crew_gather(y, 1, n, sizeof *y);                                                                                \
            real *old = x;                                                                                               \
            x = y;                                                                                                       \
            y = old;                                                                                                     \
        }                                                                                                                \
        double took = now() - start, error = 0, sum = 0;                                                                 \
        for (size_t i = 0; i < n; i++) {                                                                                 \
            error = fmax(error, fabs(x[i] - 1.5));                                                                       \
            sum += x[i];                                                                                                 \
        }                                                                                                                \
        return (struct answer){took, sum, error, sizeof(real) == 4 ? 1e-5 : 1e-12};                                      \
    }                                                                                                                    \
    /* C = A B, where A = u vᵀ and B = w zᵀ, so that C = (v · w) u zᵀ is known. */                                        \
    static struct answer name##level3(size_t n, size_t iterations)                                                       \
    {                                                                                                                    \
        real *a = crew_memory(3 * n * n * sizeof *a), *b = a + n * n, *c = b + n * n;                                    \
        size_t lo, hi;                                                                                                   \
        crew_part(n, crew_rank(), crew_parties(), &lo, &hi);                                                             \
        for (size_t i = lo; i < hi; i++)                                                                                 \
            for (size_t j = 0; j < n; j++) {                                                                             \
                a[i * n + j] = (1 + i % 3) * (1 + j % 2);                                                                \
                b[i * n + j] = (real)(1 + i % 5) / (1 + j % 4);                                                          \
            }                                                                                                            \
        crew_gather(b, 1, n, n * sizeof *b);                                                                                \
        double start = now();                                                                                            \
        for (size_t i = 0; i < iterations; i++) {                                                                        \
            name##gemm(hi - lo, n, a + lo * n, b, c + lo * n);                                                           \
            crew_barrier();                                                                                              \
        }                                                                                                                \
        double took = now() - start, inner = 0, error = 0, sum = 0;                                                      \
        for (size_t k = 0; k < n; k++)                                                                                   \
            inner += (1 + k % 2) * (1 + k % 5);                                                                          \
        for (size_t i = lo; i < hi; i++)                                                                                 \
            for (size_t j = 0; j < n; j++) {                                                                             \
                double known = inner * (1 + i % 3) / (1 + j % 4);                                                        \
                error = fmax(error, fabs(c[i * n + j] / known - 1));                                                     \
                sum += c[i * n + j];                                                                                     \
            }                                                                                                            \
        return (struct answer){took, crew_sum(sum), crew_max(error), sizeof(real) == 4 ? 1e-4 : 1e-12};                  \
    }

LEVELS(float, s)
LEVELS(double, d)

struct answer blas1(size_t n, size_t iterations, int single) { return single ? slevel1(n, iterations) : dlevel1(n, iterations); }
struct answer blas2(size_t n, size_t iterations, int single) { return single ? slevel2(n, iterations) : dlevel2(n, iterations); }
struct answer blas3(size_t n, size_t iterations, int single) { return single ? slevel3(n, iterations) : dlevel3(n, iterations); }
