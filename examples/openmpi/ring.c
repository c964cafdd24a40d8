/* Ranks in a ring pass a token on and add to it, then all exchange an array and all write to a window of shared memory. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#define ROUNDS 1000
#define WORDS 100000

int main(int argc, char **argv)
{
	int rank, size;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);

	/* A token round the ring. */
	long token = 0;
	int next = (rank + 1) % size, before = (rank + size - 1) % size;
	for (int round = 0; round < ROUNDS; round++) {
		if (rank == 0) {
			MPI_Send(&token, 1, MPI_LONG, next, 0, MPI_COMM_WORLD);
			MPI_Recv(&token, 1, MPI_LONG, before, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		} else {
			MPI_Recv(&token, 1, MPI_LONG, before, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
			token++;
			MPI_Send(&token, 1, MPI_LONG, next, 0, MPI_COMM_WORLD);
		}
	}

	/* Messages too large for the ring buffers. */
	double *mine = malloc(WORDS * sizeof *mine), *sum = malloc(WORDS * sizeof *sum);
	for (int i = 0; i < WORDS; i++)
		mine[i] = rank + i;
	MPI_Allreduce(mine, sum, WORDS, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);

	/* A window of shared memory: one System V segment for all. */
	MPI_Win window;
	long *slots;
	MPI_Win_allocate_shared(sizeof *slots, sizeof *slots, MPI_INFO_NULL, MPI_COMM_WORLD, &slots, &window);
	MPI_Win_lock_all(0, window);
	*slots = rank + 1;
	MPI_Win_sync(window);
	MPI_Barrier(MPI_COMM_WORLD);
	MPI_Win_sync(window);
	long total = 0;
	for (int other = 0; other < size; other++) {
		MPI_Aint bytes;
		int unit;
		long *theirs;
		MPI_Win_shared_query(window, other, &bytes, &unit, &theirs);
		total += *theirs;
	}
	MPI_Win_unlock_all(window);
	if (rank == 0) {
		printf("token %ld, last sum %.0f, window %ld\n", token, sum[WORDS - 1], total);
		fflush(stdout);
		if (argc > 1)
			system(argv[1]);
	}
	MPI_Barrier(MPI_COMM_WORLD);
	MPI_Win_free(&window);
	MPI_Finalize();
	return 0;
}
