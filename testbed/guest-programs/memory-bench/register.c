// SPDX-License-Identifier: Apache-2.0 OR MIT
/* register ... touched|untouched BYTES...: ibv_reg_mr and ibv_dereg_mr. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

/* A size that takes a device this long is registered fewer times. */
#define LONG 300000000u

#define SIZES 16

static struct size {
	const char *name;
	uint64_t length, spent;
	uint8_t *at;
	bool refused;
} sizes[SIZES];

/* Remembers a time, but for the first of all, which may load pages of programs; if that takes so long that
   it may stay the only one, it counts. */
static void took(struct size *size, const char *what, uint64_t ns, bool first)
{
	char key[64];

	size->spent += ns;
	snprintf(key, sizeof(key), "%s/%s", what, size->name);
	if (!first || size->spent > LONG / 2)
		sample(key, ns);
}

static void refuse(struct size *size, const char *what)
{
	char key[64];

	snprintf(key, sizeof(key), "%s/%s", what, size->name);
	none(key, strerror(errno));
	size->refused = true;
}

static void measure(struct device *device, struct size *size, bool touched, bool first)
{
	uint64_t start = now(), end;
	struct ibv_mr *mr = device_register(device, size->at, size->length);

	end = now();
	if (!mr) {
		int why = errno;

		refuse(size, "register");
		errno = why;
		return refuse(size, "deregister");
	}
	took(size, "register", end - start, first);
	start = now();
	errno = ibv_dereg_mr(mr);
	end = now();
	if (errno)
		fail("ibv_dereg_mr");
	took(size, "deregister", end - start, first);
	/* What pinning has touched is untouched again. */
	if (!touched && madvise(size->at, size->length, MADV_DONTNEED))
		fail("madvise");
}

/* Sizes take turns: what slows the machine down for a while slows all of them down. */
int measure_register(const char *name, int gid_index, int times, char **arguments)
{
	bool touched = !strcmp(arguments[0], "touched");
	struct device device = device_open(name, gid_index);
	int count = 0;

	for (char **word = arguments + 1; *word && count < SIZES; word++) {
		uint64_t length = strtoull(*word, NULL, 10);

		sizes[count++] = (struct size){
			.name = *word,
			.length = length,
			.at = memory_map(length, touched),
		};
	}
	for (int i = -1; i < times; i++)
		for (int n = 0; n < count; n++)
			if (!sizes[n].refused && sizes[n].spent < LONG)
				measure(&device, &sizes[n], touched, i < 0);
	return 0;
}
