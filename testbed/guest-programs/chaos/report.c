// SPDX-License-Identifier: Apache-2.0 OR MIT
/* What is printed: one JSON object per line. */
#include "chaos.h"

#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct counts counts;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char first_wrong[512] = "null", first_fault[256];
static uint64_t begun, last_progress, faults, pinned_most, merged_most;

uint64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + time.tv_nsec;
}

void nap_us(unsigned us)
{
	nanosleep(&(struct timespec){ .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000L }, NULL);
}

void fail(const char *format, ...)
{
	char text[256];
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	fprintf(stderr, "vnic-chaos: %s\n", text);
	exit(2);
}

/* A number from a file of "NAME: NUMBER" lines, or of a number alone. */
static uint64_t number_in(const char *path, const char *name)
{
	FILE *file = fopen(path, "re");
	uint64_t value = 0;
	char line[256];

	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)))
			value = strtoull(line + strlen(name), NULL, 10);
	fclose(file);
	return value;
}

static void sample(void)
{
	uint64_t pinned = number_in("/proc/self/status", "VmPin:");
	uint64_t merged = number_in("/proc/self/ksm_merging_pages", "");

	pinned_most = pinned > pinned_most ? pinned : pinned_most;
	merged_most = merged > merged_most ? merged : merged_most;
}

void report_ready(void)
{
	begun = last_progress = now_ns();
	printf("{\"event\":\"ready\",\"memory\":\"%s\",\"qps\":%d,\"lanes\":%d,\"cell_bytes\":%llu,\"longest\":%u}\n",
	       options.memory, options.qps, layout.lanes, (unsigned long long)layout.stride, layout.longest);
}

static uint64_t mutations(void)
{
	uint64_t sum = 0;

	for (int i = 0; i < MUTATIONS; i++)
		sum += mutators[i].done;
	return sum;
}

void report_progress(uint64_t bytes)
{
	if (now_ns() - last_progress < 1000000000u)
		return;
	last_progress = now_ns();
	sample();
	printf("{\"event\":\"progress\",\"seconds\":%.1f,\"rounds\":%llu,\"bytes_moved\":%llu,\"bytes_checked\":%llu,"
	       "\"wrong_bytes\":%llu,\"mutations\":%llu}\n",
	       (last_progress - begun) / 1e9, (unsigned long long)counts.rounds, (unsigned long long)bytes,
	       (unsigned long long)counts.bytes_checked, (unsigned long long)counts.wrong_bytes,
	       (unsigned long long)mutations());
}

void report_wrong(const char *where, const uint8_t *at, uint64_t offset, uint64_t expected, uint64_t found)
{
	pthread_mutex_lock(&lock);
	if (!strcmp(first_wrong, "null")) {
		bool inside = at >= memory.at && at < memory.at + memory.length;
		int cell = inside && layout.stride ? (int)((at - memory.at) / layout.stride) : -1;

		snprintf(first_wrong, sizeof(first_wrong),
			 "{\"where\":\"%s\",\"address\":\"%p\",\"cell\":%d,\"offset\":%llu,"
			 "\"expected\":\"%016llx\",\"found\":\"%016llx\",\"found_is\":\"%s\",\"seconds\":%.3f}",
			 where, (const void *)at, cell, (unsigned long long)offset, (unsigned long long)expected,
			 (unsigned long long)found, pattern_name(found), (now_ns() - begun) / 1e9);
		fprintf(stderr, "vnic-chaos: wrong: %s\n", first_wrong);
	}
	pthread_mutex_unlock(&lock);
}

void report_fault(const char *format, ...)
{
	va_list list;

	pthread_mutex_lock(&lock);
	if (!faults++) {
		va_start(list, format);
		vsnprintf(first_fault, sizeof(first_fault), format, list);
		va_end(list);
		fprintf(stderr, "vnic-chaos: fault: %s\n", first_fault);
	}
	pthread_mutex_unlock(&lock);
}

static void print_mutations(const char *name, bool refused)
{
	bool first = true;

	printf("\"%s\":{", name);
	for (int i = 0; i < MUTATIONS; i++) {
		uint64_t count = refused ? mutators[i].refused : mutators[i].done;

		if (!(options.cases & 1u << i))
			continue;
		printf("%s\"%s\":%llu", first ? "" : ",", mutators[i].name, (unsigned long long)count);
		first = false;
	}
	printf("},");
}

static void print_errors(void)
{
	bool first = true;

	printf("\"completion_errors\":[");
	for (int i = 1; i < 32; i++) {
		if (!counts.errors[i])
			continue;
		printf("%s{\"status\":%d,\"name\":\"%s\",\"count\":%llu}", first ? "" : ",", i,
		       ibv_wc_status_str(i), (unsigned long long)counts.errors[i]);
		first = false;
	}
	printf("],");
}

/* What a survivor may see: its peer's memory, address space or queue pair are gone, or the peer. */
static bool only_errors_of_death(void)
{
	for (int i = 1; i < 32; i++)
		if (counts.errors[i] && i != IBV_WC_WR_FLUSH_ERR && i != IBV_WC_REM_INV_REQ_ERR &&
		    i != IBV_WC_REM_ACCESS_ERR && i != IBV_WC_REM_OP_ERR && i != IBV_WC_RETRY_EXC_ERR)
			return false;
	return true;
}

static bool every_case_happened(void)
{
	for (int i = 0; i < MUTATIONS; i++)
		if (options.cases & 1u << i && !mutators[i].done) {
			report_fault("not once: %s", mutators[i].name);
			return false;
		}
	return true;
}

bool report_result(bool peer_died)
{
	static const char *const names[] = { "write", "write_imm", "read", "send", "fetch_add", "cmp_swap", "ack" };
	bool ok = !counts.wrong_bytes && !counts.lost && !counts.spurious;

	sample();
	if (options.expect_death)
		ok = ok && peer_died && counts.error_count && only_errors_of_death();
	else
		ok = ok && !peer_died && !counts.error_count && every_case_happened();
	ok = ok && !faults && counts.bytes_checked;
	printf("{\"event\":\"result\",\"seconds\":%.3f,\"operations\":{", (now_ns() - begun) / 1e9);
	for (int i = 0; i < OPS; i++)
		printf("\"%s\":%llu,", names[i], (unsigned long long)counts.ops[i]);
	printf("\"recv\":%llu},", (unsigned long long)counts.recv);
	printf("\"rounds\":%llu,\"bytes_moved\":%llu,\"bytes_checked\":%llu,\"wrong_bytes\":%llu,\"first_wrong\":%s,",
	       (unsigned long long)counts.rounds, (unsigned long long)counts.bytes_moved,
	       (unsigned long long)counts.bytes_checked, (unsigned long long)counts.wrong_bytes, first_wrong);
	printf("\"completions_expected\":%llu,\"completions_lost\":%llu,\"completions_spurious\":%llu,",
	       (unsigned long long)counts.expected, (unsigned long long)counts.lost,
	       (unsigned long long)counts.spurious);
	print_errors();
	print_mutations("mutations", false);
	print_mutations("mutations_refused", true);
	printf("\"faults\":%llu,\"first_fault\":\"%s\",\"peer_died\":%s,\"ksm_pages_max\":%llu,\"vm_pin_kb_max\":%llu,"
	       "\"ok\":%s}\n",
	       (unsigned long long)faults, first_fault, peer_died ? "true" : "false",
	       (unsigned long long)merged_most, (unsigned long long)pinned_most, ok ? "true" : "false");
	return ok;
}
