/* Load with both ends known: datagrams, and short TCP connections. Says what it did as one line of JSON.
 *
 *   load udp ADDRESS PORT SECONDS [PER_SECOND]     64 octets each
 *   load udp-drain ADDRESS PORT SECONDS
 *   load churn ADDRESS PORT SECONDS [PER_SECOND]   200 octets there, 1,000 back
 *   load churn-serve ADDRESS PORT SECONDS
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { DATAGRAM = 64, REQUEST = 200, ANSWER = 1000 };

static volatile sig_atomic_t ended;
static char body[65536];

static void end(int signal_number) { (void)signal_number; ended = 1; }

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* Wait until the count is no longer ahead of its rate. */
static void pace(double begin, long count, long per_second)
{
	double ahead = per_second ? begin + (double)count / per_second - now() : 0;
	if (ahead > 0.0005)
		usleep((useconds_t)(ahead * 1e6));
}

static int open_socket(const struct addrinfo *to)
{
	int made = socket(to->ai_family, to->ai_socktype, 0), one = 1;
	struct timeval patience = { 0, 200000 };
	setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(made, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	return made;
}

static void told(long count, long sent, long failed, double seconds)
{
	printf("{\"count\": %ld, \"sent\": %ld, \"failed\": %ld, \"seconds\": %.3f, \"rate\": %.0f}\n",
	       count, sent, failed, seconds, count / seconds);
	fflush(stdout);
}

static void udp(const struct addrinfo *to, double seconds, long per_second)
{
	int out = open_socket(to);
	long count = 0, failed = 0;
	double begin = now();
	if (connect(out, to->ai_addr, to->ai_addrlen))
		exit(1);
	while (!ended && now() < begin + seconds) {
		for (int i = 0; i < 64; i++)
			if (send(out, body, DATAGRAM, 0) == DATAGRAM)
				count++;
			else
				failed++;
		pace(begin, count, per_second);
	}
	told(count, count * DATAGRAM, failed, now() - begin);
}

static void udp_drain(const struct addrinfo *at, double seconds)
{
	int in = open_socket(at);
	long count = 0;
	double begin = now();
	if (bind(in, at->ai_addr, at->ai_addrlen))
		exit(1);
	puts("{}");
	fflush(stdout);
	while (!ended && now() < begin + seconds)
		if (recv(in, body, sizeof body, 0) >= 0)
			count++;
	told(count, 0, 0, now() - begin);
}

static void churn(const struct addrinfo *to, double seconds, long per_second)
{
	long count = 0, failed = 0, sent = 0;
	double begin = now();
	while (!ended && now() < begin + seconds) {
		int link = open_socket(to);
		long got = 0, some;
		if (connect(link, to->ai_addr, to->ai_addrlen)) {
			failed++;
			close(link);
			continue;
		}
		if (send(link, body, REQUEST, 0) == REQUEST)
			sent += REQUEST;
		while ((some = recv(link, body, sizeof body, 0)) > 0)
			got += some;
		failed += got != ANSWER;
		close(link);
		count++;
		pace(begin, count, per_second);
	}
	told(count, sent, failed, now() - begin);
}

static void churn_serve(const struct addrinfo *at, double seconds)
{
	int server = open_socket(at);
	long count = 0;
	double begin = now();
	if (bind(server, at->ai_addr, at->ai_addrlen) || listen(server, 4096))
		exit(1);
	puts("{}");
	fflush(stdout);
	while (!ended && now() < begin + seconds) {
		int link = accept(server, NULL, NULL);
		if (link < 0)
			continue;
		if (recv(link, body, sizeof body, 0) > 0)
			send(link, body, ANSWER, 0);
		close(link);
		count++;
	}
	told(count, count * ANSWER, 0, now() - begin);
}

int main(int many, char **word)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST }, *end_point;
	if (many < 5)
		return 2;
	hints.ai_socktype = strncmp(word[1], "udp", 3) ? SOCK_STREAM : SOCK_DGRAM;
	if (getaddrinfo(word[2], word[3], &hints, &end_point))
		return 2;
	signal(SIGTERM, end);
	signal(SIGPIPE, SIG_IGN);
	memset(body, 7, sizeof body);
	double seconds = atof(word[4]);
	long per_second = many > 5 ? atol(word[5]) : 0;
	if (!strcmp(word[1], "udp"))
		udp(end_point, seconds, per_second);
	else if (!strcmp(word[1], "udp-drain"))
		udp_drain(end_point, seconds);
	else if (!strcmp(word[1], "churn"))
		churn(end_point, seconds, per_second);
	else if (!strcmp(word[1], "churn-serve"))
		churn_serve(end_point, seconds);
	else
		return 2;
	return 0;
}
