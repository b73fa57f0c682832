// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * Traffic that keeps the device busy and the processors of the guest nearly idle: the queue holds
 * enough for longer than the sleep between two looks at it.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <unistd.h>

#include "bench.h"

#define IN_FLIGHT 32

static struct {
	struct device *device;
	struct ibv_mr *from, *to;
	uint32_t length;
	_Atomic uint64_t done;
} traffic;

static void *keep_busy(void *unused)
{
	int under_way = 0;

	(void)unused;
	for (;;) {
		struct ibv_wc wc[IN_FLIGHT];
		int found;

		for (; under_way < IN_FLIGHT; under_way++)
			device_write(traffic.device, traffic.from, traffic.to, 0, traffic.length);
		found = ibv_poll_cq(traffic.device->cq, IN_FLIGHT, wc);
		for (int i = 0; i < found; i++)
			if (wc[i].status) {
				fprintf(stderr, "traffic: %s\n", ibv_wc_status_str(wc[i].status));
				errno = EIO;
				fail("traffic");
			}
		under_way -= found;
		atomic_fetch_add(&traffic.done, (uint64_t)found);
		nap(1);
	}
	return NULL;
}

uint64_t traffic_done(void)
{
	return atomic_load(&traffic.done);
}

void traffic_start(struct device *device, struct ibv_mr *from, uint32_t length)
{
	pthread_t thread;

	traffic.device = device;
	traffic.from = from;
	traffic.to = device_register(device, memory_map(length, true), length);
	traffic.length = length;
	if (!traffic.to)
		fail("ibv_reg_mr");
	errno = pthread_create(&thread, NULL, keep_busy, NULL);
	if (errno)
		fail("pthread_create");
	while (traffic_done() < IN_FLIGHT)
		nap(1);
}

void traffic_process(const char *name, int gid_index)
{
	const uint32_t length = 1 << 20;
	struct device device;
	struct ibv_mr *from;
	int begun[2];
	char byte = 0;

	if (pipe(begun))
		fail("pipe");
	switch (fork()) {
	case -1:
		fail("fork");
	case 0:
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		device = device_open(name, gid_index);
		device_connect(&device);
		from = device_register(&device, memory_map(length, true), length);
		if (!from)
			fail("ibv_reg_mr");
		traffic_start(&device, from, length);
		if (write(begun[1], &byte, 1) != 1)
			fail("pipe");
		for (;;)
			pause();
	}
	close(begun[1]);
	/* The other end closes without a byte if the process fails. */
	if (read(begun[0], &byte, 1) != 1)
		fail("traffic of another process");
}
