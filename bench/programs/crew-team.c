/* crew-team.c: processes that are a team of Vshmem's C library: they spin, then sleep, and one that dies costs the others an error and not their time.
 *
 *     CREW_RANK, CREW_PARTIES, CREW_KEY, CREW_BYTES in the environment.
 */
#include "crew.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/shm.h>
#include <vshmem.h>

static int rank, parties;
static vshmem_team *team;
static char *memory;
static size_t room;

int crew_rank(void) { return rank; }
int crew_parties(void) { return parties; }

static void check(int result, const char *what)
{
    if (result != 0)
        crew_fail("%s: %s", what, strerror(errno));
}

void crew_barrier(void) { check(vshmem_team_barrier(team), "barrier"); }

void *crew_memory(size_t bytes)
{
    if (bytes > room)
        crew_fail("%zu bytes do not fit the segment of %zu", bytes, room);
    crew_barrier(); /* Nobody uses what was here before. */
    if (rank == 0)
        memset(memory, 0, bytes);
    crew_barrier();
    return memory;
}

double crew_spread(double number)
{
    check(vshmem_team_broadcast(team, 0, &number, sizeof number), "broadcast");
    return number;
}

double crew_reduce(double number)
{
    check(vshmem_team_reduce(team, 0, VSHMEM_F64, VSHMEM_SUM, &number, 1), "reduce");
    return number;
}

double crew_sum(double number)
{
    check(vshmem_team_allreduce(team, VSHMEM_F64, VSHMEM_SUM, &number, 1), "allreduce");
    return number;
}

double crew_max(double number)
{
    check(vshmem_team_allreduce(team, VSHMEM_F64, VSHMEM_MAX, &number, 1), "allreduce");
    return number;
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
    int segment = shmget(given("CREW_KEY"), room, IPC_CREAT | 0600);
    if (segment < 0 || (memory = shmat(segment, NULL, 0)) == (void *)-1)
        crew_fail("the segment: %s", strerror(errno));
    team = vshmem_team_join(given("CREW_KEY") ^ 0x04000000, parties, rank, NULL);
    if (team == NULL)
        crew_fail("the team: %s", strerror(errno));
    if (rank == 0)
        shmctl(segment, IPC_RMID, NULL); /* All are here; what is removed now goes with the last of them. */
    int result = work(argc, argv);
    check(vshmem_team_disband(team), "the end of the team");
    shmdt(memory);
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
