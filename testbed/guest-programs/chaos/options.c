// SPDX-License-Identifier: Apache-2.0 OR MIT
/* The command line. */
#include "chaos.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct options options = { .qps = 4, .buffer_mib = 64, .seconds = 10, .memory = "anon", .gid_index = -1 };

static void usage(FILE *to)
{
	fprintf(to,
		"vnic-chaos --device NAME --gid-index N (--listen PORT | --connect ADDRESS:PORT)\n"
		"  --qps N               queue pairs, 1 to %d (4)\n"
		"  --buffer-mib N        registered memory (64)\n"
		"  --seconds N           how long (10)\n"
		"  --seed N              of all choices, the same at both ends (0)\n"
		"  --memory KIND         anon, thp, shm, file:PATH, hugetlb-2m, hugetlb-1g, dax:PATH\n"
		"  --mutate none|all|CASE[,CASE...]   what is done to the memory meanwhile:\n"
		"                       ",
		MAX_QPS);
	for (int i = 0; i < MUTATIONS; i++)
		fprintf(to, " %s", mutators[i].name);
	fprintf(to, "\n"
		"  --access-on-demand    register with IBV_ACCESS_ON_DEMAND\n"
		"  --expect-death        the peer dies in the middle of it\n"
		"  --die kill|exit       be the one that does, after the seconds\n"
		"  --overcommit          one pass of WRITE and READ over the listening end's buffer,\n"
		"                        however long it takes\n"
		"  --corrupt [WHAT:]N    break something after N times, to see it reported:\n"
		"                        source, completion, bystander, snapshot\n"
		"Prints a JSON object per line. Returns 0 if all was well, 1 if not, 2 if it cannot run.\n");
}

static _Noreturn void refuse(const char *what, const char *value)
{
	fprintf(stderr, "vnic-chaos: %s: %s\n", what, value);
	usage(stderr);
	exit(2);
}

static uint64_t number(const char *name, const char *text, uint64_t least, uint64_t most)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-' || value < least || value > most)
		refuse(name, text);
	return value;
}

static void cases(char *text)
{
	if (!strcmp(text, "none"))
		return;
	for (char *word = strtok(text, ","); word; word = strtok(NULL, ",")) {
		int i = 0;

		if (!strcmp(word, "all")) {
			options.all = true;
			continue;
		}
		while (i < MUTATIONS && strcmp(word, mutators[i].name))
			i++;
		if (i == MUTATIONS)
			refuse("--mutate", word);
		options.cases |= 1u << i;
	}
	if (!options.cases && !options.all)
		refuse("--mutate", "nothing");
}

static void corrupt(const char *text)
{
	static const char *const what[] = { "", "source", "completion", "bystander", "snapshot" };
	const char *colon = strchr(text, ':');

	options.corrupt = CORRUPT_SOURCE;
	if (colon) {
		size_t length = colon - text;
		int i = CORRUPT_SOURCE;

		while (i <= CORRUPT_SNAPSHOT && (strlen(what[i]) != length || strncmp(text, what[i], length)))
			i++;
		if (i > CORRUPT_SNAPSHOT)
			refuse("--corrupt", text);
		options.corrupt = i;
		text = colon + 1;
	}
	options.corrupt_after = number("--corrupt", text, 1, UINT32_MAX);
}

static void connect_to(char *text)
{
	char *colon = strrchr(text, ':');

	if (!colon)
		refuse("--connect", text);
	*colon = 0;
	options.address = text;
	options.port = number("--connect", colon + 1, 1, 65535);
}

void options_parse(int argc, char **argv)
{
	enum { DEVICE = 1, GID, LISTEN, CONNECT, QPS, BUFFER, SECONDS, SEED, MEMORY, MUTATE, DEATH, DEMAND,
	       OVERCOMMIT, DIE, CORRUPT, HELP };
	static const struct option known[] = {
		{ "device", 1, 0, DEVICE }, { "gid-index", 1, 0, GID },
		{ "listen", 1, 0, LISTEN }, { "connect", 1, 0, CONNECT },
		{ "qps", 1, 0, QPS }, { "buffer-mib", 1, 0, BUFFER },
		{ "seconds", 1, 0, SECONDS }, { "seed", 1, 0, SEED },
		{ "memory", 1, 0, MEMORY }, { "mutate", 1, 0, MUTATE },
		{ "expect-death", 0, 0, DEATH }, { "access-on-demand", 0, 0, DEMAND },
		{ "overcommit", 0, 0, OVERCOMMIT }, { "die", 1, 0, DIE },
		{ "corrupt", 1, 0, CORRUPT }, { "help", 0, 0, HELP }, { 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case DEVICE: options.device = optarg; break;
		case GID: options.gid_index = number("--gid-index", optarg, 0, 65535); break;
		case LISTEN:
			options.listens = true;
			options.port = number("--listen", optarg, 1, 65535);
			break;
		case CONNECT: connect_to(optarg); break;
		case QPS: options.qps = number("--qps", optarg, 1, MAX_QPS); break;
		case BUFFER: options.buffer_mib = number("--buffer-mib", optarg, 1, 8192); break;
		case SECONDS: options.seconds = number("--seconds", optarg, 1, 86400); break;
		case SEED: options.seed = number("--seed", optarg, 0, UINT64_MAX); break;
		case MEMORY: options.memory = optarg; break;
		case MUTATE: cases(optarg); break;
		case DEATH: options.expect_death = true; break;
		case DEMAND: options.on_demand = true; break;
		case OVERCOMMIT: options.overcommit = true; break;
		case DIE:
			options.die = !strcmp(optarg, "kill") ? DIE_KILL : DIE_EXIT;
			if (options.die == DIE_EXIT && strcmp(optarg, "exit"))
				refuse("--die", optarg);
			break;
		case CORRUPT: corrupt(optarg); break;
		case HELP: usage(stdout); exit(0);
		default: usage(stderr); exit(2);
		}
	}
	if (optind < argc)
		refuse("not an option", argv[optind]);
	if (!options.device || options.gid_index < 0)
		refuse("missing", "--device or --gid-index");
	if (options.overcommit && (options.cases || options.all || options.expect_death || options.die))
		refuse("--overcommit", "neither mutates nor dies");
	if (options.listens == !!options.address)
		refuse("one of them", "--listen or --connect");
}
