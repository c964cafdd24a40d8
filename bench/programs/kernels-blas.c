/* kernels-blas.c: linear algebra, in the precision REAL with names that begin with NAME. */
#include "kernels.h"

#define JOIN(a, b) a##b
#define WITH(name, what) JOIN(name, what)

void WITH(NAME, axpy)(size_t n, REAL a, const REAL *restrict x, REAL *restrict y)
{
    for (size_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

double WITH(NAME, dot)(size_t n, const REAL *restrict x, const REAL *restrict y)
{
    REAL sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

void WITH(NAME, gemv)(size_t rows, size_t n, const REAL *restrict a, const REAL *restrict x, REAL *restrict y)
{
    for (size_t i = 0; i < rows; i++) {
        REAL sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t j = 0; j < n; j++)
            sum += a[i * n + j] * x[j];
        y[i] = sum;
    }
}

void WITH(NAME, gemm)(size_t rows, size_t n, const REAL *restrict a, const REAL *restrict b, REAL *restrict c)
{
    for (size_t i = 0; i < rows; i++) {
        REAL *restrict row = c + i * n;
        for (size_t j = 0; j < n; j++)
            row[j] = 0;
        for (size_t k = 0; k < n; k++) {
            REAL factor = a[i * n + k];
#pragma omp simd
            for (size_t j = 0; j < n; j++)
                row[j] += factor * b[k * n + j];
        }
    }
}
