// SPDX-License-Identifier: Apache-2.0 OR MIT
/* From options to exit code. */
#include "chaos.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static unsigned until_death;

/* Ends the process in the middle of whatever the others do. */
static void *die(void *unused)
{
	(void)unused;
	for (unsigned i = 0; i < until_death; i++)
		nap_us(1000000);
	if (options.die == DIE_KILL)
		kill(getpid(), SIGKILL);
	_exit(0);
}

static void start_dying(void)
{
	pthread_t thread;

	if (options.die == DIE_NOT)
		return;
	until_death = options.seconds;
	options.seconds += 3600;
	if (pthread_create(&thread, NULL, die, NULL))
		fail("no thread");
}

int main(int argc, char **argv)
{
	bool died = false;

	setvbuf(stdout, NULL, _IOLBF, 0);
	options_parse(argc, argv);
	memory_make();
	mutate_choose();
	connect_open();
	link_.me = options.listens ? 0 : 1;
	wire_open(&link_.wire);
	connect_verbs();
	report_ready();
	if (options.overcommit) {
		overcommit_run();
		return report_result(false) ? 0 : 1;
	}
	bystander_start();
	mutate_start();
	start_dying();
	/* One thread does all the traffic; it needs no more than its share, but that at once. */
	setpriority(PRIO_PROCESS, gettid(), -5);
	died = traffic_run();
	bystander_stop();
	return report_result(died) ? 0 : 1;
}
