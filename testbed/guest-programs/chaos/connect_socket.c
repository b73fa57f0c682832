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

static int listener;

static void begin_to_listen(const struct sockaddr_in *address)
{
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)) ||
	    bind(listener, (const struct sockaddr *)address, sizeof(*address)) || listen(listener, 1))
		fail("cannot listen on port %d: %s", options.port, strerror(errno));
	printf("{\"event\":\"listening\",\"port\":%d}\n", options.port);
}

void wire_open(struct wire *wire)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(options.port) };
	uint64_t until = now_ns() + 30000000000u;

	if (options.listens) {
		if (!listener)
			begin_to_listen(&address);
		wire->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (wire->fd < 0)
			fail("accept: %s", strerror(errno));
	} else {
		if (inet_pton(AF_INET, options.address, &address.sin_addr) != 1)
			fail("not an IPv4 address: %s", options.address);
		/* The other end may still be starting. */
		for (;;) {
			wire->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
			if (wire->fd < 0)
				fail("socket: %s", strerror(errno));
			if (!connect(wire->fd, (struct sockaddr *)&address, sizeof(address)))
				break;
			close(wire->fd);
			if (now_ns() > until)
				fail("cannot connect to %s port %d: %s", options.address, options.port, strerror(errno));
			nap_us(100000);
		}
	}
	setsockopt(wire->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
}

void wire_say(struct wire *wire, const char *format, ...)
{
	char line[2048];
	va_list list;
	int length;

	va_start(list, format);
	length = vsnprintf(line, sizeof(line), format, list);
	va_end(list);
	/* A peer that is gone is noticed where its answer is missed. */
	if (send(wire->fd, line, length, MSG_NOSIGNAL) != length)
		fprintf(stderr, "vnic-chaos: the peer does not listen\n");
}

/* The next whole line, NULL without a peer, "" after `milliseconds` without a line. */
static const char *line_within(struct wire *wire, int milliseconds)
{
	memmove(wire->buffer, wire->buffer + wire->taken, wire->filled - wire->taken);
	wire->filled -= wire->taken;
	wire->taken = 0;
	for (;;) {
		struct pollfd fd = { .fd = wire->fd, .events = POLLIN };
		char *end = memchr(wire->buffer, '\n', wire->filled);
		ssize_t got;

		if (end) {
			*end = 0;
			wire->taken = end + 1 - wire->buffer;
			return wire->buffer;
		}
		if (poll(&fd, 1, milliseconds) <= 0)
			return "";
		got = recv(wire->fd, wire->buffer + wire->filled, sizeof(wire->buffer) - wire->filled, 0);
		if (got <= 0)
			return NULL;
		wire->filled += got;
	}
}

const char *wire_hear(struct wire *wire)
{
	const char *line = line_within(wire, 120000);

	return line && *line ? line : NULL;
}

const char *wire_listen(struct wire *wire)
{
	return line_within(wire, 0);
}
