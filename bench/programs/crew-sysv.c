/* crew-sysv.c: processes that share a System V segment. The very same program runs with the kernel's System V IPC, under `vshmem run`, and in
 * virtual machines under `vshmem vm run`: it knows nothing of Vshmem.
 *
 *     CREW_RANK, CREW_PARTIES, CREW_KEY, CREW_BYTES in the environment.
 *
 * The parties wait for each other busily, each on a core of its own, as the paper's programs do. */
#include "crew.h"
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/shm.h>

#define MOST 64

/* A cache line of each party, which nobody else writes. */
struct place {
    _Alignas(64) atomic_ulong arrived;
    /* Contributions to a reduction, in turn: who writes one again knows that all have read it, since all have begun the reduction after it. */
    double number[2];
};

struct board {
    struct place place[MOST];
};

static int rank, parties, segment;
static struct board *board;
static size_t room;
static unsigned long arrivals, reductions;

int crew_rank(void) { return rank; }
int crew_parties(void) { return parties; }

static inline void rest(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

void crew_barrier(void)
{
    unsigned long now = ++arrivals;
    atomic_store_explicit(&board->place[rank].arrived, now, memory_order_release);
    for (int other = 0; other < parties; other++)
        while (atomic_load_explicit(&board->place[other].arrived, memory_order_acquire) < now)
            rest();
}

void *crew_memory(size_t bytes)
{
    if (bytes > room)
        crew_fail("%zu bytes do not fit the segment of %zu", bytes, room);
    char *memory = (char *)board + 4096 * ((sizeof *board + 4095) / 4096);
    crew_barrier(); /* Nobody uses what was here before. */
    if (rank == 0)
        memset(memory, 0, bytes);
    crew_barrier();
    return memory;
}

/* Everybody's numbers, valid until the next but one exchange. */
static int show(double number)
{
    int turn = ++reductions % 2;
    board->place[rank].number[turn] = number;
    crew_barrier();
    return turn;
}

double crew_spread(double number)
{
    int turn = show(number);
    return board->place[0].number[turn];
}

double crew_reduce(double number)
{
    int turn = show(number);
    double sum = 0;
    for (int other = 0; rank == 0 && other < parties; other++)
        sum += board->place[other].number[turn];
    return sum;
}

double crew_sum(double number)
{
    int turn = show(number);
    double sum = 0;
    for (int other = 0; other < parties; other++)
        sum += board->place[other].number[turn];
    return sum;
}

double crew_max(double number)
{
    int turn = show(number);
    double most = board->place[0].number[turn];
    for (int other = 1; other < parties; other++)
        if (board->place[other].number[turn] > most)
            most = board->place[other].number[turn];
    return most;
}

void crew_gather(void *first, size_t arrays, size_t count, size_t width)
{
    (void)first, (void)arrays, (void)count, (void)width; /* All parts are in the segment: only their time must have come. */
    crew_barrier();
}

void crew_borders(void *grid, size_t row_bytes, size_t lo, size_t hi)
{
    (void)grid, (void)row_bytes, (void)lo, (void)hi;
}

static unsigned long given(const char *name)
{
    const char *text = getenv(name);
    if (text == NULL)
        crew_fail("%s is not set", name);
    return strtoul(text, NULL, 0);
}

int crew_run(int argc, char **argv, int (*work)(int, char **))
{
    rank = given("CREW_RANK");
    parties = given("CREW_PARTIES");
    room = given("CREW_BYTES");
    if (parties < 1 || parties > MOST || rank < 0 || rank >= parties)
        crew_fail("rank %d of %d parties: there may be 1 to %d", rank, parties, MOST);
    segment = shmget(given("CREW_KEY"), sizeof *board + 4096 + room, IPC_CREAT | 0600);
    if (segment < 0)
        crew_fail("shmget: %s", strerror(errno));
    board = shmat(segment, NULL, 0);
    if (board == (void *)-1)
        crew_fail("shmat: %s", strerror(errno));
    crew_barrier();
    /* All are here; what is removed now goes with the last of them. */
    if (rank == 0)
        shmctl(segment, IPC_RMID, NULL);
    int result = work(argc, argv);
    crew_barrier();
    shmdt(board);
    return result;
}

void crew_fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    exit(1);
}
