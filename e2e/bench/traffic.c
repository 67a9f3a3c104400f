/* Clients and servers of the benchmark: what they do between two clock readings is one or two system calls.
 *
 * traffic CPU NAMESPACE MODE ...: pinned to a CPU (-1: not), inside a network namespace ("-": the caller's).
 *   serve PORT                         PORT: ping-pong, one connection after the other; PORT+1: one byte each way, then wait for
 *                                      the end; PORT+2: reads and forgets; PORT+3: echoes on any number of connections, and UDP
 *   rr|crr|stream ADDRESS PORT SECONDS
 *   load ADDRESS PORT SECONDS CONNECTIONS RATE     requests at a fixed rate, whatever becomes of the answers
 *   pulse ADDRESS PORT SECONDS RATE FILE           numbered datagrams; FILE: for each when it went, and when its answer came
 *   flood ADDRESS PORT SECONDS RATE                datagrams, each of a tuple not seen before
 *   hold ADDRESS PORT                              opens a connection, tells its port, keeps it until its input ends
 * Prints one line of JSON. Ends with its parent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (128 * 1024)
#define SECOND 1000000000LL

typedef long long ns_t;

static void must(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
	exit(1);
}

static ns_t now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * SECOND + at.tv_nsec;
}

static void sleep_until(ns_t at)
{
	struct timespec wanted = { at / SECOND, at % SECOND };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wanted, NULL);
}

/* Both families: an address with a colon is IPv6. */
static socklen_t address(const char *text, int port, struct sockaddr_storage *to)
{
	memset(to, 0, sizeof(*to));
	if (strchr(text, ':')) {
		struct sockaddr_in6 *six = (struct sockaddr_in6 *)to;

		six->sin6_family = AF_INET6;
		six->sin6_port = htons(port);
		must(inet_pton(AF_INET6, text, &six->sin6_addr) == 1, text);
		return sizeof(*six);
	}
	struct sockaddr_in *four = (struct sockaddr_in *)to;

	four->sin_family = AF_INET;
	four->sin_port = htons(port);
	must(inet_pton(AF_INET, text, &four->sin_addr) == 1, text);
	return sizeof(*four);
}

static void no_delay(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int connected(const char *text, int port, int kind)
{
	struct sockaddr_storage to;
	socklen_t length = address(text, port, &to);
	int fd = socket(to.ss_family, kind | SOCK_CLOEXEC, 0);

	must(fd >= 0, "socket");
	must(!connect(fd, (struct sockaddr *)&to, length), "connect");
	if (kind == SOCK_STREAM)
		no_delay(fd);
	return fd;
}

static int bound(int port, int kind)
{
	struct sockaddr_storage to;
	socklen_t length = address("::", port, &to);
	int fd = socket(AF_INET6, kind | SOCK_CLOEXEC, 0), on = 1;

	must(fd >= 0, "socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	must(!bind(fd, (struct sockaddr *)&to, length), "bind");
	if (kind == SOCK_STREAM)
		must(!listen(fd, 1024), "listen");
	return fd;
}

/* -- servers ---------------------------------------------------------------------------------------------------------- */

static void serve_rounds(int port, int once)
{
	int listener = bound(port, SOCK_STREAM);
	char byte[64];

	for (;;) {
		int fd = accept(listener, NULL, NULL);
		ssize_t n;

		if (fd < 0)
			continue;
		if (!once)
			no_delay(fd);
		while ((n = read(fd, byte, sizeof(byte))) > 0)
			if (write(fd, byte, n) != n)
				break;
		close(fd);
	}
}

static void serve_sink(int port)
{
	static char chunk[CHUNK];
	int listener = bound(port, SOCK_STREAM);

	for (;;) {
		int fd = accept(listener, NULL, NULL);

		while (fd >= 0 && read(fd, chunk, sizeof(chunk)) > 0)
			;
		close(fd);
	}
}

static void serve_many(int port)
{
	int listener = bound(port, SOCK_STREAM), datagrams = bound(port, SOCK_DGRAM), poll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = { .events = EPOLLIN, .data.fd = listener }, found[64];
	char bytes[2048];

	epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
	event.data.fd = datagrams;
	epoll_ctl(poll, EPOLL_CTL_ADD, datagrams, &event);
	for (;;) {
		int count = epoll_wait(poll, found, 64, -1);

		for (int i = 0; i < count; i++) {
			int fd = found[i].data.fd;

			if (fd == listener) {
				event.data.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
				if (event.data.fd < 0)
					continue;
				no_delay(event.data.fd);
				epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
			} else if (fd == datagrams) {
				struct sockaddr_storage from;
				socklen_t length = sizeof(from);
				ssize_t n = recvfrom(fd, bytes, sizeof(bytes), MSG_DONTWAIT, (struct sockaddr *)&from, &length);

				if (n >= 0)
					sendto(fd, bytes, n, 0, (struct sockaddr *)&from, length);
			} else {
				ssize_t n = read(fd, bytes, sizeof(bytes));

				if (n <= 0 && !(n < 0 && errno == EAGAIN))
					close(fd);
				else if (n > 0 && write(fd, bytes, n) != n)
					close(fd);
			}
		}
	}
}

static void serve(int port)
{
	for (int part = 0; part < 4; part++) {
		pid_t child = fork();

		must(child >= 0, "fork");
		if (child)
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (part == 2)
			serve_sink(port + 2);
		if (part == 3)
			serve_many(port + 3);
		serve_rounds(port + part, part == 1);
	}
	wait(NULL); /* none ends by itself: one that does could not bind */
	exit(1);
}

/* -- clients ---------------------------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
	ns_t x = *(const ns_t *)a, y = *(const ns_t *)b;

	return x < y ? -1 : x > y;
}

#define MOST 4000000

static ns_t taken[MOST];

static void report(long count, ns_t whole)
{
	must(count > 0, "nothing was answered");
	qsort(taken, count, sizeof(*taken), by_size);
	printf("{\"count\": %ld, \"p50\": %lld, \"p99\": %lld, \"most\": %lld, \"seconds\": %.6f}\n", count, taken[count / 2],
	       taken[count * 99 / 100], taken[count - 1], (double)whole / SECOND);
}

static void one_round(int fd)
{
	char byte = 'x';

	must(write(fd, &byte, 1) == 1, "write");
	must(read(fd, &byte, 1) == 1, "read");
}

static void rounds(const char *to, int port, double seconds)
{
	int fd = connected(to, port, SOCK_STREAM);
	long count = 0;

	for (int i = 0; i < 200; i++)
		one_round(fd);
	ns_t began = now(), end = began + seconds * SECOND, last = began;

	while (last < end && count < MOST) {
		one_round(fd);
		ns_t at = now();

		taken[count++] = at - last;
		last = at;
	}
	report(count, last - began);
}

static void connections(const char *to, int port, double seconds)
{
	struct linger none = { 1, 0 };
	long count = 0;
	ns_t began = now(), end = began + seconds * SECOND, last = began;

	while (last < end && count < MOST) {
		int fd = connected(to, port, SOCK_STREAM);

		one_round(fd);
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
		close(fd);
		ns_t at = now();

		taken[count++] = at - last;
		last = at;
	}
	report(count, last - began);
}

static void stream(const char *to, int port, double seconds)
{
	static char chunk[CHUNK];
	int fd = connected(to, port, SOCK_STREAM);
	long long bytes = 0;
	ns_t began = now(), end = began + seconds * SECOND, last = began;

	while (last < end) {
		ssize_t n = write(fd, chunk, sizeof(chunk));

		must(n > 0, "write");
		bytes += n;
		last = now();
	}
	printf("{\"bytes\": %lld, \"seconds\": %.6f}\n", bytes, (double)(last - began) / SECOND);
}

static void load(const char *to, int port, double seconds, int number, int rate)
{
	int fds[number], poll = epoll_create1(EPOLL_CLOEXEC);
	ns_t asked[number], stall = 0, worst_at = 0;
	long sent = 0, answered = 0, resets = 0, skipped = 0;
	struct epoll_event event, found[64];
	char byte = 'x';

	for (int i = 0; i < number; i++) {
		fds[i] = connected(to, port, SOCK_STREAM);
		fcntl(fds[i], F_SETFL, O_NONBLOCK);
		asked[i] = 0;
		event.events = EPOLLIN;
		event.data.u32 = i;
		epoll_ctl(poll, EPOLL_CTL_ADD, fds[i], &event);
	}
	printf("{\"ready\": %d}\n", number);
	fflush(stdout);
	ns_t began = now(), end = began + seconds * SECOND, next = began, at;

	for (long turn = 0; (at = now()) < end; ) {
		while (next <= at) {
			int i = turn++ % number;

			next += SECOND / rate;
			if (fds[i] < 0 || asked[i]) { /* its answer is still missing: the stall is counted when it comes */
				skipped++;
				continue;
			}
			if (write(fds[i], &byte, 1) == 1) {
				asked[i] = at;
				sent++;
			}
		}
		int count = epoll_wait(poll, found, 64, 0);

		at = now();
		for (int k = 0; k < count; k++) {
			int i = found[k].data.u32;
			ssize_t n = read(fds[i], &byte, 1);

			if (n == 1) {
				if (at - asked[i] > stall) {
					stall = at - asked[i];
					worst_at = at - began;
				}
				asked[i] = 0;
				answered++;
			} else if (n == 0 || errno != EAGAIN) {
				resets++;
				close(fds[i]);
				fds[i] = -1;
			}
		}
		if (!count && next - at > 20000)
			sleep_until(at + 20000);
	}
	for (int i = 0; i < number; i++)
		if (fds[i] >= 0 && asked[i] && at - asked[i] > stall)
			stall = at - asked[i];
	printf("{\"sent\": %ld, \"answered\": %ld, \"resets\": %ld, \"stall\": %lld, \"stall_at\": %lld, \"skipped\": %ld}\n", sent,
	       answered, resets, stall, worst_at, skipped);
}

/* How many have come since the last look, of `count` that went. */
static long answers(int fd, ns_t (*when)[2], long count)
{
	unsigned int back;
	long found = 0;

	while (recv(fd, &back, sizeof(back), 0) == sizeof(back))
		if (back < count && when[back][1] <= 0) {
			when[back][1] = now();
			found++;
		}
	return found;
}

static void pulse(const char *to, int port, double seconds, int rate, const char *path)
{
	int fd = connected(to, port, SOCK_DGRAM);
	long most = seconds * rate, count = 0, answered = 0;
	ns_t (*when)[2] = calloc(most, sizeof(*when)), next = now();
	FILE *out = fopen(path, "wb");

	must(when && out, path);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	/* It sleeps between them and shares its CPU with what it watches: it must be on time, and take little. */
	setpriority(PRIO_PROCESS, 0, -20);
	prctl(PR_SET_TIMERSLACK, 1);
	printf("{\"ready\": 1}\n");
	fflush(stdout);
	while (count < most) {
		unsigned int number = count;

		sleep_until(next);
		answered += answers(fd, when, count);
		when[count][0] = now();
		if (send(fd, &number, sizeof(number), 0) < 0)
			when[count][1] = -1; /* refused by the own stack: an ICMP error came before */
		count++;
		next += SECOND / rate;
	}
	sleep_until(next); /* the last ones' answers */
	answered += answers(fd, when, count);
	fwrite(when, sizeof(*when), count, out);
	fclose(out);
	printf("{\"sent\": %ld, \"answered\": %ld}\n", count, answered);
}

static void flood(const char *to, int first, double seconds, int rate)
{
	struct sockaddr_storage at;
	socklen_t length = address(to, first, &at);
	int fd = socket(at.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), port = first;
	ns_t began = now(), end = began + seconds * SECOND, next = began;
	long sent = 0;

	must(fd >= 0, "socket");
	while (now() < end) {
		sleep_until(next);
		for (int i = 0; i < 10; i++) { /* a timer is late by more than a packet's turn */
			address(to, port, &at);
			if (sendto(fd, &sent, sizeof(sent), 0, (struct sockaddr *)&at, length) > 0)
				sent++;
			if (++port > 65535) { /* all ports seen: another source port makes new tuples of them */
				port = first;
				close(fd);
				fd = socket(at.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
			}
		}
		next += 10 * SECOND / rate;
	}
	printf("{\"sent\": %ld, \"seconds\": %.6f}\n", sent, (double)(now() - began) / SECOND);
}

static void hold(const char *to, int port)
{
	int fd = connected(to, port, SOCK_STREAM);
	struct sockaddr_storage own;
	socklen_t length = sizeof(own);
	char byte;

	one_round(fd);
	getsockname(fd, (struct sockaddr *)&own, &length);
	printf("{\"port\": %d}\n", ntohs(own.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&own)->sin6_port :
								     ((struct sockaddr_in *)&own)->sin_port));
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
}

int main(int argc, char **argv)
{
	must(argc >= 5, "arguments are missing");
	const char *mode = argv[3], *to = argv[4];
	int port = argc > 5 ? atoi(argv[5]) : 0, rate = argc > 7 ? atoi(argv[7]) : 0;
	double seconds = argc > 6 ? atof(argv[6]) : 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	if (atoi(argv[1]) >= 0) {
		cpu_set_t cpus;

		CPU_ZERO(&cpus);
		CPU_SET(atoi(argv[1]), &cpus);
		must(!sched_setaffinity(0, sizeof(cpus), &cpus), "affinity");
	}
	if (strcmp(argv[2], "-")) {
		int fd = open(argv[2], O_RDONLY | O_CLOEXEC);

		must(fd >= 0 && !setns(fd, CLONE_NEWNET), argv[2]);
	}
	if (!strcmp(mode, "serve"))
		serve(atoi(to));
	else if (!strcmp(mode, "rr"))
		rounds(to, port, seconds);
	else if (!strcmp(mode, "crr"))
		connections(to, port, seconds);
	else if (!strcmp(mode, "stream"))
		stream(to, port, seconds);
	else if (!strcmp(mode, "load") && argc > 8)
		load(to, port, seconds, rate, atoi(argv[8]));
	else if (!strcmp(mode, "pulse") && argc > 8)
		pulse(to, port, seconds, rate, argv[8]);
	else if (!strcmp(mode, "flood"))
		flood(to, port, seconds, rate);
	else if (!strcmp(mode, "hold"))
		hold(to, port);
	else
		must(0, mode);
	return 0;
}
