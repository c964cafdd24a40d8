/* tcp server PORT, tcp client ADDRESS PORT TURNS: 64 bytes there and back over TCP, for comparison. The client prints the
 * median time of a round trip. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BYTES = 64, BATCH = 10, PATIENCE = 30 };

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static double micros(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* 1 when all has come, 0 when the other side has closed. */
static int receive(int fd, char *to)
{
	for (ssize_t have = 0, more; have < BYTES; have += more) {
		more = read(fd, to + have, BYTES - have);
		if (more < 0)
			fail("read");
		if (more == 0)
			return 0;
	}
	return 1;
}

static void at_once(int fd)
{
	int on = 1;
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
		fail("TCP_NODELAY");
}

static int serve(struct sockaddr_in *where)
{
	char bytes[BYTES];
	int on = 1, door = socket(AF_INET, SOCK_STREAM, 0);
	if (door < 0 || setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
		fail("socket");
	if (bind(door, (void *)where, sizeof *where) < 0 || listen(door, 1) < 0)
		fail("listen");
	int fd = accept(door, NULL, NULL);
	if (fd < 0)
		fail("accept");
	at_once(fd);
	while (receive(fd, bytes))
		if (write(fd, bytes, BYTES) != BYTES)
			fail("write");
	return 0;
}

static int reach(struct sockaddr_in *where)
{
	for (int tenths = 0; tenths < PATIENCE * 10; tenths++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		if (fd < 0)
			fail("socket");
		if (connect(fd, (void *)where, sizeof *where) == 0)
			return fd;
		close(fd);
		usleep(100000);
	}
	fail("connect");
	return -1;
}

int main(int argc, char **argv)
{
	struct sockaddr_in where = { .sin_family = AF_INET };
	char bytes[BYTES] = "hello";
	if (argc == 3 && !strcmp(argv[1], "server")) {
		where.sin_port = htons(atoi(argv[2]));
		return serve(&where);
	}
	if (argc != 5 || strcmp(argv[1], "client") || !inet_aton(argv[2], &where.sin_addr))
		return fprintf(stderr, "usage: tcp server PORT | tcp client ADDRESS PORT TURNS\n"), 2;
	where.sin_port = htons(atoi(argv[3]));
	int batches = atoi(argv[4]) / BATCH, fd = reach(&where);
	double *times = calloc(batches + 1, sizeof *times);
	if (!times)
		fail("calloc");
	at_once(fd);
	for (int b = 0; b < batches; b++) {
		double start = micros();
		for (int i = 0; i < BATCH; i++)
			if (write(fd, bytes, BYTES) != BYTES || !receive(fd, bytes))
				fail("round trip");
		times[b] = (micros() - start) / BATCH;
	}
	qsort(times, batches, sizeof *times, ascending);
	printf("round trip %.2f us\n", times[batches / 2]);
	return 0;
}
