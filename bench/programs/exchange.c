/* exchange.c: two parties pass a buffer to and fro, each changing all of it when it is its turn (the paper's Figures 4, 6 and 7).
 *
 *     exchange CHANNEL ROLE SIZE:COUNT...
 *
 * Role 0 begins, measures every exchange, and prints a line for each size: SIZE COUNT MEAN VARIANCE P50 P90 P99 P999 LEAST MOST, in
 * nanoseconds (the variance in their square). Both check that every change of the other arrived. EXCHANGE_CPU pins: role r of a channel that
 * forks to CPU r. */
#define _GNU_SOURCE
#include "channel.h"
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Exchanges before the clock starts. */
#define BEFORE 200
#define MOST_SIZES 64

void failed(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

char *own_buffer(size_t bytes)
{
    char *buffer = calloc(1, bytes);
    if (buffer == NULL)
        failed("memory");
    return buffer;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

/* A counter that costs no system call, not even in a guest where the clock does. */
static inline unsigned long ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return now();
#endif
}

static void change(char *buffer, size_t bytes, char by)
{
    for (size_t i = 0; i < bytes; i++)
        buffer[i] += by;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(size_t size, double *took, size_t count)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < count; i++)
        sum += took[i];
    double mean = sum / count;
    for (size_t i = 0; i < count; i++)
        squares += (took[i] - mean) * (took[i] - mean);
    qsort(took, count, sizeof *took, by_size);
    printf("%zu %zu %.2f %.6g", size, count, mean, squares / count);
    const double parts[] = {0.5, 0.9, 0.99, 0.999};
    for (int i = 0; i < 4; i++)
        printf(" %.2f", took[(size_t)(parts[i] * (count - 1))]);
    printf(" %.2f %.2f\n", took[0], took[count - 1]);
    fflush(stdout);
}

/* One size: role 0 adds 1 to every byte and gives, role 1 adds 2 and gives back. */
static void exchange(const struct channel *channel, int role, char *buffer, size_t size, size_t count)
{
    double *took = calloc(count, sizeof *took), start = 0;
    if (took == NULL)
        failed("memory");
    /* What is measured is not to pay for the first touch of where it is noted: 40 microseconds a page in a guest of User-mode Linux. */
    for (size_t i = 0; i < count; i += 512)
        *(volatile double *)&took[i] = 0;
    char expected;
    if (role == 0)
        memset(buffer, 0, size);
    unsigned long before = 0, first = 0;
    expected = 0;
    for (size_t i = 0; i < BEFORE + count; i++) {
        if (role == 0 && i == BEFORE) {
            start = now();
            first = before = ticks();
        }
        if (role == 0) {
            change(buffer, size, 1);
            channel->give(size);
            channel->take(size);
            expected += 3;
            unsigned long after = ticks();
            if (i >= BEFORE)
                took[i - BEFORE] = after - before;
            before = after;
        } else {
            channel->take(size);
            expected += i == 0 ? 1 : 3;
            if (buffer[0] != expected || buffer[size - 1] != expected) {
                fprintf(stderr, "%s: exchange %zu of %zu bytes: found %d, not %d\n", channel->name, i, size, buffer[size - 1], expected);
                exit(1);
            }
            change(buffer, size, 2);
            channel->give(size);
        }
    }
    if (role == 0) {
        double scale = (now() - start) / (before - first);
        for (size_t i = 0; i < count; i++)
            took[i] *= scale;
        report(size, took, count);
    }
    free(took);
}

static const struct channel *named(const char *name)
{
    const struct channel *const *const all[] = {sysv_channels, socket_channels, local_channels, zeromq_channels};
    for (int i = 0; i < 4; i++)
        for (const struct channel *const *one = all[i]; *one != NULL; one++)
            if (strcmp((*one)->name, name) == 0)
                return *one;
    fprintf(stderr, "%s: there is no such channel here\n", name);
    exit(2);
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc - 3 > MOST_SIZES)
        return 2;
    const struct channel *channel = named(argv[1]);
    int role = atoi(argv[2]), sizes = argc - 3;
    size_t size[MOST_SIZES], count[MOST_SIZES], most = 0;
    for (int i = 0; i < sizes; i++) {
        if (sscanf(argv[3 + i], "%zu:%zu", &size[i], &count[i]) != 2 || size[i] < 1 || size[i] > 1 << 30 || count[i] < 1) {
            fprintf(stderr, "%s: not SIZE:COUNT, each at least 1\n", argv[3 + i]);
            return 2;
        }
        if (channel->most != 0 && size[i] > channel->most) {
            fprintf(stderr, "%s: at most %zu bytes\n", channel->name, channel->most);
            return 2;
        }
        most = size[i] > most ? size[i] : most;
    }
    pid_t child = 0;
    if (channel->prepare != NULL)
        channel->prepare(most);
    if (channel->forks) {
        child = fork();
        if (child < 0)
            failed("fork");
        role = child == 0;
        if (child == 0)
            prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin(role);
    }
    char *buffer = channel->open(role, most);
    for (int i = 0; i < sizes; i++)
        exchange(channel, role, buffer, size[i], count[i]);
    if (channel->forks && role == 0) {
        int status;
        waitpid(child, &status, 0);
        if (status != 0)
            return 1;
    }
    if (channel->close != NULL)
        channel->close(role);
    return 0;
}
