// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The command line: vnic-memory-bench WHAT DEVICE GID_INDEX TIMES ARGUMENT... */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "bench.h"

static const struct {
	const char *name;
	int (*measure)(const char *name, int gid_index, int times, char **arguments);
} measures[] = {
	{ "register", measure_register },
	{ "touch", measure_touch },
	{ "invalidate", measure_invalidate },
	{ "regions", measure_regions },
};

void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "usage: %s WHAT DEVICE GID_INDEX TIMES ARGUMENT...\n", argv[0]);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	/* Pages are counted and taken away one by one. */
	if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0))
		fail("PR_SET_THP_DISABLE");
	for (size_t i = 0; i < sizeof(measures) / sizeof(*measures); i++)
		if (!strcmp(measures[i].name, argv[1])) {
			int status = measures[i].measure(argv[2], atoi(argv[3]), atoi(argv[4]), argv + 5);

			samples_print();
			print("end");
			/* The kernel takes everything back: quicker than object by object. */
			fflush(stdout);
			_Exit(status);
		}
	fprintf(stderr, "nothing is called %s\n", argv[1]);
	return 2;
}
