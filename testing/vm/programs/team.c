/* A party of a team in C, with the C library: team PARTIES RANK KEY PATIENCE_MS. Meets the Rust crate's example of the same name. */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vshmem.h>

static void check(int result, const char *what)
{
    if (result != 0) {
        printf("%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    long patience = atol(argv[4]);
    struct timespec time = {patience / 1000, patience % 1000 * 1000000};
    vshmem_team *team = vshmem_team_join(atoi(argv[3]), atoi(argv[1]), atoi(argv[2]), &time);
    if (team == NULL) {
        printf("join: %s\n", strerror(errno));
        return 1;
    }
    int rank = vshmem_team_rank(team), parties = vshmem_team_parties(team);
    printf("rank %d of %d\n", rank, parties);

    uint64_t intervals = 0;
    check(vshmem_team_broadcast(team, 0, &intervals, sizeof intervals), "broadcast");
    double width = 1.0 / intervals, pi = 0;
    for (uint64_t i = rank; i < intervals; i += parties) {
        double x = (i + 0.5) * width;
        pi += 4 / (1 + x * x) * width;
    }
    check(vshmem_team_allreduce(team, VSHMEM_F64, VSHMEM_SUM, &pi, 1), "allreduce");
    printf("pi is %.12f\n", pi);
    if (vshmem_team_allreduce(team, VSHMEM_F64, VSHMEM_XOR, &pi, 1) != -1 || errno != EINVAL)
        printf("exclusive or of floating-point numbers was not refused\n");
    check(vshmem_team_disband(team), "disband");
    return 0;
}
