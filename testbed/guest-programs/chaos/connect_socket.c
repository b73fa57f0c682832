// SPDX-License-Identifier: Apache-2.0 OR MIT
/* Lines over TCP: what the two ends must tell each other before and after the traffic. */
#include "chaos.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[4096];
static size_t filled, taken;

static void accept_one(const struct sockaddr_in *address)
{
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)) ||
	    bind(listener, (const struct sockaddr *)address, sizeof(*address)) || listen(listener, 1))
		fail("cannot listen on port %d: %s", options.port, strerror(errno));
	printf("{\"event\":\"listening\",\"port\":%d}\n", options.port);
	link_.socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (link_.socket < 0)
		fail("accept: %s", strerror(errno));
	close(listener);
}

void connect_socket(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(options.port) };
	uint64_t until = now_ns() + 30000000000u;

	link_.me = options.listens ? 0 : 1;
	if (options.listens) {
		accept_one(&address);
	} else {
		if (inet_pton(AF_INET, options.address, &address.sin_addr) != 1)
			fail("not an IPv4 address: %s", options.address);
		/* The other end may still be starting. */
		for (;;) {
			link_.socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
			if (link_.socket < 0)
				fail("socket: %s", strerror(errno));
			if (!connect(link_.socket, (struct sockaddr *)&address, sizeof(address)))
				break;
			close(link_.socket);
			if (now_ns() > until)
				fail("cannot connect to %s port %d: %s", options.address, options.port, strerror(errno));
			nap_us(100000);
		}
	}
	setsockopt(link_.socket, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
}

void connect_say(const char *format, ...)
{
	char line[2048];
	va_list list;
	int length;

	va_start(list, format);
	length = vsnprintf(line, sizeof(line), format, list);
	va_end(list);
	/* A peer that is gone is noticed where its answer is missed. */
	if (send(link_.socket, line, length, MSG_NOSIGNAL) != length)
		fprintf(stderr, "vnic-chaos: the peer does not listen\n");
}

/* The next whole line, NULL without a peer, "" after `milliseconds` without a line. */
static const char *line_within(int milliseconds)
{
	memmove(buffer, buffer + taken, filled - taken);
	filled -= taken;
	taken = 0;
	for (;;) {
		struct pollfd fd = { .fd = link_.socket, .events = POLLIN };
		char *end = memchr(buffer, '\n', filled);
		ssize_t got;

		if (end) {
			*end = 0;
			taken = end + 1 - buffer;
			return buffer;
		}
		if (poll(&fd, 1, milliseconds) <= 0)
			return "";
		got = recv(link_.socket, buffer + filled, sizeof(buffer) - filled, 0);
		if (got <= 0)
			return NULL;
		filled += got;
	}
}

const char *connect_hear(void)
{
	const char *line = line_within(120000);

	return line && *line ? line : NULL;
}

const char *connect_listen(void)
{
	return line_within(0);
}
